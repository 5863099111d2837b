"""`warmup`: the compilation that the first steps would wait for, done before them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import Any, cast

import torch
from torch import Tensor

from .errors import check_choice, check_positive, message
from .nn.base import METHODS

__all__ = ["warmup"]


def warmup(
    module: torch.nn.Module,
    batch_sizes: Iterable[int],
    *,
    methods: Sequence[str] = ("forward",),
    dtype: torch.dtype | None = None,
) -> dict[int, float]:
    """Run a network and its gradients once for each batch size, so that later steps wait for no compilation.

    Triton compiles a kernel when it first runs, for a dtype, d, h and the gradients that are asked for, but for any
    batch; sizes that differ in more than that, such as those of a CUDA graph, are worth naming.  The network's own
    gradients and the random state stay as they are.

    Equivalent to, for each batch size:
        module(torch.zeros(batch_size, d)).sum().backward()

    Args:
        module: a module of gradnets_fast.nn, on the device where it will run.
        batch_sizes: rows of x, each at least 1.
        methods: the methods to call, out of "forward", "jvp", "potential", "divergence", "jacobian",
            "value_and_gradient" and "slogdet", which compiles what "logdet" takes too.
        dtype: the dtype of torch.autocast, if the network will run under it.

    Returns:
        Seconds by batch size.

    Raises:
        TypeError: the module is no gradient network with weights W.
        ValueError: a batch size is below 1, or a method unknown.

    >>> import gradnets_fast
    >>> sorted(gradnets_fast.warmup(gradnets_fast.mGradNetC(2, 3, 8), [1, 64]))
    [1, 64]
    """
    d, like = _points(module)
    sizes = list(batch_sizes)
    for size in sizes:
        check_positive("warmup", "batch_sizes", size)
    for method in methods:
        check_choice("warmup", "methods", method, METHODS)
    seconds = {}
    for size in sizes:
        start = time.perf_counter()
        x = torch.zeros(size, d, dtype=like.dtype, device=like.device)
        for method in methods:
            with nullcontext() if dtype is None else torch.autocast(like.device.type, dtype):
                _run(module, method, x)
        if like.device.type == "cuda":
            torch.cuda.synchronize(like.device)
        seconds[size] = time.perf_counter() - start
    return seconds


def _points(module: torch.nn.Module) -> tuple[int, Tensor]:
    """Return the dimension of a network's points, and a tensor of their dtype and device."""
    d = getattr(module, "in_dim", None)
    for name, parameter in module.named_parameters():
        if isinstance(d, int):
            return d, parameter
        if name == "W" or name.endswith(".W"):
            return parameter.shape[-1], parameter
    fix = "pass a module of gradnets_fast.nn"
    raise TypeError(message("warmup", "module", "a gradient network with weights W", type(module).__name__, fix))


def _run(module: torch.nn.Module, method: str, x: Tensor) -> None:
    """Call a method with each combination of gradients, as each has a kernel of its own: none, parameters, x, both."""
    function = module if method == "forward" else getattr(module, method)
    with torch.no_grad():
        _call(function, method, x)
    with torch.enable_grad():
        parameters = [p for p in module.parameters() if p.requires_grad]
        points = x.detach().requires_grad_()
        for needs_x, needs_parameters in ((False, True), (True, False), (True, True)):
            needs = ([points] if needs_x else []) + (parameters if needs_parameters else [])
            if not needs:
                continue
            result = _call(function, method, points if needs_x else x)
            torch.autograd.grad(result, needs, torch.zeros_like(result), allow_unused=True)


def _call(function: object, method: str, x: Tensor) -> Tensor:
    assert callable(function)
    result: Any = function(x, x.detach()) if method == "jvp" else function(x)
    if method == "value_and_gradient":
        F, f = result
        result = torch.cat([f, F.unsqueeze(-1)], -1)
    if method == "slogdet":
        _, result = result
    return cast(Tensor, result)
