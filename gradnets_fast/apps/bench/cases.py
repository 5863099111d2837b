"""What is timed: a case at one size, its tensors, and the functions that are compared."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...functional import Structure
from ...nn import DeepGradNet, GradNet, GradNetC, GradNetM
from ...nn.registry import REFERENCES, Architecture
from . import eager
from .precision import PRECISIONS, Precision
from .work import Work, deep_products, products, transcendental, work

Function = Callable[..., Tensor]


@dataclass(frozen=True)
class Target:
    """Gains over eager PyTorch to reach: time of a forward, of a step, and, where it is set, extra memory of a step."""

    forward: float
    step: float
    memory: float | None = None


@dataclass(frozen=True)
class Problem:
    """A case's tensors, and the functions of them.

    Attributes:
        points: x, or x and v: leaves, (batch, d).
        parameters: leaves, by name.
        g: the gradient of the result.
        exact: (parameters, *points) -> the result, for float64.
        eager: (*points) -> the result, in plain PyTorch as a user would write it.
        ours: the same by the package.
        authors: the same in the authors' structure, where that is another.
        work: what each job takes at least.
        eps: of the dtype, or of the numbers that products round their factors to.
        by_jax: the activations of a plain deep network, which is timed by jax.jit too.
        in_float32: makes the same problem in float32, where that is another contender.
    """

    points: tuple[Tensor, ...]
    parameters: Mapping[str, Tensor]
    g: Tensor
    exact: Callable[..., Tensor]
    eager: Function
    ours: Function
    authors: Function | None
    work: Work
    eps: float
    by_jax: tuple[str, ...] | None = None
    in_float32: Callable[[], Problem] | None = None

    def part(self, rows: Tensor) -> Problem:
        """Some of the points, with the same parameters."""
        points = tuple(p.detach()[rows].requires_grad_() for p in self.points)
        return replace(self, points=points, g=self.g[rows])


@dataclass(frozen=True)
class Case:
    """Something to time at one size.

    Attributes:
        family: the heading it is reported under.
        variant: what tells it from others of its family and size; may be empty.
        batch, d, h: points, their dimension, hidden units (of each module).
        dtype: a name of `precision.PRECISIONS`.
        target: the gains to reach, if there are any.
    """

    family: str
    variant: str
    batch: int
    d: int
    h: int
    dtype: str = "float32"
    target: Target | None = None

    @property
    def label(self) -> str:
        """Unique among all presets; `--case` searches it."""
        return " ".join(part for part in (self.family, self.variant, f"{self.batch}x{self.d}x{self.h}") if part)

    @property
    def precision(self) -> Precision:
        """What `dtype` names."""
        return PRECISIONS[self.dtype]

    @property
    def hidden(self) -> int:
        """How many numbers an array of the points' hidden units holds."""
        return self.batch * self.h

    def few(self, tensor: Tensor) -> Tensor:
        """A part of the points, or of the result, that is small: for a first call."""
        return tensor[:256]

    def facts(self) -> dict[str, Any]:
        """What a result file has of the case itself."""
        names = ("label", "family", "variant", "batch", "d", "h", "dtype")
        known = {name: getattr(self, name) for name in names}
        return {**known, "target": None if self.target is None else vars(self.target)}

    def problem(self, device: torch.device | str = "cpu", batch: int | None = None) -> Problem:
        """The case's tensors from a fixed seed; batch: in place of the number of points."""
        raise NotImplementedError(f"{type(self).__name__} does not say what its tensors are")


@dataclass(frozen=True, kw_only=True)
class NetworkCase(Case):
    """A network.

    Attributes:
        make: (**factory) -> the network; factory: device, dtype.
        reference: (parameters, x) -> f(x), a function of `gradnets_fast.reference`; with recompute=True in the authors'
            structure, where that is another.
    """

    make: Callable[..., GradNet]
    reference: Callable[..., Tensor]

    def problem(self, device: torch.device | str = "cpu", batch: int | None = None) -> Problem:
        """The network's parameters and points from a fixed seed."""
        dtype = self.precision.dtype
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            # Drawn on the CPU, so that every device has the same numbers.
            net = self.make(dtype=dtype).to(device)
            x, g = torch.randn(2, batch or self.batch, self.d).to(device, dtype).unbind()
        made = self._of(net, x.requires_grad_(), g)
        if dtype in (torch.bfloat16, torch.float16):
            return replace(made, in_float32=lambda: self._in_float32(net, x, g))
        return made

    def _of(self, net: GradNet, x: Tensor, g: Tensor) -> Problem:
        parameters = dict(net.named_parameters())
        modules = net.num_modules if isinstance(net, GradNetM) else 1
        recomputes = "recompute" in inspect.signature(self.reference).parameters
        counts, tensors = products("value", self.d), ([x], parameters.values(), g)
        if isinstance(net, DeepGradNet):
            counts = deep_products("value", self.d, self.h, len(net.basis))
        plain = eager.deep_gradnet(net) if isinstance(net, DeepGradNet) else self.reference
        return Problem(
            points=(x,),
            parameters=parameters,
            g=g,
            exact=self.reference,
            # Lambdas, so that torch.compile sees the parameters as inputs of one function.
            eager=lambda x: plain(parameters, x),
            ours=net,
            authors=(lambda x: self.reference(parameters, x, recompute=True)) if recomputes else None,
            work=work(counts, float(len(x) * self.h * modules), self.d, _evaluations(net), tensors),
            eps=PRECISIONS[self.dtype].eps,
            by_jax=_plain_layers(net) if x.dtype == torch.float32 and x.device.type == "cpu" else None,
        )

    def _in_float32(self, net: GradNet, x: Tensor, g: Tensor) -> Problem:
        wide = self.make(dtype=torch.float32).to(x.device)
        wide.load_state_dict(net.state_dict())
        return self._of(wide, x.detach().float().requires_grad_(), g.float())


def _plain_layers(net: GradNet) -> tuple[str, ...] | None:
    """The activations of a deep network without options."""
    if not isinstance(net, DeepGradNet) or net.monotone or net.linear is not None or net.log_temperature is not None:
        return None
    return net.basis if net.structure == Structure(net.structure.widths) else None


def network_case(
    architecture: Architecture,
    shape: tuple[int, int, int],
    activation: str,
    *,
    depth: int = 4,
    dtype: str = "float32",
    words: Sequence[str] = (),
    variant: str = "",
    target: Target | None = None,
    **options: Any,
) -> NetworkCase:
    """A case of a network with so many layers or modules, if it has any.

    shape: batch, d, h.  activation: a name of the activation table, or several joined by +.  words: for the heading,
    after the number of layers.  options: other arguments of the network's class.
    """
    _, d, h = shape
    unit = "layers" if architecture.depth == "widths" else (architecture.depth or "").removeprefix("num_")
    counted = [f"{depth} {unit if depth > 1 else unit.removesuffix('s')}"] * bool(unit)
    heading = [architecture.network.__name__, *counted, *words, *([] if dtype == "float32" else [dtype])]
    key: Any = tuple(activation.split("+")) if "+" in activation else activation
    formulas, transform = REFERENCES[architecture.network], {k: v for k, v in options.items() if k == "transform"}
    make = partial(architecture.make, depth, d, h, activation=list(key) if "+" in activation else key, **options)
    reference = partial(formulas, activation=key, monotone=architecture.network.monotone, **transform)
    return NetworkCase(", ".join(heading), variant, *shape, dtype, target, make=make, reference=reference)


def _evaluations(net: Any) -> int:
    """Special functions for each hidden unit in one pass."""
    if isinstance(net, GradNetM):
        return 2 if net.spec.kind == "weighted_softmax" else transcendental(net.spec.basis)
    if isinstance(net, DeepGradNet):
        return transcendental(net.basis)
    layers: Iterable[Any] = net.nonlinearity if isinstance(net, GradNetC) else [net.act]
    return sum(transcendental(layer.spec.basis) for layer in layers)
