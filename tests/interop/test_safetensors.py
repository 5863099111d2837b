"""Networks as safetensors files, by that library's own functions: nothing of ours is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, load_model, save_file, save_model

from gradnets_fast.apps.train.checkpoint import CHECKPOINT_FILE, save_checkpoint
from gradnets_fast.apps.train.settings import Settings
from gradnets_fast.apps.train.training import Trainer
from gradnets_fast.nn import registry
from gradnets_fast.nn.registry import ARCHITECTURES

CASES = {(type(case.make()), tuple(sorted(case.make().state_dict()))): case for case in registry.cases()}
"""One case for each class and set of parameters."""
cases = pytest.mark.parametrize("case", CASES.values(), ids=[case.label for case in CASES.values()])


def assert_same(a: torch.nn.Module, b: torch.nn.Module) -> None:
    ours, theirs = a.state_dict(), b.state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert value.dtype == theirs[name].dtype
        assert torch.equal(value, theirs[name]), name


@cases
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_files_give_back_every_bit(case: registry.Case, dtype: torch.dtype, tmp_path: Path) -> None:
    net, by_model, by_file = (case.make(dtype=dtype) for _ in range(3))
    x = torch.randn(5, net.in_dim, dtype=dtype)
    assert not torch.equal(net(x), by_model(x))
    save_model(net, str(tmp_path / "model.safetensors"))
    assert load_model(by_model, str(tmp_path / "model.safetensors")) == (set(), [])
    save_file(net.state_dict(), tmp_path / "state.safetensors")
    by_file.load_state_dict(load_file(tmp_path / "state.safetensors"))
    for loaded in (by_model, by_file):
        assert_same(net, loaded)
        assert torch.equal(net(x), loaded(x))


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_checkpoints_of_the_command_line_are_read(arch: str, tmp_path: Path) -> None:
    settings: Any = {"embed_dim": 5, "layers": 2, "batch_size": 50, "samples": 200, "steps": 4}
    trained, fresh = Trainer(Settings(arch=arch, **settings)), Trainer(Settings(arch=arch, seed=1, **settings))
    for _ in range(4):
        trained.advance()
    save_checkpoint(tmp_path, trained.checkpoint())
    with safe_open(tmp_path / CHECKPOINT_FILE, "pt") as file:
        assert file.metadata()["step"] == "4"
        names = [name for name in file.keys() if name.startswith("model.")]  # noqa: SIM118
        state = {name.removeprefix("model."): file.get_tensor(name) for name in names}
    fresh.module.load_state_dict(state)
    assert_same(trained.module, fresh.module)
