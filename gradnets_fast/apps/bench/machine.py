"""The machine's own rates, sampled between the cases: the bounds that times are compared with."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import partial

import torch

from .gpu import special_function_rate
from .measurement import Clock, Job, Spread
from .precision import PRECISIONS
from .work import RESOURCES

_BY_PRODUCTS_OF = {
    "float64": {"float64": 1},
    "float32": {"float32": 1, "tf32": 3},
    "tf32": {"tf32": 1},
    "ieee": {"float32": 1},
    "bfloat16": {"bfloat16": 1, "float32": 1},
    "float16": {"float16": 1, "float32": 1},
}
"""How many products of which precisions do for one of each dtype; three of TF32 keep float32's digits."""

_CPU_SIZES, _GPU_SIZES = (2048, 2**25, 2**22), (8192, 2**28, 2**26)
"""Rows of a square matrix, and elements to copy and to take tanh of."""

_OF_ONE_THREAD, _SHORT_SAMPLES = 2**15, 20
"""Elements few enough for one thread and its cache; so short that only the fastest of several samples says anything
on a busy machine."""


class Machine:
    """Rates of a device, for some dtypes."""

    def __init__(self, device: torch.device, dtypes: Iterable[str], clock: Clock) -> None:
        on_gpu = device.type == "cuda"
        involved = {precision for dtype in ("float32", *dtypes) for precision in _BY_PRODUCTS_OF[dtype]}
        # A CPU has no TF32, and PyTorch's products in float16 would take minutes on most.
        self._precisions = [p for p in PRECISIONS if p in involved and (on_gpu or p not in ("tf32", "float16"))]
        self._device, self._clock = device, clock
        self._sizes = _GPU_SIZES if on_gpu else _CPU_SIZES
        self._rates: dict[str, list[float]] = {}

    def probe(self) -> None:
        """Takes one sample of each, after a warm-up."""
        matrix, copied, evaluated = self._sizes
        for name in self._precisions:
            precision = PRECISIONS[name]
            a, b = torch.randn(2, matrix, matrix, device=self._device).to(precision.dtype).unbind()
            product = torch.empty_like(a)
            with precision.active():
                self._take(_products_key(name), 2.0 * matrix**3, lambda: torch.mm(a, b, out=product))  # noqa: B023
        source, target = torch.ones(2, copied, device=self._device).unbind()
        self._take("copy_gb_per_s", 2.0 * source.nbytes, lambda: target.copy_(source))
        z, out = torch.randn(2, evaluated, device=self._device).unbind()
        self._take("tanh_g_per_s", float(evaluated), lambda: torch.tanh(z, out=out))
        if self._device.type == "cuda":
            rate = special_function_rate(self._device)
            if rate is not None:
                self._rates["special_g_per_s"] = [1e-9 * rate]
        else:
            # The cheapest function with an exponential and a quotient, which tanh needs too; on one thread, times all.
            cheapest = partial(torch.sigmoid, z[:_OF_ONE_THREAD], out=out[:_OF_ONE_THREAD])
            self._take("special_g_per_s", float(_OF_ONE_THREAD * torch.get_num_threads()), cheapest, _SHORT_SAMPLES)

    def _take(self, key: str, amount: float, job: Job, samples: int = 1) -> None:
        job()
        sampler = self._clock.sampler(job)
        self._rates.setdefault(key, []).append(1e-9 * amount / min(sampler() for _ in range(samples)))

    def to_json(self) -> dict[str, dict[str, float]]:
        """Medians and quantiles."""
        return {name: vars(Spread.of(rates)) for name, rates in self._rates.items()}


def _products_key(precision: str) -> str:
    return "mm_gflops" if precision == "float32" else f"mm_{precision}_gflops"


def rates(machine: Mapping[str, Mapping[str, float]], dtype: str, quantile: str = "median") -> dict[str, float]:
    """How much of each resource there is a second, for cases of a dtype.

    machine: what `to_json` gave; without the rate of special functions where nothing tells it, which bounds nothing
    then.  quantile: one of a `Spread`.

    >>> machine = {"mm_gflops": 3.0, "mm_tf32_gflops": 12.0, "copy_gb_per_s": 2.0, "special_g_per_s": 1.0}
    >>> rates({name: {"median": rate} for name, rate in machine.items()}, "float32")
    {'products': 4000000000.0, 'memory': 2000000000.0, 'special functions': 1000000000.0}
    """
    measured = {precision: machine.get(_products_key(precision)) for precision in _BY_PRODUCTS_OF[dtype]}
    best = max(r[quantile] / _BY_PRODUCTS_OF[dtype][p] for p, r in measured.items() if r is not None)
    special = machine["special_g_per_s"][quantile] if "special_g_per_s" in machine else math.inf
    found = (best, machine["copy_gb_per_s"][quantile], special)
    return dict(zip(RESOURCES, (1e9 * rate for rate in found)))
