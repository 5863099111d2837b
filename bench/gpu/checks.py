"""Every operator on the GPU against float64, and what else must hold of the kernels there."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product

import torch
from torch import Tensor

import gradnets_fast
from bench.gpu import device as gpu
from gradnets_fast import backend as backends
from gradnets_fast import reference
from gradnets_fast.benchmark.verification import allowed

SUFFIXES = ("", "_jvp", "_potential", "_divergence", "_jacobian")
KINDS = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
    "tf32": torch.float32,
}
_TF32_EPS = 2.0**-11
SHAPES = ((5, 2, 7), (97, 3, 65), (33, 8, 64), (130, 33, 193), (300, 64, 1000), (257, 128, 96), (65, 300, 40))
SMALL_SHAPES = ((5, 2, 7), (9, 33, 40), (5, 300, 20))
"""(batch, d, h): narrow, fused and wide, odd tails and multiples of tiles."""

PHIS = {"tanh": (1, ("tanh",)), "tanh4": (4, ("tanh",)), "mixture": (3, ("softplus", "sin", "identity"))}
Call = Callable[..., Tensor]
Outcome = dict[str, object]


def drawn(shape: tuple[int, int, int], phi: str, kind: str, device: torch.device) -> list[Tensor]:
    """(x, v, g, W, scale, shift, coef, bias) from a fixed seed; vectors in float32."""
    (batch, d, h), (layers, basis) = shape, PHIS[phi]
    generator = torch.Generator().manual_seed(batch + 7 * d + 31 * h)
    sizes = ((batch, d), (batch, d), (batch, d), (h, d), (layers, h), (layers, h), (layers, len(basis), h), (d,))
    x, v, g, W, scale, shift, coef, bias = (torch.randn(s, generator=generator).to(device) for s in sizes)
    dtype = KINDS[kind]
    stored = [t.to(dtype) for t in (x, v, g, W / d**0.5)]
    return [*stored, scale, shift / 2, coef / 2, bias.to(dtype)]


def operator(suffix: str, phi: str, backend: str) -> Call:
    """(x, [v], W, scale, shift, coef, bias) -> the operator's result."""
    return partial(getattr(gradnets_fast, f"ridge{suffix}"), basis=PHIS[phi][1], backend=backend)


def arguments(suffix: str, tensors: Sequence[Tensor]) -> list[Tensor]:
    """What the operator takes of `drawn`."""
    x, v, _, *parameters = tensors
    return [x, v, *parameters] if suffix == "_jvp" else [x, *parameters]


def cotangent(suffix: str, g: Tensor) -> Tensor:
    """One for the operator's result."""
    if suffix == "_jacobian":
        return g.unsqueeze(-1) * g.flip(0).unsqueeze(-2)
    return g[:, 0] if suffix in ("_potential", "_divergence") else g


def gradients(call: Call, tensors: Sequence[Tensor], g: Tensor) -> list[Tensor]:
    """The result, and the gradients of <g, result> for every tensor."""
    leaves = [t.detach().requires_grad_() for t in tensors]
    result = call(*leaves)
    return [result.detach(), *torch.autograd.grad(result, leaves, g.to(result.dtype), materialize_grads=True)]


def accuracy(small: bool, device: torch.device) -> Iterator[Outcome]:
    """Every operator, dtype, shape and φ: error at most twice eager PyTorch's plus a floor."""
    shapes = SMALL_SHAPES if small else SHAPES
    for suffix, kind, shape, phi in product(SUFFIXES, KINDS, shapes, PHIS):
        if backends.why_not("triton", f"ridge{suffix}", device, KINDS[kind]) is not None:
            continue
        if suffix == "_jacobian" and shape[0] * shape[1] ** 2 > 2**24:
            continue
        yield _accuracy(suffix, kind, shape, phi, device)


def _accuracy(suffix: str, kind: str, shape: tuple[int, int, int], phi: str, device: torch.device) -> Outcome:
    tensors = drawn(shape, phi, kind, device)
    inputs, g = arguments(suffix, tensors), cotangent(suffix, tensors[2])
    with gpu.products(kind):
        ours = gradients(operator(suffix, phi, "triton"), inputs, g)
        eager = gradients(operator(suffix, phi, "reference"), inputs, g)
    exact = gradients(operator(suffix, phi, "reference"), [t.double() for t in inputs], g.double())
    largest = max(t.abs().max().item() for t in exact)
    eps = _TF32_EPS if kind == "tf32" else torch.finfo(KINDS[kind]).eps
    worst = 0.0
    for mine, theirs, truth in zip(ours, eager, exact):
        error, eager_error = ((t.double() - truth).abs().max().nan_to_num(torch.inf).item() for t in (mine, theirs))
        worst = max(worst, error / allowed(eager_error, largest, eps))
    label = f"ridge{suffix} {kind} {phi} B={shape[0]} d={shape[1]} h={shape[2]}"
    return {"check": "accuracy", "label": label, "passed": worst <= 1, "of_allowed": worst}


def repeatability(small: bool, device: torch.device) -> Iterator[Outcome]:
    """The same bits from every run, and from non-contiguous inputs, which must be read right."""
    batch = 70 if small else 100_000
    for suffix, d in product(SUFFIXES, (3, 20)):
        tensors = drawn((batch if suffix != "_jacobian" else 50, d, 40 if small else 1024), "tanh", "bf16", device)
        inputs, g = arguments(suffix, tensors), cotangent(suffix, tensors[2])
        call = operator(suffix, "tanh", "triton")
        first = gradients(call, inputs, g)
        again = gradients(call, inputs, g)
        strided = gradients(call, [_spread(t) for t in inputs], g)
        for check, other in (("repeats bit by bit", again), ("reads strides", strided)):
            same = all(torch.equal(a, b) for a, b in zip(first, other))
            yield {"check": check, "label": f"ridge{suffix} d={d}", "passed": same}


def _spread(t: Tensor) -> Tensor:
    wide = torch.full((*t.shape[:-1], 2 * t.shape[-1]), float("nan"), dtype=t.dtype, device=t.device)
    wide[..., ::2] = t
    return wide[..., ::2]


def large(small: bool, device: torch.device) -> Iterator[Outcome]:
    """Batches of more than 2³¹ hidden values, and points of more than 2³¹ numbers: compared with pieces of them."""
    for batch, d, h in ((5000, 3, 40),) if small else ((2**21 + 5, 3, 1100), (2**21 + 5, 32, 1100), (2**26, 33, 16)):
        _, _, _, W, *vectors, bias = drawn((1, d, h), "tanh", "bf16", device)
        x = torch.randn(batch, d, device=device, dtype=torch.bfloat16, requires_grad=True)
        call = operator("", "tanh", "triton")
        f = call(x, W, *vectors, bias)
        (dx,) = torch.autograd.grad(f.sum(), x)
        passed = True
        for start in (0, batch // 2, batch - 1000):
            piece = x.detach()[start : start + 1000].requires_grad_()
            expected = call(piece, W, *vectors, bias)
            (gradient,) = torch.autograd.grad(expected.sum(), piece)
            part = slice(start, start + 1000)
            passed = passed and torch.equal(f[part], expected) and torch.equal(dx[part], gradient)
        yield {"check": "64-bit offsets", "label": f"B={batch} d={d} h={h}", "passed": passed}


def launches(small: bool, device: torch.device) -> Iterator[Outcome]:
    """One kernel a pass, and no memset or copy beside it."""
    if device == gpu.CPU:
        return
    for suffix, d, phi in product(SUFFIXES, (3, 64), ("tanh", "tanh4")):
        tensors = drawn((4096 if suffix != "_jacobian" else 64, d, 256), phi, "bf16", device)
        leaves = [t.requires_grad_() for t in arguments(suffix, tensors)]
        if suffix == "_potential":
            leaves.pop()  # bias·x is PyTorch's
        call, g = operator(suffix, phi, "triton"), cotangent(suffix, tensors[2])
        torch.autograd.grad(call(*leaves), leaves, g, allow_unused=True)
        f, forward = counted(lambda call=call, leaves=leaves: call(*leaves))
        _, backward = counted(lambda f=f, leaves=leaves, g=g: torch.autograd.grad(f, leaves, g, allow_unused=True))
        label = f"ridge{suffix} {phi} d={d}"
        passed = len(forward) == len(backward) == 1
        yield {"check": "one launch", "label": label, "passed": passed, "forward": forward, "backward": backward}


def counted(function: Callable[[], object]) -> tuple[Tensor, list[str]]:
    """What the function returns, and the names of the kernels, copies and memsets that ran on the GPU."""
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        result = function()
        torch.cuda.synchronize()
    cuda = torch.autograd.DeviceType.CUDA
    names = [event.name for event in profile.events() if event.device_type == cuda]
    return result, names  # type: ignore[return-value]


def streams(small: bool, device: torch.device) -> Iterator[Outcome]:
    """Launches go to the current stream, and a CUDA graph can hold them."""
    if device == gpu.CPU:
        return
    tensors = drawn((3000, 64, 300), "tanh4", "bf16", device)
    leaves = [t.requires_grad_() for t in arguments("", tensors)]
    call = operator("", "tanh4", "triton")

    def step() -> list[Tensor]:
        f = call(*leaves)
        return [f, *torch.autograd.grad(f, leaves, tensors[2])]

    expected = [t.clone() for t in step()]
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(10_000_000)
        elsewhere = step()
    side.synchronize()
    same = all(torch.equal(a, b) for a, b in zip(expected, elsewhere))
    yield {"check": "another stream", "label": "step", "passed": same}
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        held = step()
    with torch.no_grad():
        leaves[0].mul_(0.5)
    graph.replay()
    graph.replay()
    torch.cuda.synchronize()
    same = all(torch.equal(a, b) for a, b in zip(step(), held))
    yield {"check": "CUDA graph", "label": "step, replayed twice on other points", "passed": same}


def devices(small: bool, device: torch.device) -> Iterator[Outcome]:
    """Tensors of a GPU that is not the current one."""
    if torch.cuda.device_count() < 2:
        return
    inputs = arguments("", drawn((300, 20, 50), "tanh", "fp32", torch.device("cuda", 1)))
    f = operator("", "tanh", "triton")(*inputs)
    exact = reference.ridge(*(t.double() for t in inputs), ("tanh",))
    passed = f.device.index == 1 and bool((f - exact).abs().max() < 1e-4)
    yield {"check": "another device", "label": "ridge", "passed": passed}


def sanitized(small: bool, device: torch.device) -> Iterator[Outcome]:
    """compute-sanitizer's memcheck and racecheck over small shapes, where it is installed."""
    program = shutil.which("compute-sanitizer")
    if device == gpu.CPU or program is None:
        return
    for tool in ("memcheck", "racecheck"):
        command = [program, "--tool", tool, "--error-exitcode", "9", sys.executable, "-m", "bench.gpu.sanitized"]
        run = subprocess.run(command, capture_output=True, text=True)
        yield {"check": tool, "label": "compute-sanitizer", "passed": run.returncode == 0, "tail": run.stdout[-500:]}


PARTS = (accuracy, repeatability, large, launches, streams, devices, sanitized)


def run(device: torch.device, small: bool, report: Callable[[Outcome], None]) -> bool:
    """All checks; a check that raises has failed.  Whether all passed."""
    good = True
    for part in PARTS:
        outcomes = part(small, device)
        while True:
            try:
                outcome = next(outcomes)
            except StopIteration:
                break
            except Exception as error:  # what one check meets must not hide the others
                outcome = {"check": part.__name__, "label": "", "passed": False, "error": repr(error)[:2000]}
            good = good and bool(outcome["passed"])
            report(outcome)
    return good
