"""The command `gradnets-fast train`, over `apps/train`: its options, files, progress and report."""

from __future__ import annotations

import dataclasses
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ... import __version__
from ...activations import TRANSFORMS
from ...errors import check_positive, message
from ...nn.modular import COMBINATIONS
from ...nn.registry import ARCHITECTURES
from ..files import clear, locked, prepare_folder, write_json
from ..train.checkpoint import (
    CHECKPOINT_FILE,
    SETTINGS_FILE,
    Checkpoint,
    load_checkpoint,
    load_settings,
    save_checkpoint,
)
from ..train.columns import FITS
from ..train.evaluation import Evaluation, evaluate
from ..train.fields import FIELDS
from ..train.losses import decibel
from ..train.ranks import Ranks, processes
from ..train.settings import PRECISIONS, SCHEDULES, TASKS, Settings, resolved_streams
from ..train.training import Trainer
from ..train.transport_evaluation import TransportEvaluation, evaluate_transport
from .errors import help_of, one_line_errors, plain_console

_PLAIN_LINES = 10
_TRANSPORT_STEPS = 1000
_REPORT_FILE, _FIGURE_FILE = "report.json", "figure.png"
_FILES = (CHECKPOINT_FILE, _REPORT_FILE, _FIGURE_FILE, SETTINGS_FILE)


class Folder(NamedTuple):
    """The folder of a run; overwrite: whether an earlier run's files may go; held: what keeps it locked."""

    path: Path
    overwrite: bool
    held: ExitStack


def train(
    context: typer.Context,
    field: Annotated[str | None, typer.Option(help=help_of("Synthetic field", FIELDS) + " (default: convex2d)")] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="File of samples (.csv, .parquet, .npz, .npy) in place of a field; or a folder or quoted pattern of "
            ".parquet and .npz shards, which are streamed."
        ),
    ] = None,
    task: Annotated[str, typer.Option(help=help_of("What is learned", TASKS))] = Settings.task,
    target: Annotated[
        str | None, typer.Option(help="File of points that a transport carries those of --data to.")
    ] = None,
    fit: Annotated[
        str, typer.Option(help=help_of("What is fitted, for files gradients g0 …, values F, or both", FITS))
    ] = Settings.fit,
    gradient_weight: Annotated[
        float, typer.Option(help="Factor of the mean of |f − ∇F|², with --fit both.")
    ] = Settings.gradient_weight,
    value_weight: Annotated[
        float, typer.Option(help="Factor of the mean squared error of the potential, with --fit both.")
    ] = Settings.value_weight,
    arch: Annotated[str, typer.Option(help=help_of("Architecture", ARCHITECTURES))] = Settings.arch,
    dim: Annotated[int | None, typer.Option(help="Dimension, for polymax and for a Gaussian's transport.")] = None,
    embed_dim: Annotated[int, typer.Option(help="Hidden units h (per module).")] = Settings.embed_dim,
    layers: Annotated[int, typer.Option(help="Layers, or modules.")] = Settings.layers,
    activation: Annotated[
        str | None, typer.Option(help="A name of the activation table, or several joined by +.")
    ] = None,
    transform: Annotated[
        str | None, typer.Option(help=help_of("Transform ρ of each module's ridge sum", TRANSFORMS))
    ] = None,
    combine: Annotated[str, typer.Option(help=help_of("Combination of modules", COMBINATIONS))] = Settings.combine,
    linear: Annotated[str | None, typer.Option(help="Linear part: psd or symmetric.")] = None,
    loss: Annotated[
        str, typer.Option(help="squared; or nearest, under which logsumexp's modules find their own points.")
    ] = Settings.loss,
    batch_size: Annotated[int, typer.Option(help="Points per step.")] = Settings.batch_size,
    samples: Annotated[int, typer.Option(help="Training points drawn from the field.")] = Settings.samples,
    steps: Annotated[
        int | None, typer.Option(help="Steps of Adam. (default: 200 epochs, of a transport 1000 steps)")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training points, in place of --steps.")] = None,
    lr: Annotated[
        float | None, typer.Option(help="Learning rate of Adam. (default: 1e-2, for gradnet-m and mgradnet-m 5e-3)")
    ] = None,
    schedule: Annotated[
        str | None,
        typer.Option(help=help_of("Schedule", SCHEDULES) + " (default: cosine, for gradnet-m and mgradnet-m constant)"),
    ] = None,
    clip: Annotated[
        float | None, typer.Option(help="The most that the gradient's norm may be. (default: none, of a transport 2)")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of data, initialisation and shuffling.")] = 0,
    backend: Annotated[str | None, typer.Option(help="reference, cpp or triton. (default: the fastest)")] = None,
    device: Annotated[str, typer.Option(help="A torch device; cuda under torchrun: one for each process.")] = "cpu",
    amp: Annotated[str, typer.Option(help=help_of("Precision of points and weights", PRECISIONS))] = Settings.amp,
    streams: Annotated[
        int | None,
        typer.Option(
            help="Parts of the shards, which processes divide among themselves. (default: 8, or the next "
            "multiple of their number)"
        ),
    ] = None,
    save_every: Annotated[float, typer.Option(help="Seconds between checkpoints.")] = 30.0,
    out: Annotated[Path, typer.Option(help="Folder for checkpoint, report and figure.")] = Path("runs/train"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint in --out, with its settings.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run in --out.")] = False,
) -> None:
    """Train a gradient network on a gradient field or as a transport map, and report error, Jacobian and speed.

    Under torchrun (torchrun --nproc-per-node 2 -m gradnets_fast train …) the processes share each batch; after a
    restart they go on from the checkpoint in --out.

    The potential of --fit potential and both is fitted to the values up to a constant, which the report has.
    """
    names = {each.name for each in dataclasses.fields(Settings)} - {"steps"}
    options = {name: value for name, value in context.params.items() if name in names}
    if task == "gradient" and field is None and data is None:
        options["field"] = Settings.field
    elif task == "transport" and steps is None and epochs is None:
        steps = _TRANSPORT_STEPS
    with one_line_errors(), processes(device) as ranks, ExitStack() as held:
        console = plain_console(quiet=ranks.rank > 0)
        if not save_every >= 0:
            raise ValueError(message("train", "save_every", "seconds, 0 or more", save_every, "for example 30"))
        if resume:
            trainer = _resumed(_given(context), Folder(out, overwrite, held), ranks)
        else:
            trainer = _started(options, steps, epochs, Folder(out, overwrite, held), ranks)
        trainer.get_ready()
        began, first = time.perf_counter(), trainer.step
        _train(console, trainer, save_every, out)
        spent = {"seconds": time.perf_counter() - began, "steps": trainer.step - first}
        if ranks.rank == 0:
            console.print("measuring error, Jacobian and time per step …")
            _finish(console, trainer, _evaluated(trainer), spent, out)


def _started(options: dict[str, Any], steps: int | None, epochs: int | None, folder: Folder, ranks: Ranks) -> Trainer:
    """A trainer of a new run; if torchrun has restarted this very run, at its checkpoint."""
    if steps is not None and epochs is not None:
        raise ValueError(message("train", "steps, epochs", "one of them", "both", "leave one out"))
    settings = ranks.from_first(lambda: Settings(**options, steps=1 if steps is None else steps))
    settings = dataclasses.replace(settings, streams=resolved_streams(settings.streams, ranks.size))
    trainer = Trainer(settings, ranks)
    if steps is None:
        count = 200 if epochs is None else epochs
        check_positive("train", "epochs", count)
        total = count * trainer.problem.source.steps_per_epoch
        trainer.settings = dataclasses.replace(trainer.settings, steps=total)
    # Process 0 alone looks and decides: the others might find what it has written meanwhile.
    checkpoint = ranks.from_first(lambda: _begun(trainer, folder))
    if checkpoint is not None:
        trainer.resume(checkpoint)
    return trainer


def _begun(trainer: Trainer, folder: Folder) -> Checkpoint | None:
    """The checkpoint of a run that torchrun has restarted; None for a new run, whose folder it prepares."""
    out = folder.path
    prepare_folder(out)
    folder.held.enter_context(locked(out))
    if trainer.ranks.restarts and _left_by(trainer.settings, out):
        return load_checkpoint(out)
    # The old checkpoint goes first, so that --resume never meets an earlier run's checkpoint beside these settings.
    clear(out, _FILES, folder.overwrite, other="--resume to go on, ")
    write_json(out / SETTINGS_FILE, trainer.settings.to_json())
    save_checkpoint(out, trainer.checkpoint())
    return None


def _left_by(settings: Settings, out: Path) -> bool:
    """Whether a run with these settings has left its checkpoint."""
    try:
        return load_settings(out) == settings.to_json() and (out / CHECKPOINT_FILE).is_file()
    except (FileNotFoundError, ValueError):
        return False


def _given(context: typer.Context) -> dict[str, Any]:
    """The options of the command line, without those that have their default."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name: context.params[name] for name, source in sources.items() if source and source.name == "COMMANDLINE"}


def _resumed(given: dict[str, Any], folder: Folder, ranks: Ranks) -> Trainer:
    """A trainer at the checkpoint of a run; options are those of that run, or refused."""
    if folder.overwrite:
        raise ValueError(message("train", "resume, overwrite", "one of them", "both", "leave one out"))
    settings, checkpoint = ranks.from_first(lambda: _left(folder))
    trainer = Trainer(settings, ranks)
    if "epochs" in given:
        given = {"steps": given["epochs"] * trainer.problem.source.steps_per_epoch} | given
    kept = settings.to_json()
    changed = {name: value for name, value in given.items() if value != kept.get(name, value)}
    if changed:
        expected, got = (", ".join(f"{name} {each[name]}" for name in changed) for each in (kept, changed))
        fix = "leave out what differs from the run that --resume goes on with, or start another"
        raise ValueError(message("train", ", ".join(changed), expected, got, fix))
    trainer.resume(checkpoint)
    return trainer


def _left(folder: Folder) -> tuple[Settings, Checkpoint]:
    """What a run has left in its folder, which is locked once there are settings."""
    load_settings(folder.path)
    folder.held.enter_context(locked(folder.path))
    return Settings.from_json(load_settings(folder.path)), load_checkpoint(folder.path)


def _train(console: Console, trainer: Trainer, save_every: float, out: Path) -> None:
    settings, ranks = trainer.settings, trainer.ranks
    console.print(
        f"training {type(trainer.module).__name__} "
        f"({sum(p.numel() for p in trainer.module.parameters())} parameters) on {trainer.problem.label}: "
        f"{settings.steps} steps of {settings.batch_size}"
        + (f", in {ranks.size} processes" if ranks.size > 1 else "")
        + (f", resumed at step {trainer.step}" if trainer.step else ""),
        highlight=False,
        soft_wrap=True,
    )
    try:
        with _progress(console, trainer) as report:
            interrupted = _interrupts() if ranks.size == 1 else nullcontext(list[int]())
            with interrupted as signals:
                for step in trainer.run(report, save_every, out):
                    if signals and step < settings.steps:
                        save_checkpoint(out, trainer.checkpoint())
                        raise KeyboardInterrupt
    except KeyboardInterrupt:
        # One of several processes cannot finish its step alone: then the last checkpoint is what remains.
        stopped = f"stopped at step {trainer.step}" if ranks.size == 1 else "stopped"
        console.print(f"{stopped}; go on with: gradnets-fast train --resume --out {out}", soft_wrap=True)
        raise typer.Exit(130) from None


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Collect Ctrl-C and SIGTERM instead of stopping in the middle of a step; a second one stops at once."""
    signals: list[int] = []

    def note(number: int, frame: object) -> None:
        if signals:
            raise KeyboardInterrupt
        signals.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield signals  # Python hands signals to the main thread alone
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _progress(console: Console, trainer: Trainer) -> Iterator[Callable[[int, float], None]]:
    total = trainer.settings.steps
    if console.quiet:
        yield lambda *_: None
        return
    if not console.is_terminal:
        every = max(1, total // _PLAIN_LINES)
        last = [trainer.step]

        def plain(step: int, loss: float) -> None:
            if step - last[0] >= every or step == total:
                last[0] = step
                print(f"step {step}/{total}  {_shown(trainer, loss)}", flush=True)

        yield plain
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("batch", total=total, completed=trainer.step)

        def bar(step: int, loss: float) -> None:
            progress.update(task, completed=step, description=_shown(trainer, loss))

        yield bar


def _shown(trainer: Trainer, loss: float) -> str:
    """A batch's loss, for people."""
    gradients = trainer.settings.task == trainer.settings.fit == "gradient"
    return f"batch error {decibel(loss):.2f} dB" if gradients else f"batch loss {loss:.4g}"


def _evaluated(trainer: Trainer) -> Evaluation | TransportEvaluation:
    return evaluate_transport(trainer) if trainer.settings.task == "transport" else evaluate(trainer)


def _finish(
    console: Console, trainer: Trainer, evaluation: Evaluation | TransportEvaluation, spent: dict[str, float], out: Path
) -> None:
    from ..train.figure import save_figure

    report = {
        "gradnets_fast": __version__,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "module": type(trainer.module).__name__,
        "problem": trainer.problem.label,
        "settings": trainer.settings.to_json(),
        "evaluation": evaluation.to_json(),
        "training": spent,
        "history": trainer.history,
    }
    write_json(out / _REPORT_FILE, report)
    save_figure(trainer, evaluation, out / _FIGURE_FILE)
    console.print(_table(trainer, evaluation, spent))
    for name in (_FIGURE_FILE, _REPORT_FILE, CHECKPOINT_FILE):
        console.print(f"  {out / name}", highlight=False, soft_wrap=True)


def _table(trainer: Trainer, evaluation: Evaluation | TransportEvaluation, spent: dict[str, float]) -> Table:
    table = Table(title=f"{type(trainer.module).__name__} on {trainer.problem.label}", show_header=False, min_width=64)
    table.add_column(style="bold")
    table.add_column(justify="right")
    if isinstance(evaluation, TransportEvaluation):
        _add_transport(table, evaluation)
    else:
        if evaluation.error_db is not None and evaluation.relative_error is not None:
            error = f"{evaluation.error_db:.2f} dB ({100 * evaluation.relative_error:.2f} % of the field)"
            table.add_row("test error", error)
        if evaluation.value_error is not None:
            error = f"{100 * evaluation.value_error:.2f} %, and a constant {evaluation.value_offset:.3g}"
            table.add_row("test error of the potential", error)
        table.add_row("Jacobian: largest |J − Jᵀ| / |J|", f"{evaluation.asymmetry:.1e}")
    table.add_row("Jacobian: smallest eigenvalue", f"{evaluation.smallest_eigenvalue:.4g}")
    table.add_row("training", f"{spent['steps']} steps in {spent['seconds']:.1f} s")
    ours, reference = evaluation.milliseconds_per_step, evaluation.reference_milliseconds_per_step
    if ours is not None:
        table.add_row("time per step, backend " + evaluation.backend, f"{ours:.3f} ms")
    if ours is not None and reference is not None and evaluation.backend != "reference":
        table.add_row("time per step, backend reference", f"{reference:.3f} ms ({reference / ours:.2f}×)")
    return table


def _add_transport(table: Table, evaluation: TransportEvaluation) -> None:
    """The rows that transports alone have."""
    if evaluation.map_mse is not None:
        table.add_row("mean squared error of the map", f"{evaluation.map_mse:.3g}")
    table.add_row("cost, mean |x − f(x)|²", f"{evaluation.cost:.4g}")
    lost = f", {evaluation.unconverged} not found" if evaluation.unconverged else ""
    table.add_row("inverse: largest |f⁻¹(f(x)) − x| / |x|", f"{evaluation.inverse_error:.1e}{lost}")
    exact = evaluation.exact
    if exact is None:
        table.add_row("exact transport", f"not compared: {evaluation.why_not}")
        return
    table.add_row("exact cost from x to y, and ours over it", f"{exact['target_cost']:.4g}, {exact['cost_ratio']:.3f}")
    table.add_row("distance W₂(f(x), y)", f"{exact['target_distance']:.4g}")
