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

from ..environment import place as place_of
from ..files import write_atomically
from ..readable import Row, size, times, title

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


@dataclass(frozen=True)
class _Place:
    """A case in the figure: the contenders that have a bar, where the first begins, and what stands above it."""

    row: Row
    names: list[str]
    top: float
    heading: str

    @property
    def bottom(self) -> float:
        """Where the last bar ends."""
        return self.top + len(self.names)


def save_figure(result: dict[str, Any], path: Path) -> None:
    """Draws gains of a preset, or rates of chosen cases, and writes them as PNG, atomically."""
    matplotlib.use("Agg")
    figure = _drawn(result, _RATES if result["preset"] is None else _GAINS)
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=150, format="png"))


def _drawn(result: dict[str, Any], kind: _Kind) -> Figure:
    jobs = list(result["rows"][0]["flops"]) if result["rows"] else ["forward", "step"]
    places = _places(result["rows"], jobs, kind)
    end = places[-1].bottom + _GAP / 2 if places else 1.0
    height = min(_MOST_INCHES, max(2.6, 1.3 + _INCHES_PER_BAR * end))
    figure = Figure(figsize=(13, height), layout="constrained")
    axes = figure.subplots(1, len(jobs), sharey=True)
    for axis, job in zip(axes, jobs):
        _panel(axis, job, places, kind)
    labels = [", ".join(filter(None, (p.row["variant"].replace("_", " "), size(p.row)))) for p in places]
    axes[0].set_yticks([(place.top + place.bottom) / 2 for place in places], labels)
    axes[0].set_ylim(end, 0)
    named = dict(zip(*reversed(axes[0].get_legend_handles_labels())))
    if named:
        figure.legend(named.values(), named, loc="outside lower center", ncols=len(named), frameon=False)
    where = result["environment"]
    figure.suptitle(f"{place_of(where)}, torch {where['torch']}", color=_INK)
    return figure


def _places(rows: list[Row], jobs: list[str], kind: _Kind) -> list[_Place]:
    """One case below the other, with a heading above each family's first."""
    places: list[_Place] = []
    for row in rows:
        names = [name for name in _STYLES if any(kind.length(row, name, job) for job in jobs)]
        if names:
            above = places[-1].bottom + _GAP / 2 if places else 0.0
            first = not places or row["family"] != places[-1].row["family"]
            heading = (row["family"] if kind is _GAINS else title({**row, "variant": ""})) if first else ""
            places.append(_Place(row, names, above + first * _HEADING + _GAP / 2, heading))
    return places


def _panel(axis: Axes, job: str, places: list[_Place], kind: _Kind) -> None:
    ends = [kind.start or 1.0]
    for place in places:
        # Above the plot's left edge, whatever the axis shows.
        left = axis.get_yaxis_transform()
        axis.text(0.0, place.top - 0.35, place.heading, transform=left, weight="bold", color=_INK)
        for k, name in enumerate(place.names):
            end = kind.length(place.row, name, job)
            if end is not None:
                ends.append(end)
                _bar(axis, place.top + k + 0.5, end, kind.start, name, place.row["gain"].get(name, {}).get(job))
        mark = kind.mark(place.row, job)
        if mark is not None:
            ends.append(mark)
            axis.plot([mark, mark], [place.top, place.bottom], color=_MARK, linewidth=2, label=kind.marked)
    if kind is _GAINS:
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter(lambda x, _: f"{x:g}×")
    # Room for the numbers at the bars' ends.
    axis.set_xlim((min(ends) * 0.7, max(ends) * 1.5) if kind is _GAINS else (0.0, 1.12 * max(ends)))
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
    side, shift = ("left", 3) if end >= start else ("right", -3)
    outline = [withStroke(linewidth=2.5, foreground="white")]
    text: dict[str, Any] = {"ha": side, "va": "center", "fontsize": 7.5, "color": _INK, "path_effects": outline}
    axis.annotate(times(gain), (end, y), xytext=(shift, 0), textcoords="offset points", **text)
