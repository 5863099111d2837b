"""load_reference_checkpoint: the files of the authors' networks alone make ours."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from authors import CMGN, NETWORKS, D
from gradnets_fast import load_reference_checkpoint, mGradNetC, mGradNetM
from oracle import assert_as_good_as_eager

CHECKPOINTS: dict[str, dict[str, Any]] = {
    "mGradNet_C, tanh": {"monotone": True, "activation": "tanh"},
    "mGradNet_C, weighted": {"monotone": True},
    "mGradNet_C, one layer": {"monotone": True, "activation": nn.Tanh},
    "GradNet_C, weighted, last but one": {"monotone": False},
    "mGradNet_M": {"monotone": True},
    "mGradNet_M, weighted": {"monotone": True},
    "GradNet_M": {"monotone": False},
    "mGradNet_M and logdet": {"monotone": True},
    "GradNet_M and logabsdet": {"monotone": False},
    "C_MGN, tanh": {"activation": "tanh"},
    "C_MGN, softplus, narrow V": {"activation": "softplus"},
    "C_MGN, sigmoid, wide V, one layer": {"activation": nn.Sigmoid(), "monotone": True},
    "M_MGN": {},
}
"""The authors' networks, with the arguments that their checkpoints do not tell."""


def f_of(net: nn.Module, x: Tensor) -> Tensor:
    result = net(x)
    f: Tensor = result if isinstance(result, Tensor) else result[0]
    return f.detach()


@pytest.mark.parametrize("name", CHECKPOINTS)
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_checkpoint_is_enough(name: str, wrapped: bool, tmp_path: Path) -> None:
    theirs, x = NETWORKS[name].make(), torch.randn(64, D)
    state: dict[str, Any] = dict(theirs.state_dict())
    if wrapped:
        state = {"model_state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 3}
    torch.save(state, tmp_path / "net.pt")
    ours = load_reference_checkpoint(tmp_path / "net.pt", **CHECKPOINTS[name])
    exact = copy.deepcopy(theirs).double()
    assert_as_good_as_eager([f_of(ours, x)], [f_of(theirs, x)], [f_of(exact, x.double())])
    assert ours.monotone == NETWORKS[name].monotone


@pytest.mark.parametrize("name", [name for name in CHECKPOINTS if "GradNet" in name])
def test_the_networks_of_2024_load_strictly_and_save_back_unchanged(name: str) -> None:
    theirs = NETWORKS[name].make()
    state = theirs.state_dict()
    ours = load_reference_checkpoint(state, **CHECKPOINTS[name])
    assert list(ours.state_dict()) == list(state)
    assert all(torch.equal(value, state[key]) for key, value in ours.state_dict().items())
    theirs.load_state_dict(ours.state_dict(), strict=True)


def test_the_networks_of_2023_are_monotone_ones_of_ours() -> None:
    theirs = NETWORKS["C_MGN, softplus, narrow V"].make()
    ours = load_reference_checkpoint(theirs.state_dict(), activation="softplus")
    assert type(ours) is mGradNetC
    assert torch.equal(ours.W, theirs.W.T)
    torch.testing.assert_close(ours.linear.matrix(), theirs.V @ theirs.V.T)
    ones = [nn.functional.softplus(weights) for weights in (*ours.beta, *ours.alpha)]
    torch.testing.assert_close(torch.stack(ones), torch.ones(len(ones), ours.embed_dim), rtol=2e-7, atol=0.0)
    assert type(load_reference_checkpoint(NETWORKS["M_MGN"].make().state_dict())) is mGradNetM


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_the_dtype_is_that_of_the_weights(dtype: torch.dtype) -> None:
    theirs = CMGN(torch.tanh, rank=5).to(dtype)
    ours = load_reference_checkpoint(theirs.state_dict(), activation="tanh")
    assert {parameter.dtype for parameter in ours.parameters()} == {dtype}
    x = torch.randn(9, D, dtype=dtype)
    exact = copy.deepcopy(theirs).double()
    assert_as_good_as_eager([f_of(ours, x)], [f_of(theirs, x)], [f_of(exact, x.double())])


def test_a_checkpoint_that_tells_too_little_or_something_else() -> None:
    weights = NETWORKS["mGradNet_C, tanh"].make().state_dict()
    earlier = CMGN(torch.tanh).state_dict()
    with pytest.raises(ValueError, match="load_reference_checkpoint: activation: expected given"):
        load_reference_checkpoint(weights, monotone=True)
    with pytest.raises(ValueError, match="load_reference_checkpoint: activation: expected given"):
        load_reference_checkpoint(earlier)
    with pytest.raises(ValueError, match="load_reference_checkpoint: monotone: expected True for an mGradNet or False"):
        load_reference_checkpoint(weights, activation="tanh")
    with pytest.raises(ValueError, match=r"monotone: expected True for a C-MGN or M-MGN.*got False; leave it out"):
        load_reference_checkpoint(earlier, monotone=False, activation="tanh")
    with pytest.raises(ValueError, match="load_reference_checkpoint: source: expected the weights of"):
        load_reference_checkpoint(weights, monotone=True, activation="weighted_tanh")
    with pytest.raises(ValueError, match=r"expected the weights of mGradNetC(.|\n)*gate"):
        load_reference_checkpoint({**earlier, "gate": torch.zeros(())}, activation="tanh")
    with pytest.raises(ValueError, match="activation: expected nondecreasing functions"):
        load_reference_checkpoint(earlier, activation="gelu")
    with pytest.raises(ValueError, match="load_reference_checkpoint: source: expected names of a cascade"):
        load_reference_checkpoint(nn.Linear(2, 2).state_dict(), monotone=True)
    with pytest.raises(TypeError, match="load_reference_checkpoint: source: expected a state_dict"):
        load_reference_checkpoint({"epoch": 3}, monotone=True)
