"""The example of images: bench/denoising.py in few steps, and its committed result."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from bench import denoising
from bench.environment import RESULTS


@pytest.mark.slow
def test_it_trains_compares_and_draws(tmp_path: Path) -> None:
    """So few steps take a part of the noise, by PyTorch as by ours, or the script raises."""
    denoising.main(["--quick", "--out", str(tmp_path)])
    result = json.loads((tmp_path / "denoising.json").read_text(encoding="utf-8"))
    assert result["environment"]["torch"] == torch.__version__
    (row,) = result["rows"]
    ratios = row["psnr_db"]
    assert ratios["noisy"] == pytest.approx(20.17, abs=0.05)
    assert denoising.WEIGHTS[0] < row["weight"] < denoising.WEIGHTS[-1]
    assert ratios["total variation"] > ratios["noisy"] + 8
    for kind in denoising.NETWORKS:
        assert ratios[kind] > ratios["noisy"] + 2
        assert result["training"][kind]["step"]["gain"] > 0
    assert (tmp_path / "denoising.png").read_bytes()[:4] == b"\x89PNG"


def test_the_committed_result() -> None:
    """The weakly convex regulariser, of pictures that it was not trained on, beside total variation at its best."""
    result = json.loads((RESULTS / "denoising.json").read_text(encoding="utf-8"))
    assert [row["picture"] for row in result["rows"]] == list(denoising.TEST)
    assert not {*denoising.TEST} & {*denoising.TRAINING}
    for row in result["rows"]:
        assert row["psnr_db"]["weakly convex"] > row["psnr_db"]["total variation"] + 0.3


def test_a_network_that_is_not_the_same_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    other = iter(range(1, 100))
    monkeypatch.setattr(denoising, "denoised", lambda net, y: next(other) * net(y))
    with pytest.raises(RuntimeError, match="losses by PyTorch and by ours are"):
        denoising.step_times(denoising.network("convex"), torch.rand(1, 1, 9, 9), 1)


def test_scikit_image_is_missed_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(ImportError, match=r"expected scikit-image, got .*; pip install 'gradnets_fast\[images\]'"):
        denoising.picture("camera")
