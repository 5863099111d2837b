"""Transport maps by `gradnets-fast train --task transport`: losses in closed form, files, runs and what they report."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import gradnets_fast as gf
from gradnets_fast.apps.train.ranks import Ranks
from gradnets_fast.apps.train.settings import Settings
from gradnets_fast.apps.train.training import Trainer
from gradnets_fast.apps.train.transport import dual_loss, load_points, monge_ampere_loss
from gradnets_fast.nn import GradNet
from training_runs import fails, invoke

TRANSPORT = ["--task", "transport"]
QUICK = ["--steps", "30", "--samples", "3000", "--batch-size", "100", "--embed-dim", "8"]


def quadratic(V: Tensor) -> GradNet:
    """The network of F(x) = ½|Vx|²."""
    net = gf.mRidgeGradNet(len(V), 2, "identity", linear="psd", dtype=torch.float64)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        assert net.linear is not None
        net.linear.V.copy_(V)
    return net


def test_the_monge_ampere_loss_is_zero_at_the_optimal_map() -> None:
    V = torch.tensor([[1.0, 0.4], [0.0, 1.5]], dtype=torch.float64)
    A = V.T @ V  # which carries N(0, A⁻²) to N(0, I)
    z = torch.randn(50, 2, dtype=torch.float64)
    log_p = (-z.square().sum(-1) / 2 + torch.logdet(A)).unsqueeze(-1)
    loss, shown = monge_ampere_loss(quadratic(V), z @ A.inverse(), log_p, Ranks())
    assert torch.equal(shown, loss.detach())
    assert loss < 1e-12
    assert monge_ampere_loss(quadratic(1.1 * V), z @ A.inverse(), log_p, Ranks())[0] > 0.1


def test_the_dual_loss_is_the_one_of_the_closed_form_conjugate() -> None:
    torch.manual_seed(0)
    net = quadratic(torch.tensor([[1.0, 0.4], [0.0, 1.5]], dtype=torch.float64))
    x, y = torch.randn(2, 40, 2, dtype=torch.float64)
    V = net.linear.V.detach().clone().requires_grad_()
    F = (x @ V.T).square().sum(-1) / 2
    conjugate = (y * (y @ torch.linalg.inv(V.T @ V))).sum(-1) / 2
    pairs = F[:, None] + conjugate - x @ y.T
    assert pairs.min() > -1e-12
    loss, _ = dual_loss(net, x, y, Ranks())
    torch.testing.assert_close(loss, pairs.mean())
    ours, theirs = torch.autograd.grad(loss, net.linear.V)[0], torch.autograd.grad(pairs.mean(), V)[0]
    torch.testing.assert_close(ours, theirs)


def write(folder: Path, x: np.ndarray) -> list[Path]:
    """The points in each format."""
    import pyarrow as arrow
    from pyarrow import csv, parquet

    paths = [folder / f"x.{suffix}" for suffix in ("npy", "npz", "csv", "parquet")]
    table = arrow.table({"other": x[:, 0], "x1": x[:, 1], "x0": x[:, 0]})
    np.save(paths[0], x)
    np.savez(paths[1], x=x)
    csv.write_csv(table, paths[2])
    parquet.write_table(table, paths[3])
    return paths


def test_points_are_read_from_every_format(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(7, 2))
    for path in write(tmp_path, x):
        np.testing.assert_array_equal(load_points(path).numpy(), x.astype(np.float32))


def test_files_without_points_are_named(tmp_path: Path) -> None:
    wrong = {
        "text.txt": "a file ending in",
        "none.npy": "an existing file",
        "damaged.npz": "a readable npz file",
        "empty.csv": "points (n, d)",
        "nan.npy": "column x[:, 1], row 2: expected a finite number",
        "flat.npy": "points (n, d)",
    }
    (tmp_path / "text.txt").write_text("1 2")
    (tmp_path / "damaged.npz").write_text("no archive")
    (tmp_path / "empty.csv").write_text("a,b\n1,2\n")
    np.save(tmp_path / "nan.npy", np.array([[1.0, 2.0], [3.0, np.nan]]))
    np.save(tmp_path / "flat.npy", np.ones(3))
    good = tmp_path / "good.npy"
    np.save(good, np.ones((5, 2)))
    for name, words in wrong.items():
        fails(*TRANSPORT, "--data", tmp_path / name, "--target", good, "--out", tmp_path / "run", words=[name, words])


def test_settings_that_are_no_transport_are_refused(tmp_path: Path) -> None:
    out = ["--out", tmp_path / "run"]
    fails(*TRANSPORT, "--arch", "gradnet-c", *out, words=["arch", "mgradnet-c", "convex function"])
    fails(*TRANSPORT, "--field", "convex2d", *out, words=["field", "leave --field out"])
    fails(*TRANSPORT, "--data", "x.npy", *out, words=["data, target", "data alone"])
    fails(*TRANSPORT, "--loss", "nearest", "--combine", "logsumexp", "--arch", "mgradnet-m", *out, words=["loss"])
    fails(*TRANSPORT, "--dim", 0, *out, words=["dim", "a positive integer"])
    fails("--target", "y.npy", *out, words=["target", "--task transport"])
    fails("--clip", 0, *out, words=["clip", "above 0"])


def test_a_gaussian_is_carried_to_the_standard_one(tmp_path: Path) -> None:
    out = tmp_path / "run"
    code, text, error = invoke(*TRANSPORT, "--dim", 3, *QUICK, "--out", out)
    assert code == 0, error
    assert "mean squared error of the map" in text
    report = json.loads((out / "report.json").read_text())
    evaluation = report["evaluation"]
    assert report["history"][-1][1] < 0.5 * report["history"][0][1]
    assert evaluation["map_mse"] < 0.3
    assert evaluation["unconverged"] == 0
    assert evaluation["inverse_error"] < 1e-3
    assert evaluation["smallest_eigenvalue"] > 0
    assert (out / "figure.png").stat().st_size > 10_000
    assert invoke("--resume", "--out", out)[0] == 0


def test_a_transport_resumes_where_it_stopped() -> None:
    settings = Settings(task="transport", field=None, steps=6, samples=300, batch_size=50)
    straight, first, second = (Trainer(settings) for _ in range(3))
    for _ in range(6):
        straight.advance()
    for _ in range(3):
        first.advance()
    second.resume(first.checkpoint())
    for _ in range(3):
        second.advance()
    for a, b in zip(straight.module.parameters(), second.module.parameters()):
        assert torch.equal(a, b)
    assert Settings.from_json(settings.to_json()) == settings


@pytest.fixture
def ends(tmp_path: Path) -> list[object]:
    """Points of a Gaussian, and of one that is moved by (3, 0) and stretched, in other number."""
    random = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", random.normal(size=(6000, 2)))
    np.save(tmp_path / "y.npy", random.normal(size=(5000, 2)) * [2, 0.5] + [3, 0])
    return ["--data", tmp_path / "x.npy", "--target", tmp_path / "y.npy"]


def test_samples_are_carried_to_samples(tmp_path: Path, ends: list[object]) -> None:
    pytest.importorskip("ot")
    out = tmp_path / "run"
    code, text, error = invoke(*TRANSPORT, *ends, *QUICK, "--arch", "mgradnet-m", "--out", out)
    assert code == 0, error
    assert "exact cost from x to y" in text
    evaluation = json.loads((out / "report.json").read_text())["evaluation"]
    # By the closed form for Gaussians: 3² + (2 − 1)² + (½ − 1)².
    assert evaluation["cost"] == pytest.approx(10.25, rel=0.1)
    assert evaluation["exact"]["samples"] == [600, 500]
    assert evaluation["exact"]["cost_ratio"] == pytest.approx(1.0, abs=0.15)
    assert evaluation["map_mse"] is None


def test_without_pot_the_report_says_what_to_install(
    tmp_path: Path, ends: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ot", None)
    code, text, error = invoke(*TRANSPORT, *ends, *QUICK, "--arch", "mgradnet-m", "--out", tmp_path / "run")
    assert code == 0, error
    assert "pip install POT" in " ".join(text.split())


def test_other_dimensions_of_the_target_are_refused(tmp_path: Path, ends: list[object]) -> None:
    np.save(tmp_path / "y.npy", np.ones((9, 3)))
    fails(*TRANSPORT, *ends, "--out", tmp_path / "run", words=["y.npy", "d = 2", "2 and 3"])
