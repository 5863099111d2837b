"""The figure of a run: the field, the learned field and the error in two dimensions; the loss curve otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
import torch

from ...backend import use_backend
from ..files import write_atomically
from .evaluation import Evaluation
from .losses import decibel
from .training import Trainer
from .transport import TransportProblem
from .transport_evaluation import TransportEvaluation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ARROWS, _DRAWN = 15, 1000
_FIELD_MAP, _ERROR_MAP, _INK = "viridis", "magma", "#1b3a4b"


def save_figure(trainer: Trainer, evaluation: Evaluation | TransportEvaluation, path: Path) -> None:
    """Draw the run and write it as PNG, atomically."""
    matplotlib.use("Agg")
    if isinstance(evaluation, TransportEvaluation):
        figure = _draw_transport(trainer, evaluation)
    else:
        figure = _draw(trainer, evaluation)
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=150, format="png"))


def _draw(trainer: Trainer, evaluation: Evaluation) -> Figure:
    from matplotlib.figure import Figure

    settings, problem = trainer.settings, trainer.problem
    two_dimensional = problem.field is not None and problem.source.dim == 2
    figure = Figure(figsize=(14, 4.2) if two_dimensional else (7, 4.2), layout="constrained")
    title = f"{type(trainer.module).__name__} on {problem.label}"
    if evaluation.error_db is not None:
        title += f": {evaluation.error_db:.2f} dB"
    figure.suptitle(
        f"{title}, {evaluation.parameters} parameters, {settings.steps} steps of {settings.batch_size}",
        fontsize="medium",
        parse_math=False,
    )
    if two_dimensional:
        axes = figure.subplots(1, 4, gridspec_kw={"width_ratios": [1, 1, 1, 1.15]})
        _draw_fields(figure, axes, trainer, evaluation.backend)
        _draw_curve(axes[3], trainer, evaluation)
    else:
        _draw_curve(figure.subplots(), trainer, evaluation)
    return figure


def _draw_fields(figure: Figure, axes: Any, trainer: Trainer, backend: str) -> None:
    problem = trainer.problem
    with torch.no_grad(), use_backend(backend):
        learned = trainer.module(problem.test_x).cpu().numpy()
    target, points = problem.test_g.cpu().numpy(), problem.test_x.cpu().numpy()
    side = round(len(points) ** 0.5)
    top = max(np.linalg.norm(target, axis=1).max(), np.linalg.norm(learned, axis=1).max())
    panels = [("target field ∇F", target), ("learned field f", learned)]
    image: Any = None
    for axis, (title, field) in zip(axes, panels):
        image = _map(axis, np.linalg.norm(field, axis=1), side, title, _FIELD_MAP, (0.0, top))
        rows = _arrow_rows(side)
        (px, py), (fx, fy) = points[rows].T, field[rows].T
        axis.quiver(px, py, fx, fy, color="white", width=0.006, scale=top * _ARROWS, scale_units="width")
    figure.colorbar(image, ax=list(axes[:2]), label="norm", shrink=0.9)
    error = np.linalg.norm(learned - target, axis=1)
    image = _map(axes[2], error, side, "error |f − ∇F|", _ERROR_MAP, (0.0, error.max()))
    figure.colorbar(image, ax=axes[2], shrink=0.9)


def _arrow_rows(side: int) -> np.ndarray:
    line = np.linspace(side / (2 * _ARROWS), side - 1 - side / (2 * _ARROWS), _ARROWS).round().astype(int)
    rows: np.ndarray = (line[:, None] * side + line[None, :]).reshape(-1)
    return rows


def _map(axis: Axes, values: np.ndarray, side: int, title: str, colours: str, limits: tuple[float, float]) -> Any:
    axis.set_title(title)
    axis.set_xlabel("x₁")
    axis.set_ylabel("x₂")
    low, high = limits
    grid = values.reshape(side, side).T
    return axis.imshow(grid, origin="lower", extent=(0, 1, 0, 1), cmap=colours, vmin=low, vmax=high)


def _draw_curve(axis: Axes, trainer: Trainer, evaluation: Evaluation) -> None:
    if trainer.settings.fit != "gradient":
        _draw_loss(axis, trainer)
        return
    assert evaluation.error_db is not None
    steps = [step for step, _ in trainer.history]
    axis.plot(steps, [decibel(loss) for _, loss in trainer.history], color=_INK, linewidth=1.0, label="training batch")
    axis.axhline(evaluation.error_db, color="#c1440e", linestyle="--", linewidth=1.2, label="test points, at the end")
    axis.set_title("mean squared error")
    axis.set_xlabel("step")
    axis.set_ylabel("dB")
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)


def _draw_transport(trainer: Trainer, evaluation: TransportEvaluation) -> Figure:
    """The loss, and in two dimensions source, image and target with the ways of some points."""
    from matplotlib.figure import Figure

    problem = trainer.problem
    assert isinstance(problem, TransportProblem)
    two_dimensional = problem.source.dim == 2
    figure = Figure(figsize=(12, 4.2) if two_dimensional else (7, 4.2), layout="constrained")
    title = f"{type(trainer.module).__name__}: {problem.label}, {evaluation.parameters} parameters"
    figure.suptitle(title, fontsize="medium", parse_math=False)
    axes = figure.subplots(1, 3 if two_dimensional else 1, squeeze=False)[0]
    if two_dimensional:
        points = problem.test_x[:_DRAWN]
        with torch.no_grad(), use_backend(evaluation.backend):
            moved = trainer.module(points).cpu().numpy()
        x, y = (each[:_DRAWN].cpu().numpy() for each in (points, problem.test_y))
        axes[0].scatter(*x.T, s=4, color=_INK, label="source x")
        axes[0].scatter(*moved.T, s=4, color="#c1440e", label="f(x)")
        few = slice(0, _ARROWS**2 // 2)
        axes[0].quiver(*x[few].T, *(moved - x)[few].T, angles="xy", scale_units="xy", scale=1, width=0.002, alpha=0.5)
        axes[1].scatter(*y.T, s=4, color="#8a8a8a", label="target y")
        axes[1].scatter(*moved.T, s=4, color="#c1440e", label="f(x)")
        for axis in axes[:2]:
            axis.set_aspect("equal", adjustable="datalim")
            axis.legend(frameon=False)
    _draw_loss(axes[-1], trainer)
    return figure


def _draw_loss(axis: Axes, trainer: Trainer) -> None:
    axis.plot(*zip(*trainer.history), color=_INK, linewidth=1.0)
    axis.set_title("loss of a batch")
    axis.set_xlabel("step")
    losses = [loss for _, loss in trainer.history]
    if losses and 0 < 10 * min(losses) < max(losses):
        axis.set_yscale("log")
    axis.grid(alpha=0.3)
