"""The libraries are imported when they are needed, and missed by name."""

from __future__ import annotations

import subprocess
import sys

import pytest

from gradnets_fast import interop
from gradnets_fast.interop._optional import require

LIBRARIES = {
    "GradNetPrior": "deepinv",
    "GradientStepDenoiser": "deepinv",
    "GradNetLightning": "lightning.pytorch or pytorch_lightning",
    "measure_transport": "ot",
}


def run(script: str) -> str:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout


def test_importing_imports_none_of_them_and_using_names_the_missing_one_with_the_extra() -> None:
    script = f"""
import sys, torch, gradnets_fast
from gradnets_fast.interop import GradientFlow, HamiltonianFlow, TransportReport, measure_transport
HamiltonianFlow(gradnets_fast.mGradNetC(2, 4, 5))(0.0, torch.zeros(3, 4))
print(*sys.modules)
for library in ("torchdiffeq", "deepinv", "lightning", "pytorch_lightning", "ot"):
    sys.modules[library] = None
from gradnets_fast import interop
for name in {list(LIBRARIES)}:
    try:
        getattr(interop, name)(lambda x: x, torch.zeros(3, 2), torch.zeros(3, 2))
    except ImportError as error:
        print(error)
"""
    loaded, *lines = run(script).splitlines()
    assert "gradnets_fast.interop.transport" in loaded.split()
    for library in ("torchdiffeq", "deepinv", "torchvision", "lightning", "pytorch_lightning", "ot", "scipy"):
        assert library not in loaded.split()
    assert len(lines) == len(LIBRARIES)
    for line, library in zip(lines, LIBRARIES.values()):
        assert f"import: expected {library}" in line
        assert line.endswith("; pip install 'gradnets_fast[interop]'")


def test_of_two_names_the_imported_one_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    assert require("a test", "colorsys", "sys") is sys
    import colorsys

    assert require("a test", "colorsys", "sys") is colorsys
    with pytest.raises(
        ImportError, match="a test: import: expected no_such or nor_this, got No module named 'no_such'; "
    ):
        require("a test", "no_such", "nor_this")


def test_names() -> None:
    assert set(interop.__all__) <= set(dir(interop))
    for name in interop.__all__:
        assert getattr(interop, name).__name__ == name
    with pytest.raises(AttributeError, match=r"module 'gradnets_fast.interop' has no attribute 'nothing'"):
        interop.nothing  # noqa: B018
