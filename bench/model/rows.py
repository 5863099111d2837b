"""The cases that the committed result has, and what the model says of one."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from bench.model.chips import CHIPS
from bench.model.kernel import BATCH, HIDDEN, UNIT, Prediction, of_compiled
from gradnets_fast.kernels import compiler, configuration, offline
from gradnets_fast.kernels.mode import Mode

JOBS = ("forward", "backward")

BARE = {1: ("scale", "coef")}
"""Layers → what networks of so many do not have: one layer is Wᵀ tanh(W x + b)."""

_KINDS = {80: ("half",), 90: ("half", "tf32", "tf32x3"), 100: ("half",)}
"""Architecture → kinds of products: on 9.0 all that networks of bfloat16 and float32 take."""


@dataclass(frozen=True)
class Case:
    """One pass of a ridge network with tanh, of BATCH points and HIDDEN hidden units.

    Attributes:
        architecture: compute capability.
        kind: of products.
        d, layers: of the network.
        job: forward or backward, the latter with the gradients of x and of all parameters.
    """

    architecture: int
    kind: str
    d: int
    layers: int
    job: str

    @property
    def label(self) -> str:
        """In words."""
        return f"{self.architecture} {self.kind} d={self.d} layers={self.layers} {self.job}"

    @property
    def kernel(self) -> str:
        """The kernel of the table that runs it."""
        return f"narrow.{self.job}" if self.d <= configuration.MOST_NARROW[self.kind] else self.job

    @property
    def absent(self) -> tuple[str, ...]:
        """The vectors that such a network does not have."""
        return BARE.get(self.layers, ())


def cases() -> list[Case]:
    """All of them; those of the wide route, which a library's products take, are no cases of the model."""
    found = [
        Case(architecture, kind, d, layers, job)
        for architecture, kinds in _KINDS.items()
        for kind, layers, d, job in product(kinds, (1, 4), (2, 8, 32, 64, 128), JOBS)
    ]
    return [c for c in found if options(c) is not None]


def options(case: Case) -> dict[str, int] | None:
    """The table's tiles for a case."""
    found: dict[str, int] | None = configuration.options(case.kernel, case.architecture, case.kind, case.d, case.layers)
    return found


def row(case: Case) -> dict[str, Any] | None:
    """What is predicted of a case with the table's tiles; None where machine code does not show its programs."""
    tiles = options(case)
    assert tiles is not None
    mode = Mode(case.architecture, case.kind, offline.BASIS, case.layers)
    launch = offline.launch(case.kernel, mode, case.d, tiles, even=True, absent=case.absent)
    compiled = compiler.compiled(launch, case.architecture)
    needs = compiler.Resources.of(compiled)
    found = of_compiled(case.kernel, case.architecture, case.kind, case.d, case.layers, tiles, compiled)
    return None if found is None else asdict(case) | {"tiles": tiles} | asdict(needs) | facts(found, case.architecture)


def facts(found: Prediction, architecture: int) -> dict[str, Any]:
    """A prediction as a part of a result file."""
    made = {
        "warps_a_scheduler": found.warps,
        "bound_by": found.by,
        "scarcest": [max(program.pipes, key=program.pipes.__getitem__) for program in found.programs],
        "predicted_of_bound": found.of_bound,
        "predicted_ceiling": found.ceiling,
        "predicted_milliseconds": milliseconds(found.clocks, architecture),
        "predicted_picoseconds_a_hidden_value": 1e9 * milliseconds(found.clocks, architecture, 1.0),
        "bound_milliseconds": milliseconds(found.bound, architecture),
        "programs": [asdict(program) for program in found.programs],
    }
    rounded: dict[str, Any] = _rounded(made)
    return rounded


def _rounded(value: Any) -> Any:
    """Numbers with four digits, which is more than the model knows."""
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(one) for one in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def milliseconds(clocks: float, architecture: int, hidden: float = BATCH * HIDDEN) -> float:
    """Of clocks for UNIT hidden values, for as many as there are."""
    return CHIPS[architecture].milliseconds(clocks * hidden / UNIT)
