"""The figure of a run: bars of gain over eager PyTorch, case by case."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from ..files import write_atomically
from .readable import times
from .results import size
from .style import COLOURS, INK, NAMES, legend, where
from .work import JOBS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TARGET = "#c1440e"
_BAR, _GAP, _HEADING = 1.0, 0.9, 1.6
_INCHES_PER_BAR = 0.17
_CLEARANCE = 1.5  # how much longer than a bar its number reaches, as a factor


def save_figure(result: dict[str, Any], path: Path) -> None:
    """Draws what a run is about and writes it as PNG, atomically: gains of a preset, rates of chosen cases."""
    from .throughput import drawn

    matplotlib.use("Agg")
    figure = _gains(result) if result["preset"] is not None else drawn(result)
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=150, format="png"))


def _gains(result: dict[str, Any]) -> Figure:
    rows = [row for row in result["rows"] if row["gain"]]
    names = [name for name in COLOURS if any(name in row["gain"] for row in rows)]
    places = _places(rows, names)
    height = max((bottom for _, _, bottom in places), default=1.0)
    figure = Figure(figsize=(13, max(2.6, 1.3 + _INCHES_PER_BAR * height)), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, job in zip(axes, JOBS):
        _draw(axis, job, rows, names, places)
        axis.set_ylim(height, 0)
    axes[0].set_yticks([y for _, y, _ in places], [_label(row) for row in rows])
    legend(figure, axes[0])
    figure.suptitle(f"Gain over eager PyTorch: {where(result)}", color=INK)
    return figure


def _places(rows: list[dict[str, Any]], names: list[str]) -> list[tuple[str, float, float]]:
    """For each row its heading, empty but at a family's first, the middle of its bars, and their lower end."""
    places: list[tuple[str, float, float]] = []
    bottom, family = 0.0, None
    for row in rows:
        heading = row["family"] if row["family"] != family else ""
        family = row["family"]
        top = bottom + (_HEADING if heading else 0.0) + _GAP / 2
        bars = _BAR * sum(name in row["gain"] for name in names)
        bottom = top + bars + _GAP / 2
        places.append((heading, top + bars / 2, bottom))
    return places


def _label(row: dict[str, Any]) -> str:
    return ", ".join(part for part in (row["variant"].replace("_", " "), size(row)) if part)


def _draw(axis: Axes, job: str, rows: list[dict[str, Any]], names: list[str], places: list[Any]) -> None:
    gains = [row["gain"][name][job] for row in rows for name in names if name in row["gain"]] or [1.0]
    targets = [row["target"][job] for row in rows if row["target"]]
    axis.set_xscale("log")
    # Room for the numbers at the bars' ends.
    low, high = min(0.8, *gains), max(1.3, *gains, *targets)
    axis.set_xlim(low * (low / high) ** 0.14, high * (high / low) ** 0.14)
    seen: set[str] = set()
    for row, (heading, middle, _) in zip(rows, places):
        present = [name for name in names if name in row["gain"]]
        top = middle - _BAR * len(present) / 2
        if heading and job == JOBS[0]:
            transform = axis.get_yaxis_transform()
            axis.text(-0.01, top - 0.35, heading, transform=transform, weight="bold", ha="right", color=INK)
        for k, name in enumerate(present):
            target = row["target"][job] if row["target"] and name == "ours" else None
            label = "" if name in seen else NAMES[name]
            _bar(axis, top + _BAR * (k + 0.5), row["gain"][name][job], name, label, target)
            seen.add(name)
        if row["target"]:
            y = top + _BAR * (present.index("ours") + 0.5) if "ours" in present else middle
            label = "" if "target" in seen else "target"
            axis.plot([row["target"][job]] * 2, [y - 0.5, y + 0.5], color=_TARGET, linewidth=2, label=label)
            seen.add("target")
    axis.axvline(1.0, color=INK, linewidth=1.0)
    axis.set_title(job if job == "forward" else "step: forward and backward", color=INK)
    _tidy(axis)


def _bar(axis: Axes, y: float, gain: float, name: str, label: str, target: float | None) -> None:
    axis.barh(y, gain - 1.0, left=1.0, height=0.86 * _BAR, color=COLOURS[name], label=label)
    right = gain >= 1.0
    # The number clears the target's mark where that would cross it.
    end = target if target is not None and right and gain < target < _CLEARANCE * gain else gain
    axis.annotate(
        times(gain),
        (end, y),
        xytext=(3 if right else -3, 0),
        textcoords="offset points",
        ha="left" if right else "right",
        va="center",
        fontsize=7.5,
        color=INK,
        weight="bold" if name == "ours" else "normal",
        path_effects=[withStroke(linewidth=2.5, foreground="white")],
    )


def _tidy(axis: Axes) -> None:
    low, high = axis.get_xlim()
    ticks = [t for t in (0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64) if low <= t <= high]
    axis.set_xticks(ticks, [f"{t:g}×" for t in ticks])
    axis.minorticks_off()
    axis.tick_params(length=0, labelsize=8.5, labelcolor=INK)
    axis.grid(axis="x", alpha=0.25)
    axis.set_axisbelow(True)
    for side in ("top", "right", "left", "bottom"):
        axis.spines[side].set_visible(False)
