"""The figure of a run: for each case and job a bar for each contender, with its gain over eager PyTorch.

A preset's bars are the gains themselves, from 1 on; those of chosen cases are rates, up to what the machine allows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from ..files import write_atomically
from .environment import place
from .readable import Row, size, times, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _MARK = "#1b3a4b", "#c1440e"
_STYLES = {
    "eager": ("PyTorch", "#d7dde1"),
    "authors": ("authors' structure", "#b8c4cc"),
    "compile": ("torch.compile", "#e0a458"),
    "compile, max-autotune": ("torch.compile, max-autotune", "#c98a3a"),
    "ours": ("gradnets_fast", "#1b6b93"),
    "ours float32": ("in float32", "#7fb3c8"),
    "reference": ("gradnets_fast, reference", "#8d99ae"),
    "cpp": ("gradnets_fast, cpp", "#1b6b93"),
    "triton": ("gradnets_fast, triton", "#2a9d6f"),
}
"""Each contender's name in the legend and colour, in the order of the bars."""

_TITLES = {"forward": "forward", "backward": "backward", "step": "step: forward and backward"}
_GAP, _HEADING = 0.9, 1.6
"""Between cases, and above each family, in bars."""

_INCHES_PER_BAR, _MOST_INCHES = 0.17, 300.0


@dataclass(frozen=True)
class _Kind:
    """What a figure shows.

    Attributes:
        length: (row, contender, job) -> a bar's end, or None for no bar.
        start: where bars begin.
        mark: (row, job) -> where to draw a line across a case's bars, or None.
        marked: the name of these lines in the legend.
        unit: below the axis.
    """

    length: Callable[[Row, str, str], float | None]
    start: float
    mark: Callable[[Row, str], float | None]
    marked: str
    unit: str


_GAINS = _Kind(
    length=lambda row, name, job: row["gain"].get(name, {}).get(job),
    start=1.0,
    mark=lambda row, job: (row["target"] or {}).get(job),
    marked="target",
    unit="gain over eager PyTorch",
)
_RATES = _Kind(
    length=lambda row, name, job: row["contenders"].get(name, {}).get("gflops", {}).get(job),
    start=0.0,
    mark=lambda row, job: 1e-6 * row["flops"][job] / row["bound"][job]["milliseconds"],
    marked="what the machine allows",
    unit="GFLOP/s",
)


def save_figure(result: dict[str, Any], path: Path) -> None:
    """Draws gains of a preset, or rates of chosen cases, and writes them as PNG, atomically."""
    matplotlib.use("Agg")
    figure = _drawn(result, _RATES if result["preset"] is None else _GAINS)
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=150, format="png"))


def _drawn(result: dict[str, Any], kind: _Kind) -> Figure:
    jobs = list(result["rows"][0]["flops"]) if result["rows"] else ["forward", "step"]
    bars = [[n for n in _STYLES if any(kind.length(row, n, job) for job in jobs)] for row in result["rows"]]
    shown = [(row, names) for row, names in zip(result["rows"], bars) if names]
    ends = _ends(shown)
    height = min(_MOST_INCHES, max(2.6, 1.3 + _INCHES_PER_BAR * ends[-1]))
    figure = Figure(figsize=(13, height), layout="constrained")
    axes = figure.subplots(1, len(jobs), sharey=True)
    for axis, job in zip(axes, jobs):
        _panel(axis, job, shown, ends, kind)
    middles = [end - (_GAP + len(names)) / 2 for (_, names), end in zip(shown, ends)]
    axes[0].set_yticks(middles, [_label(row) for row, _ in shown])
    axes[0].set_ylim(ends[-1], 0)
    handles, labels = axes[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=len(handles), frameon=False)
    where = result["environment"]
    figure.suptitle(f"{place(where)}, torch {where['torch']}", color=_INK)
    return figure


def _ends(shown: list[tuple[Row, list[str]]]) -> list[float]:
    """The lower end of each case, a heading above each family's first."""
    ends, bottom = [], 0.0
    for k, (row, names) in enumerate(shown):
        heading = k == 0 or row["family"] != shown[k - 1][0]["family"]
        bottom += heading * _HEADING + len(names) + _GAP
        ends.append(bottom)
    return ends or [1.0]


def _label(row: Row) -> str:
    return ", ".join(part for part in (row["variant"].replace("_", " "), size(row)) if part)


def _panel(axis: Axes, job: str, shown: list[tuple[Row, list[str]]], ends: list[float], kind: _Kind) -> None:
    lengths = [kind.start or 1.0]
    if kind is _GAINS:
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter(lambda x, _: f"{x:g}×")
    family = None
    for (row, names), end in zip(shown, ends):
        top = end - _GAP / 2 - len(names)
        if row["family"] != family:
            family = row["family"]
            text = family if kind is _GAINS else title({**row, "variant": ""})
            axis.text(0.0, top - 0.35, text, transform=axis.get_yaxis_transform(), weight="bold", color=_INK)
        for k, name in enumerate(names):
            length = kind.length(row, name, job)
            if length is not None:
                lengths.append(length)
                _bar(axis, top + k + 0.5, length, kind.start, name, row["gain"].get(name, {}).get(job))
        mark = kind.mark(row, job)
        if mark is not None:
            lengths.append(mark)
            axis.plot([mark, mark], [top, top + len(names)], color=_MARK, linewidth=2, label=kind.marked)
    _once(axis)
    low, high = min(lengths), max(lengths)
    # Room for the numbers at the bars' ends.
    axis.set_xlim((low * 0.7, high * 1.5) if kind is _GAINS else (0.0, 1.12 * high))
    axis.set_title(_TITLES[job], color=_INK)
    axis.set_xlabel(kind.unit, color=_INK)
    axis.axvline(kind.start, color=_INK, linewidth=1.0)
    axis.minorticks_off()
    axis.tick_params(length=0, labelsize=8.5, labelcolor=_INK)
    axis.grid(axis="x", alpha=0.25)
    axis.set_axisbelow(True)
    axis.spines[:].set_visible(False)


def _bar(axis: Axes, y: float, end: float, start: float, name: str, gain: float | None) -> None:
    label, colour = _STYLES[name]
    axis.barh(y, end - start, left=start, height=0.86, color=colour, label=label)
    right = end >= start
    axis.annotate(
        times(gain),
        (end, y),
        xytext=(3 if right else -3, 0),
        textcoords="offset points",
        ha="left" if right else "right",
        va="center",
        fontsize=7.5,
        color=_INK,
        path_effects=[withStroke(linewidth=2.5, foreground="white")],
    )


def _once(axis: Axes) -> None:
    """Leaves each name in the legend once."""
    seen: set[str] = set()
    artists: list[Any] = [*axis.containers, *axis.lines]
    for artist in artists:
        label = str(artist.get_label())
        if label in seen:
            artist.set_label("_")
        seen.add(label)
