"""Every architecture from its state_dict alone, as a user of plain PyTorch would write it.

`parameters` maps the names of a module's state_dict, or those of its parameters, to tensors; `activation` is a basis
name, "weighted_tanh", "weighted_softmax", "softmax" or a tuple of basis names (a learned mixture).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from .activations import antiderivative, value
from .modules import TRANSFORM_VALUES
from .ridge import PANELLED_RULE

__all__ = [
    "deep_gradnet",
    "deep_gradnet_potential",
    "gradnet_c",
    "gradnet_c_potential",
    "gradnet_m",
    "gradnet_m_potential",
    "ridge_gradnet",
    "ridge_gradnet_potential",
]

Parameters = Mapping[str, Tensor]
Activation = str | tuple[str, ...]


def _sign_constraint(monotone: bool) -> Callable[[Tensor], Tensor]:
    return F.softplus if monotone else lambda raw: raw


def _activate(
    parameters: Parameters,
    prefix: str,
    activation: Activation,
    monotone: bool,
    z: Tensor,
    function: Callable[[str, Tensor], Tensor] = value,
) -> Tensor:
    positive = _sign_constraint(monotone)
    if activation == "weighted_tanh":
        a, b = positive(parameters[f"{prefix}.a"]), positive(parameters[f"{prefix}.b"])
        tanh = function("tanh", z)
        shrink = function("identity", z) - tanh
        return a * tanh + b * shrink if monotone else a * tanh - b * shrink
    if isinstance(activation, tuple):
        first, *others = zip(positive(parameters[f"{prefix}.weight"]), activation)
        total: Tensor = first[0] * function(first[1], z)
        for weight, name in others:
            total = total + weight * function(name, z)
        return total
    return function(activation, z)


def _add_linear(parameters: Parameters, f: Tensor, x: Tensor) -> Tensor:
    if "linear.V" in parameters:
        V = parameters["linear.V"]
        return f + x @ (V.T @ V)
    if "linear.S" in parameters:
        S = parameters["linear.S"]
        return f + x @ ((S + S.T) / 2)
    return f


def _linear_potential(parameters: Parameters, x: Tensor) -> Tensor:
    return (x * _add_linear(parameters, torch.zeros_like(x), x)).sum(-1) / 2


def _depth(parameters: Parameters, prefix: str) -> int:
    return len({name.split(".")[1] for name in parameters if name.startswith(prefix + ".")})


def _gradnet_c_hidden(
    parameters: Parameters,
    projection: Callable[[int], Tensor],
    activation: Activation,
    monotone: bool,
    reuse_penultimate_activation: bool,
) -> Tensor:
    """α_{L−1} ⊙ act(z_{L−1}), where projection(l) is W x + bias_l."""
    layers = _depth(parameters, "beta")
    positive = _sign_constraint(monotone)
    z = positive(parameters["beta.0"]) * projection(0)
    for layer in range(1, layers):
        act = _activate(parameters, f"nonlinearity.{layer - 1}", activation, monotone, z)
        z = positive(parameters[f"beta.{layer}"]) * projection(layer) + positive(parameters[f"alpha.{layer - 1}"]) * act
    last = layers - 2 if reuse_penultimate_activation else layers - 1
    act = _activate(parameters, f"nonlinearity.{last}", activation, monotone, z)
    return positive(parameters[f"alpha.{layers - 1}"]) * act


def gradnet_c(
    parameters: Parameters,
    x: Tensor,
    *,
    activation: Activation,
    monotone: bool,
    reuse_penultimate_activation: bool = False,
    recompute: bool = False,
) -> Tensor:
    """GradNet-C / mGradNet-C (arXiv 2404.07361): W shared by L cascaded layers.

    recompute: W x in each layer, as the authors' code does, rather than once.
    """
    W = parameters["W"]
    u = None if recompute else x @ W.T
    hidden = _gradnet_c_hidden(
        parameters,
        lambda layer: (x @ W.T if u is None else u) + parameters[f"bias.{layer}"],
        activation,
        monotone,
        reuse_penultimate_activation,
    )
    f = F.linear(hidden, W.T, parameters[f"bias.{_depth(parameters, 'beta')}"])
    return _add_linear(parameters, f, x)


def gradnet_c_potential(
    parameters: Parameters,
    x: Tensor,
    *,
    activation: Activation,
    monotone: bool,
    reuse_penultimate_activation: bool = False,
) -> Tensor:
    """F with F(0) = 0 and ∇F = gradnet_c, as the line integral ∫_0^1 f(tx)·x dt by Gauss–Legendre panels."""
    total = torch.zeros_like(x[..., 0])
    for t, weight in PANELLED_RULE:
        f = gradnet_c(
            parameters,
            t * x,
            activation=activation,
            monotone=monotone,
            reuse_penultimate_activation=reuse_penultimate_activation,
        )
        total = total + weight * (f * x).sum(-1)
    return total


def ridge_gradnet(parameters: Parameters, x: Tensor, *, activation: Activation, monotone: bool) -> Tensor:
    """Wᵀσ(Wx + b) + bias."""
    W = parameters["W"]
    hidden = _activate(parameters, "act", activation, monotone, F.linear(x, W, parameters["b"]))
    return _add_linear(parameters, F.linear(hidden, W.T, parameters["bias"]), x)


def ridge_gradnet_potential(parameters: Parameters, x: Tensor, *, activation: Activation, monotone: bool) -> Tensor:
    """Σ_j [Φ(w_j·x + b_j) − Φ(b_j)] + bias·x, Φ' = σ."""
    b = parameters["b"]
    z = F.linear(x, parameters["W"], b)
    rise = _activate(parameters, "act", activation, monotone, z, antiderivative) - _activate(
        parameters, "act", activation, monotone, b, antiderivative
    )
    return rise.sum(-1) + x @ parameters["bias"] + _linear_potential(parameters, x)


def gradnet_m(
    parameters: Parameters, x: Tensor, *, activation: str, monotone: bool, transform: str | None = None
) -> Tensor:
    """GradNet-M / mGradNet-M (arXiv 2404.07361), and M-MGN (arXiv 2301.10862) with transform="half_square".

    Where there is a "sharpness" κ, the soft maximum LSE_m(exp(κ) F_m + offset_m)/exp(κ) takes the place of Σ_m F_m.
    """
    alpha = _sign_constraint(monotone)(parameters["alpha"])
    gradients, potentials = [], []
    for m, module in enumerate(_modules(parameters)):
        z = F.linear(x, module["W"], module["b"])
        if transform is None:
            hidden = _weighted_softmax(module, activation, monotone, z)
        else:
            total = antiderivative(activation, z).sum(-1, keepdim=True)
            hidden = TRANSFORM_VALUES[transform][1](total) * value(activation, z)
        gradients.append(alpha[m] * F.linear(hidden, module["W"].T))
        if "sharpness" in parameters:
            potentials.append(alpha[m] * _module_potential(module, activation, monotone, transform, z))
    if potentials:
        shares = _scores(parameters, torch.stack(potentials, -1)).softmax(-1)
        gradients = [shares[..., m, None] * gradient for m, gradient in enumerate(gradients)]
    f = sum(gradients, parameters["bias"].expand_as(x))
    return _add_linear(parameters, f, x)


def _modules(parameters: Parameters) -> list[dict[str, Tensor]]:
    """Each module's parameters by their names in it: "0.W" of a state_dict, or part 0 of a network's own "W"."""
    modules: list[dict[str, Tensor]] = [{} for _ in range(len(parameters["alpha"]))]
    for key, tensor in parameters.items():
        owner, _, name = key.partition(".")
        if owner != "mmgn_modules":
            continue
        if name[0].isdecimal():
            number, _, name = name.partition(".")
            modules[int(number)][name] = tensor
        else:
            for module, part in zip(modules, tensor.unbind()):
                module[name.replace("_", ".")] = part
    return modules


def _scores(parameters: Parameters, potentials: Tensor) -> Tensor:
    return parameters["sharpness"].exp() * potentials + parameters["offset"]


def _weighted_softmax(module: Parameters, activation: str, monotone: bool, z: Tensor) -> Tensor:
    z = F.softplus(module["beta"]) * z
    if activation == "softmax":
        return torch.softmax(z, -1)
    positive = _sign_constraint(monotone)
    return positive(module["act.a"]) * torch.softmax(z, -1) - positive(module["act.b"]) * torch.softmax(-z, -1)


def gradnet_m_potential(
    parameters: Parameters, x: Tensor, *, activation: str, monotone: bool, transform: str | None = None
) -> Tensor:
    """F with ∇F = gradnet_m."""
    alpha, terms = _sign_constraint(monotone)(parameters["alpha"]), []
    for m, module in enumerate(_modules(parameters)):
        z = F.linear(x, module["W"], module["b"])
        terms.append(alpha[m] * _module_potential(module, activation, monotone, transform, z))
    potentials = torch.stack(terms, -1)
    if "sharpness" in parameters:
        total = _scores(parameters, potentials).logsumexp(-1) / parameters["sharpness"].exp()
    else:
        total = potentials.sum(-1)
    return total + x @ parameters["bias"] + _linear_potential(parameters, x)


def _module_potential(module: Parameters, activation: str, monotone: bool, transform: str | None, z: Tensor) -> Tensor:
    """F_m of a module without its weight α_m; z = W_m x + b_m, (…, h); returns (…,)."""
    if transform is not None:
        return TRANSFORM_VALUES[transform][0](antiderivative(activation, z).sum(-1))
    temperature = F.softplus(module["beta"]).squeeze(0)
    potential = torch.logsumexp(temperature * z, -1)
    if activation == "weighted_softmax":
        positive = _sign_constraint(monotone)
        negative = torch.logsumexp(-temperature * z, -1)
        potential = positive(module["act.a"]) * potential + positive(module["act.b"]) * negative
    return potential / temperature


def deep_gradnet_potential(
    parameters: Parameters, x: Tensor, *, activation: Activation, monotone: bool, residual: bool = False
) -> Tensor:
    """F = <c, a_L> + the linear part's, a_l = σ_l(β u_l)/β, u_l = V_l a_{l−1} + A_l x + Σ_r (Q_lr x)² + b_l, (…,)."""
    layers, positive = _depth(parameters, "b"), _sign_constraint(monotone)
    names = activation if isinstance(activation, tuple) else (activation,) * layers
    beta = parameters.get("log_temperature", x.new_zeros(())).exp().expand(layers)
    a = x
    for i in range(layers):
        u = parameters[f"b.{i}"]
        if f"A.{i}" in parameters:
            u = u + x @ parameters[f"A.{i}"].T
        if i > 0:
            u = u + a @ positive(parameters[f"V.{i - 1}"]).T
        if f"Q.{i}" in parameters:
            u = u + torch.einsum("...d,rhd->...rh", x, parameters[f"Q.{i}"]).square().sum(-2)
        passed = value(names[i], beta[i] * u) / beta[i]
        a = a + passed if residual and i > 0 else passed
    return a @ positive(parameters["c"]) + _linear_potential(parameters, x)


def deep_gradnet(
    parameters: Parameters, x: Tensor, *, activation: Activation, monotone: bool, residual: bool = False
) -> Tensor:
    """The gradient of `deep_gradnet_potential` in x by autograd, (…, d)."""

    def energy(x: Tensor) -> Tensor:
        F = deep_gradnet_potential(parameters, x, activation=activation, monotone=monotone, residual=residual)
        return F.sum()

    f: Tensor = torch.func.grad(energy)(x)
    return f
