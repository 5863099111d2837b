"""A step of training on a GPU as one CUDA graph, where launching its kernels one by one takes longer than they run.

Called by `fit`.  The graph reads the batch and the learning rate from memory that stays where it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from ..nn.base import GradNet
from ..ops import autograd
from ._steps import HOOKS, AutogradStep, Batch

_BEFORE = 3
"""Steps that are made before one is recorded: they compile kernels, and libraries find their memory in them."""
Step = Callable[[], None]


def recorded(step: Step, stream: Any) -> Step:
    """Record what a step launches, on a stream and its device, without running it; return what launches it again."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(stream.device), torch.cuda.graph(graph, stream=stream):
        step()

    def again() -> None:
        with torch.cuda.device(stream.device):
            graph.replay()

    return again


class GraphStep(AutogradStep):
    """The step of `AutogradStep`, recorded once for batches of the first one's size and run again for each later one.

    Args:
        net, objective: as for `AutogradStep`; nothing that they compute may depend on numbers that the CPU reads.

    Attributes:
        refusal: why no step could be recorded, which are all made one by one then; None while none was refused.
    """

    _again: Step | None

    def __init__(self, net: nn.Module, objective: Callable[..., tuple[Tensor, Tensor]]) -> None:
        super().__init__(net, objective)
        device = self._trained[0].device
        self._rate = torch.zeros((), device=device)
        on_gpu = device.type == "cuda"
        self._optimizer = torch.optim.Adam(self._trained, lr=self._rate, fused=True, capturable=on_gpu)
        self._made, self._again = 0, None
        self._batch: tuple[Any, ...] | None = None
        self._error = torch.empty(())
        self.refusal: str | None = None
        self._stream = torch.cuda.Stream(device) if on_gpu else None

    def _set_rate(self, rate: float) -> None:
        self._rate.fill_(rate)

    def __call__(self, batch: tuple[Any, ...], error: Tensor, rate: float) -> None:
        """Make a step at this learning rate; the error before it is written into `error`, (1,)."""
        if self._batch is None:
            self._batch = tuple(None if t is None else t.clone() for t in batch)
            self._error = torch.empty_like(error)
        if _sizes(batch) != _sizes(self._batch):
            super().__call__(batch, error, rate)
            return
        self._set_rate(rate)
        for mine, theirs in zip(self._batch, batch):
            if theirs is not None:
                mine.copy_(theirs)
        if self._made < _BEFORE:
            self._on_a_stream_of_its_own()
        else:
            self._again = self._again or self._recorded()
            self._again()
        self._made += 1
        error.copy_(self._error)

    def _recorded(self) -> Step:
        """Return what makes a step: the step itself where something in it cannot be recorded."""
        try:
            return recorded(self._step, self._stream)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self.refusal = str(error).partition("\n")[0]
            return self._step

    def _step(self) -> None:
        assert self._batch is not None
        self._make(self._batch, self._error)

    def _on_a_stream_of_its_own(self) -> None:
        """Make a step as recording asks for: the default stream has work that no graph can hold."""
        if self._stream is None:
            self._step()
            return
        present = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(present)
        with torch.cuda.stream(self._stream):
            self._step()
        present.wait_stream(self._stream)


def why_no_graph(net: nn.Module, batch: Batch) -> str | None:
    """Return why a step of this module is not recorded, or None if it can be."""
    if not batch.x.is_cuda:
        return "the points are on no GPU"
    if not isinstance(net, GradNet) or vars(net).keys() & {"forward", "_effective"}:
        return f"{type(net).__name__} is no network of this package"
    if any(type(p) is not nn.Parameter or p.device != batch.x.device for p in net.parameters()):
        return "the parameters are not plain ones on the points' device"
    if any(is_parametrized(part) or any(getattr(part, name, None) for name in HOOKS) for part in net.modules()):
        return "the network has parametrizations or hooks"
    if torch.is_anomaly_enabled() or not autograd.no_transform_is_active():
        return "autograd is watched"
    return "all modules have hooks" if nn.modules.module._has_any_global_hook() else None


def _sizes(batch: tuple[Any, ...]) -> list[torch.Size | None]:
    return [None if t is None else t.shape for t in batch]
