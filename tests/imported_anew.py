"""Import the package again and again, in every mode of PyTorch; run by test_imports.py in a process of its own."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


class NoFunctions(TorchFunctionMode):
    """Refuses every function of PyTorch."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{function} runs at import")


class NoOperators(TorchDispatchMode):
    """Refuses every operator of PyTorch."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{function} runs at import")


@contextmanager
def setting(setter: Callable[[Any], object], inside: object, outside: object) -> Iterator[None]:
    setter(inside)
    yield
    setter(outside)


MODES: tuple[Any, ...] = (
    torch.device("meta"),
    FakeTensorMode(),
    NoFunctions(),
    NoOperators(),
    torch.inference_mode(),
    torch.no_grad(),
    torch.autocast("cpu", torch.bfloat16),
    setting(torch.set_default_device, "meta", None),
    setting(torch.set_default_dtype, torch.float16, torch.float32),
    setting(torch.use_deterministic_algorithms, True, False),
)


def own_modules() -> list[str]:
    return sorted(name for name in sys.modules if name.partition(".")[0] == "gradnets_fast")


def imported() -> Any:
    """The package with all its rooms, from its files."""
    for name in own_modules():
        del sys.modules[name]
    package = importlib.import_module("gradnets_fast")
    for name in package._SUBMODULES:
        importlib.import_module(f"gradnets_fast.{name}")
    return package


def numbers(package: Any) -> Tensor:
    """Values and gradients on both backends."""
    torch.manual_seed(0)
    net, x = package.GradNetC(2, 3, 4), torch.randn(5, 3, requires_grad=True)
    with package.use_backend("reference"):
        results = [net.potential(x)]
    results += [net(x), net.potential(x), torch.func.vmap(torch.func.jacrev(net))(x)]
    gradients = [torch.autograd.grad(result.square().sum(), x, retain_graph=True)[0] for result in results]
    return torch.cat([t.flatten() for t in (*results, *gradients)])


def main() -> None:
    """Raise unless the package is the same after every import."""
    first = imported()
    expected = numbers(first)
    old, points = first.mGradNetC(2, 3, 4), torch.ones(2, 3)
    compiled = torch.compile(old, backend="aot_eager")
    before = old(points), compiled(points)
    for mode in MODES:
        with mode:
            latest = imported()
        assert torch.equal(numbers(latest), expected), mode
    assert torch.equal(old(points), before[0])  # of modules that sys.modules has no longer
    assert torch.equal(compiled(points), before[1])
    for name in own_modules():
        importlib.reload(sys.modules[name])
    assert torch.equal(numbers(latest), expected)
    print("the same")


if __name__ == "__main__":
    main()
