"""Training by Lightning beside the same training by hand."""

from __future__ import annotations

import importlib
import math
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import gradnets_fast as gf
from gradnets_fast import interop
from gradnets_fast.apps.train.fields import make_field
from gradnets_fast.interop import GradNetLightning
from gradnets_fast.nn import GradNet

pytestmark = [
    # Lightning would have worker processes load these samples, which are in memory.
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
    # Lightning's own use of torch.
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"),
]

EPOCHS, BATCH, SAMPLES = 8, 100, 1950
STEPS = EPOCHS * math.ceil(SAMPLES / BATCH)


def data() -> tuple[Tensor, Tensor]:
    field = make_field("convex2d")
    x = field.sample(SAMPLES, torch.Generator().manual_seed(0))
    return x, field.gradient(x)


def network() -> GradNet:
    torch.manual_seed(3)
    return gf.mGradNetC(4, 2, 7)


def loader(x: Tensor, g: Tensor, shuffle: bool = False) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(5)
    return DataLoader(TensorDataset(x, g), BATCH, shuffle=shuffle, generator=generator)


def trainer(folder: Path, **options: Any) -> pytorch_lightning.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    options = {"max_epochs": EPOCHS, "enable_checkpointing": False, **quiet, **options}
    return pytorch_lightning.Trainer(accelerator="cpu", default_root_dir=folder, **options)


class Losses(pytorch_lightning.Callback):
    """The loss of each step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_index: int) -> None:
        self.values.append(outputs["loss"].item())


def by_hand(net: GradNet, x: Tensor, g: Tensor, lr: float, cosine: bool) -> list[float]:
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    losses = []
    batches = loader(x, g, shuffle=True)
    for _ in range(EPOCHS):
        for points, gradients in batches:
            if cosine:
                optimizer.param_groups[0]["lr"] = lr * (1 + math.cos(math.pi * len(losses) / STEPS)) / 2
            loss = ((net(points) - gradients) ** 2).sum(1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_the_losses_are_those_of_a_loop_by_hand(schedule: str, tmp_path: Path) -> None:
    """The losses agree bit by bit, but for the rounding of the cosine schedule, which PyTorch computes recursively."""
    x, g = data()
    net, losses = network(), Losses()
    module = GradNetLightning(net, lr=2e-2, schedule=schedule)
    trainer(tmp_path, callbacks=[losses]).fit(module, loader(x, g, shuffle=True))
    other = network()
    expected = by_hand(other, x, g, 2e-2, schedule == "cosine")
    assert len(losses.values) == STEPS
    if schedule == "constant":
        assert losses.values == expected
        assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters()))
    else:
        assert losses.values == pytest.approx(expected, rel=1e-4)
        assert module.optimizers().param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)
    assert losses.values[-1] < losses.values[0] / 100


def test_logged_errors_are_those_of_the_whole_epoch(tmp_path: Path) -> None:
    """The last batch, being smaller, weighs less; the decibels are of the mean, not the mean of decibels."""
    x, g = data()
    net = network()
    fit = trainer(tmp_path, max_epochs=1)
    module = GradNetLightning(net, lr=0.0, loss=lambda f, g: (f - g).abs().mean())
    fit.fit(module, loader(x, g, shuffle=True), loader(x[:130], g[:130]))
    with torch.no_grad():
        difference = net(x) - g
    logged = {name: value.item() for name, value in fit.callback_metrics.items()}
    for stage, part in (("train", difference), ("val", difference[:130])):
        error = part.square().sum(1).mean().item()
        assert logged.pop(f"{stage}_error") == pytest.approx(error, rel=1e-5)
        assert logged.pop(f"{stage}_error_db") == pytest.approx(10 * math.log10(error), abs=1e-4)
        assert logged.pop(f"{stage}_loss") == pytest.approx(part.abs().mean().item(), rel=1e-5)
    assert not logged


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    x, g = data()
    net = network()
    checkpoint = pytorch_lightning.callbacks.ModelCheckpoint(tmp_path, monitor="val_error")
    options = {"max_epochs": 2, "callbacks": [checkpoint], "enable_checkpointing": True}
    trainer(tmp_path, **options).fit(GradNetLightning(net, 2e-3, schedule="cosine"), loader(x, g), loader(x, g))
    fresh = gf.mGradNetC(4, 2, 7)
    path = checkpoint.best_model_path
    loaded = GradNetLightning.load_from_checkpoint(path, net=fresh)
    assert loaded.net is fresh
    assert dict(loaded.hparams) == {"lr": 2e-3, "schedule": "cosine"}
    state = torch.load(path, weights_only=True)["state_dict"]
    assert {f"net.{name}" for name in net.state_dict()} == set(state)
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in state.items())
    assert torch.equal(loaded(x), fresh(x))


def test_a_resumed_run_is_an_unbroken_one(tmp_path: Path) -> None:
    x, g = data()
    whole, resumed, path = network(), gf.mGradNetC(4, 2, 7), tmp_path / "half.ckpt"
    for net, epochs, start in ((network(), 2, None), (whole, 3, None), (resumed, 3, path)):
        run = trainer(tmp_path, max_epochs=epochs)
        run.fit(GradNetLightning(net), loader(x, g), ckpt_path=start)
        if epochs == 2:
            run.save_checkpoint(path)
    assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), whole.parameters()))


def test_a_cosine_needs_an_end_and_a_schedule_a_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="schedule: expected one of constant, cosine, got 'linear'; "):
        GradNetLightning(network(), schedule="linear")
    with pytest.raises(ValueError, match="schedule: expected a last step for cosine, got an endless run; "):
        trainer(tmp_path, max_epochs=-1).fit(GradNetLightning(network(), schedule="cosine"), loader(*data()))


def test_the_class_is_of_the_lightning_that_was_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here a stand-in for the package lightning; its trainer would not take a module of pytorch_lightning."""
    assert issubclass(GradNetLightning, pytorch_lightning.LightningModule)
    base = type("LightningModule", (), {"__module__": "lightning.pytorch"})
    monkeypatch.setitem(sys.modules, "lightning", types.ModuleType("lightning"))
    monkeypatch.setitem(sys.modules, "lightning.pytorch", types.SimpleNamespace(LightningModule=base))
    monkeypatch.delitem(sys.modules, "pytorch_lightning")
    home = "gradnets_fast.interop.lightning"
    monkeypatch.setattr(interop, "lightning", sys.modules[home])  # which an import of it sets
    monkeypatch.delitem(sys.modules, home)
    assert importlib.import_module(home).GradNetLightning.__base__ is base
