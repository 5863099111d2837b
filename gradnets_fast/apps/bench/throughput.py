"""The figure of chosen cases: operations a second of each contender, shape by shape, and what the machine allows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from .readable import times
from .results import Row
from .style import COLOURS, INK, NAMES, legend, where
from .work import JOBS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH_OF_GROUP = 0.84
_INCHES_PER_PANEL, _MOST_PANELS = 2.7, 40
_TERA = 1000.0


def drawn(result: dict[str, Any]) -> Figure:
    """A panel for each job of each operator or network."""
    groups: dict[str, list[Row]] = {}
    for row in result["rows"]:
        if any("gflops" in outcome for outcome in row["contenders"].values()):
            groups.setdefault(_title(row), []).append(row)
    shown = dict(list(groups.items())[:_MOST_PANELS])
    names = [name for name in COLOURS if any(name in r["contenders"] for rows in shown.values() for r in rows)]
    height = 1.0 + _INCHES_PER_PANEL * max(1, len(shown))
    figure = Figure(figsize=(11, height), layout="constrained")
    axes = figure.subplots(max(1, len(shown)), len(JOBS), squeeze=False)
    for (title, rows), line in zip(shown.items(), axes):
        for axis, job in zip(line, JOBS):
            _panel(axis, job, rows, names)
            axis.set_title(f"{title}, {job}", color=INK, fontsize=9.5)
    legend(figure, axes[0][0])
    figure.suptitle(where(result), color=INK, fontsize=10)
    return figure


def _title(row: Row) -> str:
    variant = f", {row['variant'].replace('_', ' ')}" if row["variant"] else ""
    dtype = "" if row["dtype"] in row["family"] else f", {row['dtype']}"
    return f"{row['family']}{variant}{dtype}"


def _panel(axis: Axes, job: str, rows: list[Row], names: list[str]) -> None:
    rates = [outcome["gflops"][job] for row in rows for outcome in row["contenders"].values() if "gflops" in outcome]
    allowed = [1e-6 * row["flops"][job] / row["bound"][job]["milliseconds"] for row in rows]
    factor, unit = (1 / _TERA, "TFLOP/s") if max([*rates, *allowed]) >= _TERA else (1.0, "GFLOP/s")
    width = _WIDTH_OF_GROUP / max(1, len(names))
    for k, name in enumerate(names):
        places = [g + (k + 0.5) * width - _WIDTH_OF_GROUP / 2 for g in range(len(rows))]
        _bars(axis, [r["contenders"].get(name, {}) for r in rows], places, width, name, job, factor)
        for row, x in zip(rows, places):
            _gain(axis, row, name, job, x, factor)
    half = _WIDTH_OF_GROUP / 2
    starts, ends = [g - half for g in range(len(rows))], [g + half for g in range(len(rows))]
    bound = [factor * rate for rate in allowed]
    axis.hlines(bound, starts, ends, color=INK, linewidth=1.2, linestyle="--", label="what the machine allows")
    axis.set_xticks(range(len(rows)), [f"{r['batch']}×{r['d']}×{r['h']}\n{r['bound'][job]['by']}" for r in rows])
    axis.set_ylabel(unit, color=INK)
    axis.set_ylim(0, 1.16 * max([*bound, *(factor * rate for rate in rates)]))
    axis.tick_params(length=0, labelsize=8, labelcolor=INK)
    axis.grid(axis="y", alpha=0.25)
    axis.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)


def _bars(
    axis: Axes, outcomes: list[Any], places: list[float], width: float, name: str, job: str, factor: float
) -> None:
    heights = [factor * outcome["gflops"][job] if "gflops" in outcome else 0.0 for outcome in outcomes]
    axis.bar(places, heights, 0.92 * width, color=COLOURS[name], label=NAMES[name])


def _gain(axis: Axes, row: Row, name: str, job: str, x: float, factor: float) -> None:
    """The gain over eager PyTorch above a bar."""
    gain = row["gain"].get(name, {}).get(job)
    if gain is not None:
        height = factor * row["contenders"][name]["gflops"][job]
        axis.annotate(
            times(gain),
            (x, height),
            (0, 2),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=7,
            color=INK,
        )
