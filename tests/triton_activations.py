"""The generated Triton functions at given points, in Triton's interpreter, for test_activations.py."""

from typing import Any

import torch
import triton
import triton.language as tl

from gradnets_fast.kernels import _activations_gen as generated

OUTPUTS = ("antiderivative", "value", "first", "second")


@triton.jit
def evaluate(x, out, stride, antiderivative: tl.constexpr, value_first_second: tl.constexpr, BLOCK: tl.constexpr):
    offsets = tl.arange(0, BLOCK)
    points = tl.load(x + offsets)
    value, first, second = value_first_second(points)
    tl.store(out + offsets, antiderivative(points))
    tl.store(out + stride + offsets, value)
    tl.store(out + 2 * stride + offsets, first)
    tl.store(out + 3 * stride + offsets, second)


@triton.jit
def evaluate_fast(x, out, stride, NAME: tl.constexpr, BLOCK: tl.constexpr):
    offsets = tl.arange(0, BLOCK)
    value, first, second = generated.value_first_second(tl.load(x + offsets), NAME, "fast_interpreted")
    tl.store(out + offsets, value)
    tl.store(out + stride + offsets, first)
    tl.store(out + 2 * stride + offsets, second)


@triton.jit
def evaluate_transform(t, out, stride, NAME: tl.constexpr, BLOCK: tl.constexpr):
    offsets = tl.arange(0, BLOCK)
    points = tl.load(t + offsets)
    first, second = generated.transform_first_second(points, NAME)
    tl.store(out + offsets, generated.transform_value(points, NAME))
    tl.store(out + stride + offsets, first)
    tl.store(out + 2 * stride + offsets, second)


def evaluated(points: list[float]) -> dict[str, Any]:
    """Each function's outputs by its name, for basis functions and for transforms."""
    block = triton.next_power_of_2(len(points))
    x = torch.zeros(block)
    x[: len(points)] = torch.tensor(points)
    suffix = "_value_first_second"
    names = [name.removesuffix(suffix) for name in dir(generated) if name.endswith(suffix) and "_fast_" not in name]
    results = {}
    for name in names:
        out = torch.full((4, block), float("nan"))
        functions = (getattr(generated, f"{name}_antiderivative"), getattr(generated, f"{name}_value_first_second"))
        evaluate[(1,)](x, out, block, *functions, BLOCK=block)
        results[name] = dict(zip(OUTPUTS, out[:, : len(points)].tolist()))
        fast = torch.full((3, block), float("nan"))
        evaluate_fast[(1,)](x, fast, block, name, BLOCK=block)
        results[name]["fast"] = fast[:, : len(points)].tolist()
    suffix = "_transform_value"
    transforms = {}
    for name in [name.removesuffix(suffix) for name in dir(generated) if name.endswith(suffix)]:
        out = torch.full((3, block), float("nan"))
        evaluate_transform[(1,)](x, out, block, name, BLOCK=block)
        transforms[name] = dict(zip(OUTPUTS[1:], out[:, : len(points)].tolist()))
    return {"basis": results, "transforms": transforms}
