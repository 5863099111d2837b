"""The text of an exported C file, by parts; `$` marks what is filled in."""

from __future__ import annotations

HEAD = """/* $of, printed by gradnets_fast: f = grad F, points of $d numbers.
 *
 *   ${name}_gradient(x, f)    f(x)
 *   ${name}_potential(x)      F(x)
 *   ${name}_jacobian(x, J)    the symmetric Jacobian of f, $d x $d, row by row
 *   ${name}_inverse           where it is printed: x with f(x) = y; see there
 */
#include <math.h>

typedef $real real;

enum { D = $d };

void ${name}_gradient(const real *x, real *f);
real ${name}_potential(const real *x);
void ${name}_jacobian(const real *x, real *J);

#define sech_squared(x) (4 * exp$s(-2 * fabs$s(x)) / ((1 + exp$s(-2 * fabs$s(x))) * (1 + exp$s(-2 * fabs$s(x)))))

static real dot(const real *a, const real *b) {
    real sum = 0;
    for (int i = 0; i < D; ++i)
        sum += a[i] * b[i];
    return sum;
}

/* Adds factor times w to f, if there is an f. */
static void add(real *f, real factor, const real *w) {
    for (int i = 0; f && i < D; ++i)
        f[i] += factor * w[i];
}

/* Adds factor times the outer product of w with itself to the upper triangle of J, if there is a J. */
static void add_outer(real *J, real factor, const real *w) {
    for (int r = 0; J && r < D; ++r)
        for (int c = r; c < D; ++c)
            J[r * D + c] += factor * w[r] * w[c];
}"""

MIX = "b_{basis}(z, &b, &db), mixed += coef[l][{k}][j] * b, slopes += coef[l][{k}][j] * db;"

CASCADE = """
/* The profile of hidden unit j: z_0 = scale_0 u + shift_0, z_l = scale_l u + shift_l + sum_k coef_{l-1,k} b_k(z_{l-1}),
 * and its value is the last sum. */
static void profile(int j, real u, real *value, real *slope) {
    real z = 0, dz = 0, mixed = 0, slopes = 0;
    for (int l = 0; l < $layers; ++l) {
        real b, db;
        z = scale[l][j] * u + shift[l][j] + mixed;
        dz = scale[l][j] + slopes * dz;
        mixed = slopes = 0;
$mixed
    }
    *value = mixed;
    *slope = slopes * dz;
}"""

HEADS = """
/* The profile of hidden unit j: the sum over l and k of coef_lk b_k(scale_l u + shift_l). */
static void profile(int j, real u, real *value, real *slope) {
    *value = *slope = 0;
    for (int l = 0; l < $layers; ++l) {
        real mixed = 0, slopes = 0, b, db;
        const real z = scale[l][j] * u + shift[l][j];
$mixed
        *value += mixed;
        *slope += scale[l][j] * slopes;
    }
}"""

RISE = """
/* The integral of b(beta t + offset) over t from 0 to u: by a rule where the closed form would cancel. */
static real rise_$basis(real beta, real offset, real u) {
    if (fabs$s(beta * u) >= $near)
        return (i_$basis(beta * u + offset) - i_$basis(offset)) / beta;
    real sum = 0;
    for (int n = 0; n < $nodes; ++n) {
        real b, db;
        b_$basis(beta * (node[n] * u) + offset, &b, &db);
        sum += part[n] * b;
    }
    return sum * u;
}"""

CLOSED = """
/* The integral of the profile from 0 to u. */
static real integral(int j, real u) {
    real sum = 0;
    for (int l = 0; l < $layers; ++l)
        sum += $terms;
    return sum;
}"""

QUADRATURE = """
/* The integral of the profile from 0 to u, by 16 nodes of Gauss and Legendre in each of 8 panels. */
static real integral(int j, real u) {
    real sum = 0;
    for (int n = 0; n < $nodes; ++n) {
        real value, slope;
        profile(j, node[n] * u, &value, &slope);
        sum += part[n] * value;
    }
    return sum * u;
}"""

RIDGE = """
/* F = sum_j integral_j(w_j.x), with its gradient and the upper triangle of its Hessian. */
static real hidden(const real *x, int potential, real *f, real *J) {
    real F = 0;
    for (int j = 0; j < $h; ++j) {
        real value, slope;
        const real u = dot(W[j], x);
        profile(j, u, &value, &slope);
        add(f, value, W[j]);
        add_outer(J, slope, W[j]);
        if (potential)
            F += integral(j, u);
    }
    return F;
}"""

SOFTMAX = """
/* weight log sum exp(sign z) / temperature of module m, z = temperature (W x + b), with its gradient and Hessian. */
static real soft(int m, real sign, real weight, const real *x, real *f, real *J) {
    real z[$h], most = -INFINITY, sum = 0, mean[D] = {0};
    for (int j = 0; j < $h; ++j) {
        z[j] = sign * temperature[m] * (dot(W[m][j], x) + b[m][j]);
        most = z[j] > most ? z[j] : most;
    }
    for (int j = 0; j < $h; ++j)
        sum += z[j] = exp$s(z[j] - most);
    for (int j = 0; j < $h; ++j) {
        add(mean, z[j] / sum, W[m][j]);
        add_outer(J, weight * temperature[m] * z[j] / sum, W[m][j]);
    }
    add(f, sign * weight, mean);
    add_outer(J, -weight * temperature[m], mean);
    return weight * (most + log$s(sum)) / temperature[m];
}

/* F, the sum over modules, with its gradient and the upper triangle of its Hessian. */
static real hidden(const real *x, int potential, real *f, real *J) {
    real F = 0;
    (void)potential;
    for (int m = 0; m < $count; ++m) {
        F += soft(m, 1, positive[m], x, f, J);$signs
    }
    return F;
}"""

NEGATIVE = """
        F += soft(m, -1, negative[m], x, f, J);"""

TRANSFORMED = """
/* F = sum_m weight_m r(sum_j i(z_mj)), z = W x + b, with its gradient and the upper triangle of its Hessian. */
static real hidden(const real *x, int potential, real *f, real *J) {
    real F = 0;
    (void)potential;
    for (int m = 0; m < $count; ++m) {
        real value, first, second, b_of[$h], slope[$h], sum = 0, inner[D] = {0};
        for (int j = 0; j < $h; ++j) {
            const real z = dot(W[m][j], x) + b[m][j];
            b_$basis(z, &b_of[j], &slope[j]);
            sum += i_$basis(z);
            add(inner, b_of[j], W[m][j]);
        }
        r_$transform(sum, &value, &first, &second);
        F += weight[m] * value;
        add(f, weight[m] * first, inner);
        add_outer(J, weight[m] * second, inner);
        for (int j = 0; j < $h; ++j)
            add_outer(J, weight[m] * first * slope[j], W[m][j]);
    }
    return F;
}"""

PUBLIC = """

void ${name}_gradient(const real *x, real *f) {
    evaluate(x, 0, f, 0);
}

real ${name}_potential(const real *x) {
    return evaluate(x, 1, 0, 0);
}

void ${name}_jacobian(const real *x, real *J) {
    evaluate(x, 0, 0, J);
}
"""

INVERSE = """
/* J p = r for a positive definite J, whose lower triangle becomes its Cholesky factor; p takes the place of r.  Returns
 * whether it is positive definite. */
static int solve(real *J, real *r) {
    for (int i = 0; i < D; ++i) {
        for (int j = 0; j <= i; ++j) {
            real sum = J[i * D + j];
            for (int k = 0; k < j; ++k)
                sum -= J[i * D + k] * J[j * D + k];
            if (i == j && !(sum > 0))
                return 0;
            J[i * D + j] = i == j ? sqrt$s(sum) : sum / J[j * D + j];
        }
        for (int k = 0; k < i; ++k)
            r[i] -= J[i * D + k] * r[k];
        r[i] /= J[i * D + i];
    }
    for (int i = D - 1; i >= 0; --i) {
        for (int k = i + 1; k < D; ++k)
            r[i] -= J[k * D + i] * r[k];
        r[i] /= J[i * D + i];
    }
    return 1;
}

/* r = f(x) - y; returns its norm. */
static real residual(const real *x, const real *y, real *r, real *J) {
    evaluate(x, 0, r, J);
    add(r, -1, y);
    return sqrt$s(dot(r, r));
}

/* x becomes the point with f(x) = y, from where it is: at most `steps` Newton steps, each halved, 40 times at most,
 * until the residual falls.  Returns how many were made until |f(x) - y| <= tolerance, or -1. */
int ${name}_inverse(const real *y, real *x, real tolerance, int steps);
int ${name}_inverse(const real *y, real *x, real tolerance, int steps) {
    real r[D], J[D * D], next[D], after[D];
    real norm = residual(x, y, r, J);
    for (int n = 0; n <= steps; ++n) {
        real share = 1, found;
        if (norm <= tolerance)
            return n;
        if (n == steps || !solve(J, r))
            return -1;
        for (int halved = 0;; ++halved, share *= $half) {
            for (int i = 0; i < D; ++i)
                next[i] = x[i] - share * r[i];
            found = residual(next, y, after, 0);
            if (found < norm)
                break;
            if (halved == 40)
                return -1;
        }
        for (int i = 0; i < D; ++i)
            x[i] = next[i];
        norm = residual(x, y, r, J);
    }
    return -1;
}
"""


def entries(has_bias: bool, has_linear: bool) -> str:
    """Return `evaluate`, which adds the parts of f that are not hidden units'."""
    bias = "\n    F += dot(bias, x);\n    add(f, 1, bias);" if has_bias else ""
    linear = (
        """
    for (int r = 0; r < D; ++r) {
        F += $half * x[r] * dot(S[r], x);
        if (f)
            f[r] += dot(S[r], x);
        for (int c = r; J && c < D; ++c)
            J[r * D + c] += S[r][c];
    }"""
        if has_linear
        else ""
    )
    return f"""
/* F where it is wanted, and f and J where there is room for them. */
static real evaluate(const real *x, int potential, real *f, real *J) {{
    real F;
    for (int i = 0; f && i < D; ++i)
        f[i] = 0;
    for (int i = 0; J && i < D * D; ++i)
        J[i] = 0;
    F = hidden(x, potential, f, J);{bias}{linear}
    for (int r = 0; J && r < D; ++r)
        for (int c = 0; c < r; ++c)
            J[r * D + c] = J[c * D + r];
    return F;
}}
"""
