"""What deep networks are good for: the scripts of bench/deep, in few steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bench.deep import muller_brown, poisson, torus, transport, two_body
from bench.deep.comparison import TOLERANCE, Training, first_steps
from covering import slow_but

SCRIPTS = {
    "muller_brown": muller_brown,
    "two_body": two_body,
    "torus": torus,
    "poisson": poisson,
    "transport": transport,
}
DRAWN = {"muller_brown", "torus"}


@pytest.mark.parametrize("name", slow_but(DRAWN, list(SCRIPTS)))
def test_the_error_is_that_by_autograd(name: str, tmp_path: Path) -> None:
    """Both begin with equal weights, and rounding has not grown in so few steps."""
    SCRIPTS[name].main(["--quick", "--out", str(tmp_path)])
    result = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
    assert result["environment"]["torch"] == torch.__version__
    for row in result["rows"]:
        assert row["first_losses_differ_by"] <= TOLERANCE
        autograd, ours, *others = row["contenders"].values()
        assert autograd["parameters"] == ours["parameters"]
        assert autograd["errors"].keys() == ours["errors"].keys()
        for quantity, errors in ours["errors"].items():
            assert errors == pytest.approx(autograd["errors"][quantity], rel=0.05)
            assert all(0 < error < 100 for error in errors)
        assert others
    pictures = {path.stem: path.read_bytes()[:4] for path in tmp_path.glob("*.png")}
    assert pictures == ({name: b"\x89PNG"} if name in DRAWN else {})


def test_networks_that_differ_are_not_timed() -> None:
    task = muller_brown.make(0)
    with torch.no_grad():
        next(task.contenders["ours"].parameters()).mul_(1.01)
    with pytest.raises(RuntimeError, match="losses by autograd and by ours differ by"):
        first_steps(task, Training(20, 1e-2))


def test_targets_are_derivatives() -> None:
    y = torch.rand(50, 8, dtype=torch.float64)
    H = two_body.TwoBodies()
    torch.testing.assert_close(H(y), torch.func.vmap(torch.func.grad(H.potential))(y))
    x = torch.rand(50, 2, dtype=torch.float64)
    hessian = torch.func.vmap(torch.func.hessian(poisson.solution))(x)
    torch.testing.assert_close(poisson.laplacian(x), hessian.diagonal(dim1=-2, dim2=-1).sum(-1))
    points, normals = torus.surface(50, torch.Generator().manual_seed(0))
    torch.testing.assert_close(torus.distance(points), torch.zeros(50), atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(torus.distance))(points), normals, atol=1e-5, rtol=0)
