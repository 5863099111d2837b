// Printed by gradnets_fast/activations/codegen.py from spec.py and transforms.py. Do not edit.
#pragma once

#include "scalar_math.h"
#include "simd_math.h"

namespace gradnets::GRADNETS_ISA {

struct identity_basis {
    static constexpr int number = 0;
    static constexpr bool smooth = true;
    static constexpr bool straight = true;
    static constexpr double steepest = 1.0, sharpness = 0.0;
    template <class V>
    static GRADNETS_INLINE void antiderivative(V x, V &out) {
        out = broadcast<V>(0.5) * (x * x);
    }
    template <class V>
    static GRADNETS_INLINE void value(V x, V &out) {
        out = x;
    }
    template <class V>
    static GRADNETS_INLINE void value_first(V x, V &value, V &first) {
        value = x;
        first = broadcast<V>(1.0);
    }
    template <class V>
    static GRADNETS_INLINE void value_first_second(V x, V &value, V &first, V &second) {
        value = x;
        first = broadcast<V>(1.0);
        second = broadcast<V>(0.0);
    }
    template <class V>
    static GRADNETS_INLINE void value_to_third(V x, V &value, V &first, V &second, V &third) {
        value = x;
        first = broadcast<V>(1.0);
        second = broadcast<V>(0.0);
        third = broadcast<V>(0.0);
    }
};

struct tanh_basis {
    static constexpr int number = 1;
    static constexpr bool smooth = true;
    static constexpr bool straight = false;
    static constexpr double steepest = 1.0, sharpness = 0.6366197723675814;
    template <class V>
    static GRADNETS_INLINE void antiderivative(V x, V &out) {
        const auto t0 = absolute(x);
        const auto t1 = v_expm1(minimum(t0, broadcast<V>(1.0)));
        out = select(t0 < broadcast<V>(1.0), v_log1p(minimum((t1 * t1) / (broadcast<V>(2.0) * (broadcast<V>(1.0) + t1)), broadcast<V>(1.0))), (t0 + v_log1p(v_exp_bounded(broadcast<V>(-2.0) * t0))) - broadcast<V>(0.6931471805599453));
    }
    template <class V>
    static GRADNETS_INLINE void value(V x, V &out) {
        out = v_tanh(x);
    }
    template <class V>
    static GRADNETS_INLINE void value_first(V x, V &value, V &first) {
        value = v_tanh(x);
        first = v_sech_squared(x);
    }
    template <class V>
    static GRADNETS_INLINE void value_first_second(V x, V &value, V &first, V &second) {
        const auto t0 = v_tanh(x);
        const auto t1 = v_sech_squared(x);
        value = t0;
        first = t1;
        second = (broadcast<V>(-2.0) * t0) * t1;
    }
    template <class V>
    static GRADNETS_INLINE void value_to_third(V x, V &value, V &first, V &second, V &third) {
        const auto t0 = v_tanh(x);
        const auto t1 = v_sech_squared(x);
        value = t0;
        first = t1;
        second = (broadcast<V>(-2.0) * t0) * t1;
        third = t1 * ((broadcast<V>(4.0) * (t0 * t0)) - (broadcast<V>(2.0) * t1));
    }
};

struct sigmoid_basis {
    static constexpr int number = 2;
    static constexpr bool smooth = true;
    static constexpr bool straight = false;
    static constexpr double steepest = 0.25, sharpness = 0.3183098861837907;
    template <class V>
    static GRADNETS_INLINE void antiderivative(V x, V &out) {
        out = select(x > broadcast<V>(0.0), x, broadcast<V>(0.0)) + v_log1p(v_exp_bounded(-absolute(x)));
    }
    template <class V>
    static GRADNETS_INLINE void value(V x, V &out) {
        const auto t0 = v_exp_bounded(-absolute(x));
        const auto t1 = broadcast<V>(1.0) / (broadcast<V>(1.0) + t0);
        out = select(x < broadcast<V>(0.0), t0 * t1, t1);
    }
    template <class V>
    static GRADNETS_INLINE void value_first(V x, V &value, V &first) {
        const auto t0 = v_exp_bounded(-absolute(x));
        const auto t1 = broadcast<V>(1.0) / (broadcast<V>(1.0) + t0);
        const auto t2 = t0 * t1;
        value = select(x < broadcast<V>(0.0), t2, t1);
        first = t2 * t1;
    }
    template <class V>
    static GRADNETS_INLINE void value_first_second(V x, V &value, V &first, V &second) {
        const auto t0 = -absolute(x);
        const auto t1 = v_exp_bounded(t0);
        const auto t2 = broadcast<V>(1.0) / (broadcast<V>(1.0) + t1);
        const auto t3 = t1 * t2;
        const auto t4 = t3 * t2;
        const auto t5 = v_expm1(t0);
        value = select(x < broadcast<V>(0.0), t3, t2);
        first = t4;
        second = t4 * v_copysign(t5 / (broadcast<V>(2.0) + t5), -x);
    }
    template <class V>
    static GRADNETS_INLINE void value_to_third(V x, V &value, V &first, V &second, V &third) {
        const auto t0 = -absolute(x);
        const auto t1 = v_exp_bounded(t0);
        const auto t2 = broadcast<V>(1.0) / (broadcast<V>(1.0) + t1);
        const auto t3 = t1 * t2;
        const auto t4 = t3 * t2;
        const auto t5 = v_expm1(t0);
        const auto t6 = t5 / (broadcast<V>(2.0) + t5);
        value = select(x < broadcast<V>(0.0), t3, t2);
        first = t4;
        second = t4 * v_copysign(t6, -x);
        third = t4 * ((broadcast<V>(1.5) * (t6 * t6)) - broadcast<V>(0.5));
    }
};

struct softplus_basis {
    static constexpr int number = 3;
    static constexpr bool smooth = true;
    static constexpr bool straight = false;
    static constexpr double steepest = 1.0, sharpness = 0.3183098861837907;
    template <class V>
    static GRADNETS_INLINE void antiderivative(V x, V &out) {
        const auto t0 = v_log1p(v_exp_bounded(-absolute(x)));
        const auto t1 = t0 * t0;
        const auto t2 = (t0 * (broadcast<V>(1.0) + (broadcast<V>(0.25) * t0))) + ((t1 * t0) * polynomial<4>(t1, {0.027777777777777776, -0.0002777777777777778, 4.72411186696901e-06, -9.185773074661964e-08, 1.8978869988971e-09, -4.0647616451442256e-11, 8.921691020456452e-13, -1.9939295860721074e-14, 4.518980029619918e-16, -1.0356517612181247e-17}));
        out = select(x > broadcast<V>(0.0), (broadcast<V>(0.5) * (x * x)) + (broadcast<V>(1.6449340668482264) - t2), t2);
    }
    template <class V>
    static GRADNETS_INLINE void value(V x, V &out) {
        out = select(x > broadcast<V>(0.0), x, broadcast<V>(0.0)) + v_log1p(v_exp_bounded(-absolute(x)));
    }
    template <class V>
    static GRADNETS_INLINE void value_first(V x, V &value, V &first) {
        const auto t0 = v_exp_bounded(-absolute(x));
        const auto t1 = broadcast<V>(1.0) / (broadcast<V>(1.0) + t0);
        value = select(x > broadcast<V>(0.0), x, broadcast<V>(0.0)) + v_log1p(t0);
        first = select(x < broadcast<V>(0.0), t0 * t1, t1);
    }
    template <class V>
    static GRADNETS_INLINE void value_first_second(V x, V &value, V &first, V &second) {
        const auto t0 = v_exp_bounded(-absolute(x));
        const auto t1 = broadcast<V>(1.0) / (broadcast<V>(1.0) + t0);
        const auto t2 = t0 * t1;
        value = select(x > broadcast<V>(0.0), x, broadcast<V>(0.0)) + v_log1p(t0);
        first = select(x < broadcast<V>(0.0), t2, t1);
        second = t2 * t1;
    }
    template <class V>
    static GRADNETS_INLINE void value_to_third(V x, V &value, V &first, V &second, V &third) {
        const auto t0 = -absolute(x);
        const auto t1 = v_exp_bounded(t0);
        const auto t2 = broadcast<V>(1.0) / (broadcast<V>(1.0) + t1);
        const auto t3 = t1 * t2;
        const auto t4 = t3 * t2;
        const auto t5 = v_expm1(t0);
        value = select(x > broadcast<V>(0.0), x, broadcast<V>(0.0)) + v_log1p(t1);
        first = select(x < broadcast<V>(0.0), t3, t2);
        second = t4;
        third = t4 * v_copysign(t5 / (broadcast<V>(2.0) + t5), -x);
    }
};

struct relu_basis {
    static constexpr int number = 4;
    static constexpr bool smooth = false;
    static constexpr double kink = 0.0;
    static constexpr bool straight = true;
    static constexpr double steepest = 1.0, sharpness = 0.0;
    template <class V>
    static GRADNETS_INLINE void antiderivative(V x, V &out) {
        const auto t0 = select(x <= broadcast<V>(0.0), broadcast<V>(0.0), x);
        out = broadcast<V>(0.5) * (t0 * t0);
    }
    template <class V>
    static GRADNETS_INLINE void value(V x, V &out) {
        out = select(x <= broadcast<V>(0.0), broadcast<V>(0.0), x);
    }
    template <class V>
    static GRADNETS_INLINE void value_first(V x, V &value, V &first) {
        value = select(x <= broadcast<V>(0.0), broadcast<V>(0.0), x);
        first = select(x > broadcast<V>(0.0), broadcast<V>(1.0), broadcast<V>(0.0));
    }
    template <class V>
    static GRADNETS_INLINE void value_first_second(V x, V &value, V &first, V &second) {
        value = select(x <= broadcast<V>(0.0), broadcast<V>(0.0), x);
        first = select(x > broadcast<V>(0.0), broadcast<V>(1.0), broadcast<V>(0.0));
        second = broadcast<V>(0.0);
    }
    template <class V>
    static GRADNETS_INLINE void value_to_third(V x, V &value, V &first, V &second, V &third) {
        value = select(x <= broadcast<V>(0.0), broadcast<V>(0.0), x);
        first = select(x > broadcast<V>(0.0), broadcast<V>(1.0), broadcast<V>(0.0));
        second = broadcast<V>(0.0);
        third = broadcast<V>(0.0);
    }
};

struct elu_basis {
    static constexpr int number = 5;
    static constexpr bool smooth = false;
    static constexpr double kink = 0.0;
    static constexpr bool straight = false;
    static constexpr double steepest = 1.0, sharpness = 1.0;
    template <class V>
    static GRADNETS_INLINE void antiderivative(V x, V &out) {
        const auto t0 = minimum(x, broadcast<V>(0.0));
        const auto t1 = minimum(-t0, broadcast<V>(1.0));
        out = select(x > broadcast<V>(0.0), broadcast<V>(0.5) * (x * x), select(t0 > broadcast<V>(-1.0), (t1 * t1) * polynomial<10>(-t1, {0.5, 0.16666666666666666, 0.041666666666666664, 0.008333333333333333, 0.001388888888888889, 0.0001984126984126984, 2.48015873015873e-05, 2.7557319223985893e-06, 2.755731922398589e-07, 2.505210838544172e-08, 2.08767569878681e-09, 1.6059043836821613e-10, 1.1470745597729725e-11, 7.647163731819816e-13, 4.779477332387385e-14, 2.8114572543455206e-15, 1.5619206968586225e-16, 8.22063524662433e-18}), v_expm1(t0) - t0));
    }
    template <class V>
    static GRADNETS_INLINE void value(V x, V &out) {
        out = select(x > broadcast<V>(0.0), x, v_expm1(minimum(x, broadcast<V>(0.0))));
    }
    template <class V>
    static GRADNETS_INLINE void value_first(V x, V &value, V &first) {
        const auto t0 = x > broadcast<V>(0.0);
        const auto t1 = minimum(x, broadcast<V>(0.0));
        value = select(t0, x, v_expm1(t1));
        first = select(t0, broadcast<V>(1.0), v_exp_bounded(t1));
    }
    template <class V>
    static GRADNETS_INLINE void value_first_second(V x, V &value, V &first, V &second) {
        const auto t0 = x > broadcast<V>(0.0);
        const auto t1 = minimum(x, broadcast<V>(0.0));
        const auto t2 = v_exp_bounded(t1);
        value = select(t0, x, v_expm1(t1));
        first = select(t0, broadcast<V>(1.0), t2);
        second = select(x < broadcast<V>(0.0), t2, broadcast<V>(0.0));
    }
    template <class V>
    static GRADNETS_INLINE void value_to_third(V x, V &value, V &first, V &second, V &third) {
        const auto t0 = x > broadcast<V>(0.0);
        const auto t1 = minimum(x, broadcast<V>(0.0));
        const auto t2 = v_exp_bounded(t1);
        const auto t3 = select(x < broadcast<V>(0.0), t2, broadcast<V>(0.0));
        value = select(t0, x, v_expm1(t1));
        first = select(t0, broadcast<V>(1.0), t2);
        second = t3;
        third = t3;
    }
};

struct silu_basis {
    static constexpr int number = 6;
    static constexpr bool smooth = true;
    static constexpr bool straight = false;
    static constexpr double steepest = 1.0998393201288668, sharpness = 0.3183098861837907;
    template <class V>
    static GRADNETS_INLINE void antiderivative(V x, V &out) {
        const auto t0 = absolute(x);
        const auto t1 = v_copysign(minimum(t0, broadcast<V>(1.0)), x);
        const auto t2 = x > broadcast<V>(0.0);
        const auto t3 = v_log1p(v_exp_bounded(-t0));
        const auto t4 = t3 * t3;
        const auto t5 = broadcast<V>(0.8224670334241132) - ((t3 * (broadcast<V>(1.0) + (broadcast<V>(0.25) * t3))) + ((t4 * t3) * polynomial<4>(t4, {0.027777777777777776, -0.0002777777777777778, 4.72411186696901e-06, -9.185773074661964e-08, 1.8978869988971e-09, -4.0647616451442256e-11, 8.921691020456452e-13, -1.9939295860721074e-14, 4.518980029619918e-16, -1.0356517612181247e-17})));
        out = select(t0 < broadcast<V>(1.0), (x * x) * (broadcast<V>(0.25) + (t1 * polynomial<8>(t1 * t1, {0.08333333333333333, -0.004166666666666667, 0.00029761904761904765, -2.3423721340388008e-05, 1.9415383998717333e-06, -1.6645198936865603e-07, 1.4616406398813807e-08, -1.3067217542323558e-09, 1.1846189819046541e-10, -1.0859585455192951e-11, 1.0046272647825998e-12, -9.364682169751366e-14, 8.785561869171463e-15, -8.287729394404321e-16, 7.855469034356079e-17, -7.476875163462813e-18, 7.142763648504467e-19, -6.845936312712905e-20, 6.5806717186494664e-21, -6.342364990271615e-22, 6.127268149801817e-23}))), (x * (select(t2, broadcast<V>(0.5) * x, broadcast<V>(0.0)) + t3)) + select(t2, -t5, t5));
    }
    template <class V>
    static GRADNETS_INLINE void value(V x, V &out) {
        const auto t0 = v_exp_bounded(-absolute(x));
        const auto t1 = broadcast<V>(1.0) / (broadcast<V>(1.0) + t0);
        out = x * select(x < broadcast<V>(0.0), t0 * t1, t1);
    }
    template <class V>
    static GRADNETS_INLINE void value_first(V x, V &value, V &first) {
        const auto t0 = x < broadcast<V>(0.0);
        const auto t1 = v_exp_bounded(-absolute(x));
        const auto t2 = broadcast<V>(1.0) / (broadcast<V>(1.0) + t1);
        const auto t3 = t1 * t2;
        const auto t4 = select(t0, t3, t2);
        value = x * t4;
        first = t4 * (broadcast<V>(1.0) + (x * select(t0, t2, t3)));
    }
    template <class V>
    static GRADNETS_INLINE void value_first_second(V x, V &value, V &first, V &second) {
        const auto t0 = x < broadcast<V>(0.0);
        const auto t1 = -absolute(x);
        const auto t2 = v_exp_bounded(t1);
        const auto t3 = broadcast<V>(1.0) / (broadcast<V>(1.0) + t2);
        const auto t4 = t2 * t3;
        const auto t5 = select(t0, t4, t3);
        const auto t6 = v_expm1(t1);
        value = x * t5;
        first = t5 * (broadcast<V>(1.0) + (x * select(t0, t3, t4)));
        second = (t4 * t3) * (broadcast<V>(2.0) + (x * v_copysign(t6 / (broadcast<V>(2.0) + t6), -x)));
    }
    template <class V>
    static GRADNETS_INLINE void value_to_third(V x, V &value, V &first, V &second, V &third) {
        const auto t0 = x < broadcast<V>(0.0);
        const auto t1 = -absolute(x);
        const auto t2 = v_exp_bounded(t1);
        const auto t3 = broadcast<V>(1.0) / (broadcast<V>(1.0) + t2);
        const auto t4 = t2 * t3;
        const auto t5 = select(t0, t4, t3);
        const auto t6 = t4 * t3;
        const auto t7 = v_expm1(t1);
        const auto t8 = t7 / (broadcast<V>(2.0) + t7);
        const auto t9 = v_copysign(t8, -x);
        value = x * t5;
        first = t5 * (broadcast<V>(1.0) + (x * select(t0, t3, t4)));
        second = t6 * (broadcast<V>(2.0) + (x * t9));
        third = (broadcast<V>(3.0) * (t6 * t9)) + (x * (t6 * ((broadcast<V>(1.5) * (t8 * t8)) - broadcast<V>(0.5))));
    }
};

struct gelu_basis {
    static constexpr int number = 7;
    static constexpr bool smooth = true;
    static constexpr bool straight = false;
    static constexpr double steepest = 1.128904145185155, sharpness = 0.6666666666666666;
    template <class V>
    static GRADNETS_INLINE void antiderivative(V x, V &out) {
        const auto t0 = absolute(x);
        const auto t1 = v_copysign(minimum(t0, broadcast<V>(1.0)), x);
        const auto t2 = -minimum(-x, broadcast<V>(40.0));
        const auto t3 = minimum(t0, broadcast<V>(40.0));
        out = select(t0 < broadcast<V>(1.0), (x * x) * (broadcast<V>(0.25) + (t1 * polynomial<8>(t1 * t1, {0.1329807601338109, -0.013298076013381087, 0.001424793858576546, -0.00013192535727560604, 1.0494062510559568e-05, -7.265120199618165e-07, 4.439795677544436e-08, -2.425098479330993e-09, 1.196594644406739e-10, -5.3815103055329654e-12, 2.2227977348940463e-13, -8.487045896868175e-15, 3.0123774016661827e-16, -9.9879887323149e-18, 3.106862854521921e-19, -9.100911392033905e-21, 2.5190022602951005e-22, -6.6078755635721996e-24, 1.647262426816434e-25}))), (broadcast<V>(0.5) * ((((t2 * t2) - broadcast<V>(1.0)) * (broadcast<V>(0.5) * v_erfc(broadcast<V>(-0.7071067811865476) * x))) + (t2 * (v_exp_bounded(broadcast<V>(-0.5) * (t3 * t3)) * broadcast<V>(0.3989422804014327))))) + broadcast<V>(0.25));
    }
    template <class V>
    static GRADNETS_INLINE void value(V x, V &out) {
        out = x * (broadcast<V>(0.5) * v_erfc(broadcast<V>(-0.7071067811865476) * x));
    }
    template <class V>
    static GRADNETS_INLINE void value_first(V x, V &value, V &first) {
        const auto t0 = broadcast<V>(0.5) * v_erfc(broadcast<V>(-0.7071067811865476) * x);
        const auto t1 = minimum(absolute(x), broadcast<V>(40.0));
        value = x * t0;
        first = t0 + (x * (v_exp_bounded(broadcast<V>(-0.5) * (t1 * t1)) * broadcast<V>(0.3989422804014327)));
    }
    template <class V>
    static GRADNETS_INLINE void value_first_second(V x, V &value, V &first, V &second) {
        const auto t0 = broadcast<V>(0.5) * v_erfc(broadcast<V>(-0.7071067811865476) * x);
        const auto t1 = minimum(absolute(x), broadcast<V>(40.0));
        const auto t2 = t1 * t1;
        const auto t3 = v_exp_bounded(broadcast<V>(-0.5) * t2) * broadcast<V>(0.3989422804014327);
        value = x * t0;
        first = t0 + (x * t3);
        second = t3 * (broadcast<V>(2.0) - t2);
    }
    template <class V>
    static GRADNETS_INLINE void value_to_third(V x, V &value, V &first, V &second, V &third) {
        const auto t0 = broadcast<V>(0.5) * v_erfc(broadcast<V>(-0.7071067811865476) * x);
        const auto t1 = minimum(absolute(x), broadcast<V>(40.0));
        const auto t2 = t1 * t1;
        const auto t3 = v_exp_bounded(broadcast<V>(-0.5) * t2) * broadcast<V>(0.3989422804014327);
        value = x * t0;
        first = t0 + (x * t3);
        second = t3 * (broadcast<V>(2.0) - t2);
        third = t3 * (v_copysign(t1, x) * (t2 - broadcast<V>(4.0)));
    }
};

struct sin_basis {
    static constexpr int number = 8;
    static constexpr bool smooth = true;
    static constexpr bool straight = false;
    static constexpr double steepest = 1.0, sharpness = 0.6666666666666666;
    template <class V>
    static GRADNETS_INLINE void antiderivative(V x, V &out) {
        const auto t0 = v_sin(broadcast<V>(0.5) * x);
        out = broadcast<V>(2.0) * (t0 * t0);
    }
    template <class V>
    static GRADNETS_INLINE void value(V x, V &out) {
        out = v_sin(x);
    }
    template <class V>
    static GRADNETS_INLINE void value_first(V x, V &value, V &first) {
        value = v_sin(x);
        first = v_cos(x);
    }
    template <class V>
    static GRADNETS_INLINE void value_first_second(V x, V &value, V &first, V &second) {
        const auto t0 = v_sin(x);
        value = t0;
        first = v_cos(x);
        second = -t0;
    }
    template <class V>
    static GRADNETS_INLINE void value_to_third(V x, V &value, V &first, V &second, V &third) {
        const auto t0 = v_sin(x);
        const auto t1 = v_cos(x);
        value = t0;
        first = t1;
        second = -t0;
        third = -t1;
    }
};

struct arctan_basis {
    static constexpr int number = 9;
    static constexpr bool smooth = true;
    static constexpr bool straight = false;
    static constexpr double steepest = 1.0, sharpness = 1.0;
    template <class V>
    static GRADNETS_INLINE void antiderivative(V x, V &out) {
        const auto t0 = absolute(x);
        const auto t1 = t0 > broadcast<V>(1.0);
        const auto t2 = select(t1, t0, broadcast<V>(1.0));
        const auto t3 = select(t1, broadcast<V>(1.0) / t2, t0);
        out = (x * v_atan(x)) - (v_log(t2) + (broadcast<V>(0.5) * v_log1p(t3 * t3)));
    }
    template <class V>
    static GRADNETS_INLINE void value(V x, V &out) {
        out = v_atan(x);
    }
    template <class V>
    static GRADNETS_INLINE void value_first(V x, V &value, V &first) {
        const auto t0 = absolute(x);
        const auto t1 = t0 > broadcast<V>(1.0);
        const auto t2 = select(t1, broadcast<V>(1.0) / select(t1, t0, broadcast<V>(1.0)), t0);
        const auto t3 = t2 * t2;
        value = v_atan(x);
        first = select(t1, t3, broadcast<V>(1.0)) / (broadcast<V>(1.0) + t3);
    }
    template <class V>
    static GRADNETS_INLINE void value_first_second(V x, V &value, V &first, V &second) {
        const auto t0 = absolute(x);
        const auto t1 = t0 > broadcast<V>(1.0);
        const auto t2 = select(t1, broadcast<V>(1.0) / select(t1, t0, broadcast<V>(1.0)), t0);
        const auto t3 = t2 * t2;
        const auto t4 = broadcast<V>(1.0) + t3;
        const auto t5 = select(t1, t3, broadcast<V>(1.0)) / t4;
        value = v_atan(x);
        first = t5;
        second = (broadcast<V>(-2.0) * t5) * v_copysign(t2 / t4, x);
    }
    template <class V>
    static GRADNETS_INLINE void value_to_third(V x, V &value, V &first, V &second, V &third) {
        const auto t0 = absolute(x);
        const auto t1 = t0 > broadcast<V>(1.0);
        const auto t2 = select(t1, broadcast<V>(1.0) / select(t1, t0, broadcast<V>(1.0)), t0);
        const auto t3 = t2 * t2;
        const auto t4 = broadcast<V>(1.0) + t3;
        const auto t5 = select(t1, t3, broadcast<V>(1.0)) / t4;
        value = v_atan(x);
        first = t5;
        second = (broadcast<V>(-2.0) * t5) * v_copysign(t2 / t4, x);
        third = (t5 * t5) * ((broadcast<V>(8.0) * (select(t1, broadcast<V>(1.0), t3) / t4)) - broadcast<V>(2.0));
    }
};

struct softsign_basis {
    static constexpr int number = 10;
    static constexpr bool smooth = false;
    static constexpr double kink = 0.0;
    static constexpr bool straight = false;
    static constexpr double steepest = 1.0, sharpness = 2.0;
    template <class V>
    static GRADNETS_INLINE void antiderivative(V x, V &out) {
        const auto t0 = absolute(x);
        const auto t1 = minimum(t0, broadcast<V>(1.0));
        const auto t2 = t1 / (broadcast<V>(2.0) + t1);
        const auto t3 = t2 * t2;
        out = select(t0 < broadcast<V>(1.0), (t1 * t2) - ((t3 * t2) * polynomial<8>(t3, {0.6666666666666666, 0.4, 0.2857142857142857, 0.2222222222222222, 0.18181818181818182, 0.15384615384615385, 0.13333333333333333, 0.11764705882352941, 0.10526315789473684, 0.09523809523809523, 0.08695652173913043, 0.08, 0.07407407407407407, 0.06896551724137931, 0.06451612903225806, 0.06060606060606061})), t0 - v_log(broadcast<V>(1.0) + t0));
    }
    template <class V>
    static GRADNETS_INLINE void value(V x, V &out) {
        out = x / (broadcast<V>(1.0) + absolute(x));
    }
    template <class V>
    static GRADNETS_INLINE void value_first(V x, V &value, V &first) {
        const auto t0 = broadcast<V>(1.0) + absolute(x);
        value = x / t0;
        first = broadcast<V>(1.0) / (t0 * t0);
    }
    template <class V>
    static GRADNETS_INLINE void value_first_second(V x, V &value, V &first, V &second) {
        const auto t0 = broadcast<V>(1.0) + absolute(x);
        const auto t1 = t0 * t0;
        value = x / t0;
        first = broadcast<V>(1.0) / t1;
        second = (broadcast<V>(-2.0) * select(x < broadcast<V>(0.0), broadcast<V>(-1.0), select(x > broadcast<V>(0.0), broadcast<V>(1.0), broadcast<V>(0.0)))) / (t1 * t0);
    }
    template <class V>
    static GRADNETS_INLINE void value_to_third(V x, V &value, V &first, V &second, V &third) {
        const auto t0 = broadcast<V>(1.0) + absolute(x);
        const auto t1 = t0 * t0;
        const auto t2 = select(x < broadcast<V>(0.0), broadcast<V>(-1.0), select(x > broadcast<V>(0.0), broadcast<V>(1.0), broadcast<V>(0.0)));
        const auto t3 = t1 * t0;
        value = x / t0;
        first = broadcast<V>(1.0) / t1;
        second = (broadcast<V>(-2.0) * t2) / t3;
        third = (broadcast<V>(6.0) * absolute(t2)) / (t3 * t0);
    }
};

struct erf_basis {
    static constexpr int number = 11;
    static constexpr bool smooth = true;
    static constexpr bool straight = false;
    static constexpr double steepest = 1.1283791670955126, sharpness = 0.6666666666666666;
    template <class V>
    static GRADNETS_INLINE void antiderivative(V x, V &out) {
        out = (x * v_erf(x)) + (broadcast<V>(0.5641895835477563) * v_expm1(-(x * x)));
    }
    template <class V>
    static GRADNETS_INLINE void value(V x, V &out) {
        out = v_erf(x);
    }
    template <class V>
    static GRADNETS_INLINE void value_first(V x, V &value, V &first) {
        value = v_erf(x);
        first = broadcast<V>(1.1283791670955126) * v_exp_bounded(-(x * x));
    }
    template <class V>
    static GRADNETS_INLINE void value_first_second(V x, V &value, V &first, V &second) {
        const auto t0 = broadcast<V>(1.1283791670955126) * v_exp_bounded(-(x * x));
        value = v_erf(x);
        first = t0;
        second = (broadcast<V>(-2.0) * t0) * x;
    }
    template <class V>
    static GRADNETS_INLINE void value_to_third(V x, V &value, V &first, V &second, V &third) {
        const auto t0 = broadcast<V>(1.1283791670955126) * v_exp_bounded(-(x * x));
        const auto t1 = minimum(absolute(x), broadcast<V>(40.0));
        value = v_erf(x);
        first = t0;
        second = (broadcast<V>(-2.0) * t0) * x;
        third = t0 * ((broadcast<V>(4.0) * (t1 * t1)) - broadcast<V>(2.0));
    }
};

struct softshrink_basis {
    static constexpr int number = 12;
    static constexpr bool smooth = false;
    static constexpr double kink = 0.5;
    static constexpr bool straight = true;
    static constexpr double steepest = 1.0, sharpness = 0.0;
    template <class V>
    static GRADNETS_INLINE void antiderivative(V x, V &out) {
        const auto t0 = select(absolute(x) <= broadcast<V>(0.5), broadcast<V>(0.0), x - v_copysign(broadcast<V>(0.5), x));
        out = broadcast<V>(0.5) * (t0 * t0);
    }
    template <class V>
    static GRADNETS_INLINE void value(V x, V &out) {
        out = select(absolute(x) <= broadcast<V>(0.5), broadcast<V>(0.0), x - v_copysign(broadcast<V>(0.5), x));
    }
    template <class V>
    static GRADNETS_INLINE void value_first(V x, V &value, V &first) {
        const auto t0 = absolute(x) <= broadcast<V>(0.5);
        value = select(t0, broadcast<V>(0.0), x - v_copysign(broadcast<V>(0.5), x));
        first = select(t0, broadcast<V>(0.0), broadcast<V>(1.0));
    }
    template <class V>
    static GRADNETS_INLINE void value_first_second(V x, V &value, V &first, V &second) {
        const auto t0 = absolute(x) <= broadcast<V>(0.5);
        value = select(t0, broadcast<V>(0.0), x - v_copysign(broadcast<V>(0.5), x));
        first = select(t0, broadcast<V>(0.0), broadcast<V>(1.0));
        second = broadcast<V>(0.0);
    }
    template <class V>
    static GRADNETS_INLINE void value_to_third(V x, V &value, V &first, V &second, V &third) {
        const auto t0 = absolute(x) <= broadcast<V>(0.5);
        value = select(t0, broadcast<V>(0.0), x - v_copysign(broadcast<V>(0.5), x));
        first = select(t0, broadcast<V>(0.0), broadcast<V>(1.0));
        second = broadcast<V>(0.0);
        third = broadcast<V>(0.0);
    }
};

struct hardtanh_basis {
    static constexpr int number = 13;
    static constexpr bool smooth = false;
    static constexpr double kink = 1.0;
    static constexpr bool straight = true;
    static constexpr double steepest = 1.0, sharpness = 0.0;
    template <class V>
    static GRADNETS_INLINE void antiderivative(V x, V &out) {
        const auto t0 = absolute(x);
        out = select(t0 > broadcast<V>(1.0), t0 - broadcast<V>(0.5), broadcast<V>(0.5) * (x * x));
    }
    template <class V>
    static GRADNETS_INLINE void value(V x, V &out) {
        out = select(x > broadcast<V>(1.0), broadcast<V>(1.0), select(x < broadcast<V>(-1.0), broadcast<V>(-1.0), x));
    }
    template <class V>
    static GRADNETS_INLINE void value_first(V x, V &value, V &first) {
        value = select(x > broadcast<V>(1.0), broadcast<V>(1.0), select(x < broadcast<V>(-1.0), broadcast<V>(-1.0), x));
        first = select(absolute(x) < broadcast<V>(1.0), broadcast<V>(1.0), broadcast<V>(0.0));
    }
    template <class V>
    static GRADNETS_INLINE void value_first_second(V x, V &value, V &first, V &second) {
        value = select(x > broadcast<V>(1.0), broadcast<V>(1.0), select(x < broadcast<V>(-1.0), broadcast<V>(-1.0), x));
        first = select(absolute(x) < broadcast<V>(1.0), broadcast<V>(1.0), broadcast<V>(0.0));
        second = broadcast<V>(0.0);
    }
    template <class V>
    static GRADNETS_INLINE void value_to_third(V x, V &value, V &first, V &second, V &third) {
        value = select(x > broadcast<V>(1.0), broadcast<V>(1.0), select(x < broadcast<V>(-1.0), broadcast<V>(-1.0), x));
        first = select(absolute(x) < broadcast<V>(1.0), broadcast<V>(1.0), broadcast<V>(0.0));
        second = broadcast<V>(0.0);
        third = broadcast<V>(0.0);
    }
};

struct hardsigmoid_basis {
    static constexpr int number = 14;
    static constexpr bool smooth = false;
    static constexpr double kink = 3.0;
    static constexpr bool straight = true;
    static constexpr double steepest = 0.16666666666666666, sharpness = 0.0;
    template <class V>
    static GRADNETS_INLINE void antiderivative(V x, V &out) {
        const auto t0 = x + broadcast<V>(3.0);
        out = select(x > broadcast<V>(3.0), x, select(x < broadcast<V>(-3.0), broadcast<V>(0.0), broadcast<V>(0.08333333333333333) * (t0 * t0)));
    }
    template <class V>
    static GRADNETS_INLINE void value(V x, V &out) {
        out = select(x > broadcast<V>(3.0), broadcast<V>(1.0), select(x < broadcast<V>(-3.0), broadcast<V>(0.0), broadcast<V>(0.16666666666666666) * (x + broadcast<V>(3.0))));
    }
    template <class V>
    static GRADNETS_INLINE void value_first(V x, V &value, V &first) {
        value = select(x > broadcast<V>(3.0), broadcast<V>(1.0), select(x < broadcast<V>(-3.0), broadcast<V>(0.0), broadcast<V>(0.16666666666666666) * (x + broadcast<V>(3.0))));
        first = select(absolute(x) < broadcast<V>(3.0), broadcast<V>(0.16666666666666666), broadcast<V>(0.0));
    }
    template <class V>
    static GRADNETS_INLINE void value_first_second(V x, V &value, V &first, V &second) {
        value = select(x > broadcast<V>(3.0), broadcast<V>(1.0), select(x < broadcast<V>(-3.0), broadcast<V>(0.0), broadcast<V>(0.16666666666666666) * (x + broadcast<V>(3.0))));
        first = select(absolute(x) < broadcast<V>(3.0), broadcast<V>(0.16666666666666666), broadcast<V>(0.0));
        second = broadcast<V>(0.0);
    }
    template <class V>
    static GRADNETS_INLINE void value_to_third(V x, V &value, V &first, V &second, V &third) {
        value = select(x > broadcast<V>(3.0), broadcast<V>(1.0), select(x < broadcast<V>(-3.0), broadcast<V>(0.0), broadcast<V>(0.16666666666666666) * (x + broadcast<V>(3.0))));
        first = select(absolute(x) < broadcast<V>(3.0), broadcast<V>(0.16666666666666666), broadcast<V>(0.0));
        second = broadcast<V>(0.0);
        third = broadcast<V>(0.0);
    }
};

static constexpr const char *kBasisNames[] = {
    "identity",
    "tanh",
    "sigmoid",
    "softplus",
    "relu",
    "elu",
    "silu",
    "gelu",
    "sin",
    "arctan",
    "softsign",
    "erf",
    "softshrink",
    "hardtanh",
    "hardsigmoid",
};

template <class F>
inline void with_basis(int basis, F &&body) {
    switch (basis) {
    case 0:
        body(identity_basis{});
        break;
    case 1:
        body(tanh_basis{});
        break;
    case 2:
        body(sigmoid_basis{});
        break;
    case 3:
        body(softplus_basis{});
        break;
    case 4:
        body(relu_basis{});
        break;
    case 5:
        body(elu_basis{});
        break;
    case 6:
        body(silu_basis{});
        break;
    case 7:
        body(gelu_basis{});
        break;
    case 8:
        body(sin_basis{});
        break;
    case 9:
        body(arctan_basis{});
        break;
    case 10:
        body(softsign_basis{});
        break;
    case 11:
        body(erf_basis{});
        break;
    case 12:
        body(softshrink_basis{});
        break;
    case 13:
        body(hardtanh_basis{});
        break;
    case 14:
        body(hardsigmoid_basis{});
        break;
    }
}

struct identity_transform {
    template <class V>
    static GRADNETS_INLINE void value(V x, V &out) {
        out = x;
    }
    template <class V>
    static GRADNETS_INLINE void derivatives([[maybe_unused]] V x, V &first, V &second, V &third, V &unit) {
        first = broadcast<V>(1.0);
        second = broadcast<V>(0.0);
        third = broadcast<V>(0.0);
        unit = broadcast<V>(1.0);
    }
};

struct half_square_transform {
    template <class V>
    static GRADNETS_INLINE void value(V x, V &out) {
        out = broadcast<V>(0.5) * (x * x);
    }
    template <class V>
    static GRADNETS_INLINE void derivatives(V x, V &first, V &second, V &third, V &unit) {
        first = x;
        second = broadcast<V>(1.0);
        third = broadcast<V>(0.0);
        unit = broadcast<V>(1.0);
    }
};

struct softplus_transform {
    template <class V>
    static GRADNETS_INLINE void value(V x, V &out) {
        out = select(x > broadcast<V>(0.0), x, broadcast<V>(0.0)) + v_log1p(v_exp_bounded(-absolute(x)));
    }
    template <class V>
    static GRADNETS_INLINE void derivatives(V x, V &first, V &second, V &third, V &unit) {
        const auto t0 = -absolute(x);
        const auto t1 = v_exp_bounded(t0);
        const auto t2 = broadcast<V>(1.0) / (broadcast<V>(1.0) + t1);
        const auto t3 = t1 * t2;
        const auto t4 = t3 * t2;
        const auto t5 = v_expm1(t0);
        first = select(x < broadcast<V>(0.0), t3, t2);
        second = t4;
        third = t4 * v_copysign(t5 / (broadcast<V>(2.0) + t5), -x);
        unit = broadcast<V>(1.0);
    }
};

struct logcosh_transform {
    template <class V>
    static GRADNETS_INLINE void value(V x, V &out) {
        const auto t0 = absolute(x);
        const auto t1 = v_expm1(minimum(t0, broadcast<V>(1.0)));
        out = select(t0 < broadcast<V>(1.0), v_log1p(minimum((t1 * t1) / (broadcast<V>(2.0) * (broadcast<V>(1.0) + t1)), broadcast<V>(1.0))), (t0 + v_log1p(v_exp_bounded(broadcast<V>(-2.0) * t0))) - broadcast<V>(0.6931471805599453));
    }
    template <class V>
    static GRADNETS_INLINE void derivatives(V x, V &first, V &second, V &third, V &unit) {
        const auto t0 = v_tanh(x);
        const auto t1 = v_sech_squared(x);
        first = t0;
        second = t1;
        third = (broadcast<V>(-2.0) * t0) * t1;
        unit = broadcast<V>(1.0);
    }
};

struct exp_transform {
    template <class V>
    static GRADNETS_INLINE void value(V x, V &out) {
        out = v_exp_bounded(x);
    }
    template <class V>
    static GRADNETS_INLINE void derivatives(V x, V &first, V &second, V &third, V &unit) {
        const auto t0 = v_exp_bounded(x);
        first = t0;
        second = t0;
        third = t0;
        unit = broadcast<V>(1.0);
    }
};

struct log_transform {
    template <class V>
    static GRADNETS_INLINE void value(V x, V &out) {
        out = v_log(x);
    }
    template <class V>
    static GRADNETS_INLINE void derivatives(V x, V &first, V &second, V &third, V &unit) {
        first = broadcast<V>(1.0);
        second = broadcast<V>(-1.0);
        third = broadcast<V>(2.0);
        unit = x;
    }
};

static constexpr const char *kTransformNames[] = {
    "identity",
    "half_square",
    "softplus",
    "logcosh",
    "exp",
    "log",
};

template <class F>
inline void with_transform(int transform, F &&body) {
    switch (transform) {
    case 0:
        body(identity_transform{});
        break;
    case 1:
        body(half_square_transform{});
        break;
    case 2:
        body(softplus_transform{});
        break;
    case 3:
        body(logcosh_transform{});
        break;
    case 4:
        body(exp_transform{});
        break;
    case 5:
        body(log_transform{});
        break;
    }
}

} // namespace gradnets::GRADNETS_ISA
