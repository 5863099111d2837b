"""Networks written by hand in plain torch, with the structure and the names of the authors' code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

D, H = 3, 6
Determinant = Callable[[Tensor], Tensor]


class WeightedTanh(nn.Module):
    def __init__(self, monotone: bool) -> None:
        super().__init__()
        self.a, self.b, self.monotone = nn.Parameter(torch.rand(H)), nn.Parameter(torch.rand(H)), monotone

    def forward(self, z: Tensor) -> Tensor:
        if self.monotone:
            return F.softplus(self.a) * torch.tanh(z) + F.softplus(self.b) * F.tanhshrink(z)
        return self.a * torch.tanh(z) - self.b * F.tanhshrink(z)


class FreshWeightedTanh(WeightedTanh):
    """As the authors' code begins: the same in every layer."""

    def __init__(self, monotone: bool) -> None:
        super().__init__(monotone)
        nn.init.constant_(self.a, 0.5)
        nn.init.constant_(self.b, 0.5)


class UsersTanh(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(z)


class WeightedSoftmax(nn.Module):
    def __init__(self, monotone: bool) -> None:
        super().__init__()
        self.a, self.b, self.monotone = nn.Parameter(torch.rand(())), nn.Parameter(torch.rand(())), monotone

    def forward(self, z: Tensor) -> Tensor:
        a, b = (F.softplus(self.a), F.softplus(self.b)) if self.monotone else (self.a, self.b)
        return a * z.softmax(-1) - b * (-z).softmax(-1)


class Cascade(nn.Module):
    """The network of 2024: with softplus of the weights; or raw, where the last activation is the last but one."""

    def __init__(self, activation: Callable[[], nn.Module], monotone: bool, last: int, layers: int = 3) -> None:
        super().__init__()
        self.positive, self.last = F.softplus if monotone else nn.Identity(), last
        self.nonlinearity = nn.ModuleList([activation() for _ in range(layers)])
        self.W = nn.Parameter(torch.randn(H, D))
        self.bias = nn.ParameterList([nn.Parameter(torch.randn(n)) for n in [H] * layers + [D]])
        self.beta = nn.ParameterList([nn.Parameter(torch.rand(H)) for _ in range(layers)])
        self.alpha = nn.ParameterList([nn.Parameter(torch.rand(H)) for _ in range(layers)])

    def forward(self, x: Tensor) -> Tensor:
        z = self.positive(self.beta[0]) * F.linear(x, self.W, self.bias[0])
        for i in range(len(self.alpha) - 1):
            skip = self.positive(self.beta[i + 1]) * F.linear(x, self.W, self.bias[i + 1])
            z = skip + self.positive(self.alpha[i]) * self.nonlinearity[i](z)
        z = self.positive(self.alpha[-1]) * self.nonlinearity[self.last](z)
        return F.linear(z, self.W.T, self.bias[-1])


class Scaled(Cascade):
    def forward(self, x: Tensor) -> Tensor:
        return 2.0 * super().forward(x)


class CascadeAndLogDeterminant(Cascade):
    """No network of theirs, but one that a user may well have."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        jacobian = torch.func.vmap(torch.func.jacfwd(super().forward))(x)
        return super().forward(x), torch.logdet(jacobian)


class Module(nn.Module):
    def __init__(self, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.beta, self.act = nn.Parameter(torch.rand(1)), activation()
        self.W, self.b = nn.Parameter(torch.randn(H, D)), nn.Parameter(torch.randn(H))

    def forward(self, x: Tensor) -> Tensor:
        z = F.linear(x, self.W, self.b)
        return F.linear(self.act(z * F.softplus(self.beta)), self.W.T)


class Modular(nn.Module):
    def __init__(self, activation: Callable[[], nn.Module], monotone: bool) -> None:
        super().__init__()
        self.mmgn_modules = nn.ModuleList([Module(activation) for _ in range(2)])
        # Raw weights of both signs, so that there are negative determinants.
        self.alpha = nn.Parameter(torch.rand(2) if monotone else torch.tensor([1.0, -0.7]))
        self.bias, self.monotone = nn.Parameter(torch.randn(D)), monotone

    def weights(self) -> Tensor:
        return F.softplus(self.alpha) if self.monotone else self.alpha

    def forward(self, x: Tensor) -> Any:
        return sum(weight * module(x) for weight, module in zip(self.weights(), self.mmgn_modules)) + self.bias


class ModularAndLogDeterminant(Modular):
    """The modular networks of their second repository."""

    def __init__(self, activation: Callable[[], nn.Module], monotone: bool, determinant: Determinant) -> None:
        super().__init__(activation, monotone)
        self.determinant = determinant

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        slopes = [torch.func.vmap(torch.func.jacfwd(module))(x) for module in self.mmgn_modules]
        jacobian = sum(weight * slope for weight, slope in zip(self.weights(), slopes))
        return super().forward(x), self.determinant(jacobian)


def log_absolute_determinant(jacobian: Tensor) -> Tensor:
    return torch.linalg.slogdet(jacobian).logabsdet


class CMGN(nn.Module):
    """C-MGN of 2023; `activation` is a function, a module, or not to be found."""

    def __init__(self, activation: Callable[[Tensor], Tensor], rank: int = D, layers: int = 3) -> None:
        super().__init__()
        self.W, self.V = nn.Parameter(torch.randn(D, H)), nn.Parameter(torch.randn(D, rank))
        self.biases = nn.ParameterList([nn.Parameter(torch.randn(H)) for _ in range(layers)])
        self.bL = nn.Parameter(torch.randn(D))
        self.activation = activation

    def act(self, z: Tensor) -> Tensor:
        return self.activation(z)

    def forward(self, x: Tensor) -> Tensor:
        z = x @ self.W + self.biases[0]
        for bias in list(self.biases)[1:]:
            z = x @ self.W + self.act(z) + bias
        return self.act(z) @ self.W.T + x @ self.V @ self.V.T + self.bL


class CMGNWithArctan(CMGN):
    def __init__(self) -> None:
        super().__init__(torch.tanh)
        del self.activation

    def act(self, z: Tensor) -> Tensor:
        return torch.atan(z)


class CMGNWithClamp(CMGNWithArctan):
    """Near 0 it is like the identity."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.mul_(0.05)

    def act(self, z: Tensor) -> Tensor:
        return z.clamp(-self.limit, self.limit)


class MMGN(nn.Module):
    """M-MGN of 2023."""

    def __init__(self, activation: Callable[[], nn.Module] = nn.Tanh) -> None:
        super().__init__()
        self.W_k = nn.ModuleList([nn.Linear(D, H) for _ in range(2)])
        self.activations = nn.ModuleList([activation() for _ in range(2)])
        self.V, self.a = nn.Linear(D, D, bias=False), nn.Parameter(torch.randn(D))

    def forward(self, x: Tensor) -> Tensor:
        f = self.a + self.V(x) @ self.V.weight
        for linear, activation in zip(self.W_k, self.activations):
            z = linear(x)
            f = f + torch.log(torch.cosh(z)).sum(-1, keepdim=True) * (activation(z) @ linear.weight)
        return f


class Plain(nn.Module):
    """A user's own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.offset = nn.Parameter(torch.randn(H, D)), nn.Parameter(torch.randn(H))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x @ self.weight.T + self.offset) @ self.weight


class PlainWithLinear(Plain):
    """With a linear part VᵀV, V (2, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(D, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.linear(x) @ self.linear.weight


def plain_arguments(module: Any) -> dict[str, Any]:
    return {"W": module.weight, "scale": None, "shift": module.offset, "coef": None, "basis": "tanh"}


def plain_linear(module: Any) -> Tensor:
    return module._modules["linear"].weight


@dataclass(frozen=True)
class Network:
    """A network, what `accelerate` says that it has become, the plain ones being registered, and if it is convex."""

    make: Callable[[], nn.Module]
    becomes: str
    monotone: bool = True


def cascade(activation: Callable[[], nn.Module], becomes: str, monotone: bool, last: int = -1, **sizes: int) -> Network:
    return Network(lambda: Cascade(activation, monotone, last, **sizes), becomes, monotone)


def modular(activation: Callable[[], nn.Module], becomes: str, monotone: bool) -> Network:
    return Network(lambda: Modular(activation, monotone), becomes, monotone)


def pair(becomes: str, monotone: bool, determinant: Determinant) -> Network:
    def make() -> nn.Module:
        return ModularAndLogDeterminant(lambda: WeightedSoftmax(monotone), monotone, determinant)

    return Network(make, becomes, monotone)


NETWORKS: dict[str, Network] = {
    "mGradNet_C, tanh": cascade(nn.Tanh, "mGradNetC", True),
    "mGradNet_C, weighted": cascade(lambda: WeightedTanh(True), "mGradNetC", True),
    "mGradNet_C, one layer": cascade(nn.Tanh, "mGradNetC", True, layers=1),
    "GradNet_C": cascade(nn.Sigmoid, "GradNetC", False),
    "GradNet_C, weighted, last but one": cascade(
        lambda: WeightedTanh(False), "GradNetC(reuse_penultimate_activation=True)", False, last=-2
    ),
    "GradNet_C, fresh": cascade(lambda: FreshWeightedTanh(False), "GradNetC", False),
    "GradNet_C, fresh, last but one": cascade(
        lambda: FreshWeightedTanh(False), "GradNetC(reuse_penultimate_activation=True)", False, last=-2
    ),
    "GradNet_C, a user's activation": cascade(UsersTanh, "GradNetC", False),
    "mGradNet_C, gelu": Network(lambda: Cascade(nn.GELU, True, -1), "PositiveGradNetC", monotone=False),
    "mGradNet_M": modular(lambda: nn.Softmax(dim=-1), "mGradNetM", True),
    "mGradNet_M, weighted": modular(lambda: WeightedSoftmax(True), "mGradNetM", True),
    "GradNet_M": modular(lambda: WeightedSoftmax(False), "GradNetM", False),
    "mGradNet_M and logdet": pair("mGradNetM and logdet", True, torch.logdet),
    "GradNet_M and logabsdet": pair("GradNetM and logabsdet", False, log_absolute_determinant),
    "GradNet_M and logdet": pair("GradNetM and logdet", False, torch.logdet),
    "mGradNet_C and logdet": Network(lambda: CascadeAndLogDeterminant(nn.Softplus, True, -1), "mGradNetC and logdet"),
    "C_MGN, tanh": Network(lambda: CMGN(torch.tanh), "CMGN(tanh)"),
    "C_MGN, softplus, narrow V": Network(lambda: CMGN(F.softplus, rank=1), "CMGN(softplus)"),
    "C_MGN, sigmoid, wide V, one layer": Network(lambda: CMGN(nn.Sigmoid(), rank=5, layers=1), "CMGN(sigmoid)"),
    "C_MGN, gelu": Network(lambda: CMGN(F.gelu), "CMGN(gelu)", monotone=False),
    "C_MGN, not told": Network(CMGNWithArctan, "CMGN(arctan)"),
    "M_MGN": Network(MMGN, "MMGN(tanh)"),
    "plain": Network(Plain, "Adapted"),
    "plain, linear part": Network(PlainWithLinear, "Adapted"),
}
