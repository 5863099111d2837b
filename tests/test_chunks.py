"""batch_chunk, image_chunk: the same function, a piece of the batch or of the images at a time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import gradnets_fast
from gradnets_fast import ConvGradNet, batch_chunk, image_chunk, mGradNetC, mGradNetM, use_backend
from gradnets_fast.backend import block_requests

NETWORKS = {
    "cascade": lambda: mGradNetC(3, 4, 9, linear="psd", dtype=torch.float64),
    "modules": lambda: mGradNetM(2, 4, 9, combine="logsumexp", dtype=torch.float64),
}


@pytest.mark.parametrize("rows", [1, 5, 12, 100])
@pytest.mark.parametrize("method", ["forward", "potential", "divergence", "jacobian"])
@pytest.mark.parametrize("name", NETWORKS)
def test_pieces_give_what_the_whole_gives(name: str, method: str, rows: int) -> None:
    net = NETWORKS[name]()
    x = torch.randn(12, 4, dtype=torch.float64, requires_grad=True)

    def results(function: Callable[[Tensor], Tensor]) -> list[Tensor]:
        f = function(x)
        g = torch.linspace(-1, 1, f.numel(), dtype=f.dtype).view_as(f)
        first = torch.autograd.grad(f, [x, *net.parameters()], g, materialize_grads=True)
        return [f, *first]

    function = net if method == "forward" else getattr(net, method)
    torch.testing.assert_close(results(lambda x: batch_chunk(function, x, rows)), results(function))


def test_it_is_differentiable_twice() -> None:
    net = NETWORKS["cascade"]()
    x = torch.randn(12, 4, dtype=torch.float64, requires_grad=True)

    def second(function: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
        (first,) = torch.autograd.grad(function(x).square().sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), [x, *net.parameters()], materialize_grads=True)

    torch.testing.assert_close(second(lambda x: batch_chunk(net, x, 5)), second(net))


def test_the_device_sees_a_piece_at_a_time() -> None:
    net, seen = mGradNetC(2, 3, 5), []

    def watched(x: Tensor) -> Tensor:
        seen.append(len(x))
        return net(x)

    f = batch_chunk(watched, torch.randn(10, 3), 4)
    assert seen == [4, 4, 2]
    f.backward(torch.ones_like(f))
    assert sorted(seen) == [2, 2, 4, 4, 4, 4]  # each piece once more, backwards
    # Nothing but the points is kept for the backward pass.
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        batch_chunk(net, torch.randn(10, 3), 4)
    assert not [t for t in saved if t.numel() > 12]


@pytest.mark.parametrize(("inside", "outside"), [("reference", "cpp"), ("cpp", "reference")])
def test_pieces_are_computed_again_as_they_were(inside: str, outside: str) -> None:
    net, x = mGradNetC(2, 3, 5), torch.randn(10, 3, requires_grad=True)
    with use_backend(inside):
        f, expected = batch_chunk(net, x, 4), net(x)
    with use_backend(outside):
        (slope,) = torch.autograd.grad(f.sum(), x)
        assert block_requests() == (outside,)
    torch.testing.assert_close(slope, *torch.autograd.grad(expected.sum(), x))


def test_empty_batches_and_points_in_float16_pass() -> None:
    net = mGradNetC(2, 3, 5)
    assert batch_chunk(net, torch.empty(0, 3), 4).shape == (0, 3)
    assert batch_chunk(net.half(), torch.randn(5, 3).half(), 4).dtype == torch.float16


@pytest.mark.parametrize(
    ("x", "rows", "error", "words"),
    [
        ([1.0], 4, TypeError, "x: expected a torch.Tensor"),
        (torch.zeros(4, 3, dtype=torch.long), 4, TypeError, "x: expected a floating dtype"),
        (torch.zeros(3), 4, ValueError, r"x: expected a batch \(B, …, d\)"),
        (torch.zeros(4, 3), 0, ValueError, "rows: expected a positive integer"),
        (torch.zeros(4, 3), 2.5, TypeError, "rows: expected a positive integer"),
    ],
)
def test_what_is_refused(x: object, rows: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        gradnets_fast.batch_chunk(mGradNetC(2, 3, 5), x, rows)  # type: ignore[arg-type]


IMAGE_NETWORKS = {
    "composition": lambda padding: ConvGradNet(
        2, 5, (4, 3), stages=[(3, (2, 3)), (2, (3, 1))], padding=padding, normalized=True, dtype=torch.float64
    ),
    "even filters of a line": lambda padding: ConvGradNet(1, 4, (4,), padding=padding, dtype=torch.float64),
    "volumes": lambda padding: ConvGradNet(1, 3, (3, 3, 3), stages=[(2, 3)], padding=padding, dtype=torch.float64),
}


@pytest.mark.parametrize("rows", [1, 5, 7, 100])
@pytest.mark.parametrize("padding", ["zeros", "circular"])
@pytest.mark.parametrize("name", IMAGE_NETWORKS)
def test_bands_give_what_the_image_gives(name: str, padding: str, rows: int) -> None:
    net = IMAGE_NETWORKS[name](padding)
    sizes = [12, *[5] * (net.point_dimensions - 2)]
    x = torch.randn(2, net.in_channels, *sizes, dtype=torch.float64, requires_grad=True)
    inputs = [x, *net.parameters()]

    def results(function: Callable[[Tensor], Tensor]) -> list[Tensor]:
        f = function(x)
        first = torch.autograd.grad(f.square().sum(), inputs, create_graph=True)
        second = torch.autograd.grad(first[0].square().sum() + first[1].square().sum(), inputs)
        return [f, *first, *second]

    torch.testing.assert_close(results(lambda x: image_chunk(net, x, rows)), results(net))


def test_nothing_of_an_image_but_itself_is_kept() -> None:
    net, saved = ConvGradNet(1, 8, 3, stages=[(4, 3)]), []
    x = torch.randn(1, 1, 40, 10, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        image_chunk(net, x, 16)
    assert not [t for t in saved if t.numel() > x.numel()]


@pytest.mark.parametrize(
    ("net", "x", "rows", "error", "words"),
    [
        (mGradNetC(2, 3, 5), torch.zeros(4, 3), 4, TypeError, "net: expected a ConvGradNet"),
        (ConvGradNet(1, 4, 3), [1.0], 4, TypeError, "x: expected a torch.Tensor"),
        (ConvGradNet(1, 4, 3), torch.zeros(8, 8), 4, ValueError, "x: expected images of 3 dimensions at least"),
        (ConvGradNet(1, 4, 3), torch.zeros(3, 8, 8), 4, ValueError, r"x: expected shape \(…, 1,"),
        (ConvGradNet(1, 4, 3), torch.zeros(2, 1, 0, 8), 4, ValueError, r"x: expected shape \(…, 1,"),
        (ConvGradNet(1, 4, 3), torch.zeros(1, 8, 8), 0, ValueError, "rows: expected a positive integer"),
    ],
)
def test_what_is_refused_of_images(net: object, x: object, rows: int, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        image_chunk(net, x, rows)  # type: ignore[arg-type]
