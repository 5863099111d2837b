"""What the figures share: colours and names of contenders, the legend, where it was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .environment import place

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#1b3a4b"
COLOURS = {
    "eager": "#d7dde1",
    "authors": "#b8c4cc",
    "compile": "#e0a458",
    "ours": "#1b6b93",
    "ours float32": "#7fb3c8",
    "reference": "#8d99ae",
    "cpp": "#1b6b93",
    "triton": "#2a9d6f",
}
NAMES = {
    "eager": "PyTorch",
    "authors": "authors' structure",
    "compile": "torch.compile",
    "ours": "gradnets_fast",
    "ours float32": "in float32",
    "reference": "gradnets_fast, reference",
    "cpp": "gradnets_fast, cpp",
    "triton": "gradnets_fast, triton",
}


def legend(figure: Figure, axis: Axes) -> None:
    """Below the figure, of one of its axes, if that has anything to name."""
    handles, labels = axis.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=len(handles), frameon=False)


def where(result: dict[str, Any]) -> str:
    """Where a result was measured."""
    return f"{place(result['environment'])}, torch {result['environment']['torch']}"
