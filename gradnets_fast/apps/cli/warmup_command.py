"""The command `gradnets-fast warmup`, over `gradnets_fast.warmup`: for a network of options, or of a training run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from ... import nn
from ..._warmup import warmup as warm
from ...activations import TRANSFORMS
from ...backend import use_backend
from ...errors import check_choice, check_positive, message
from ...explanation import explain
from ...nn.base import METHODS
from ...nn.modular import COMBINATIONS
from ...nn.registry import ARCHITECTURES
from ...ops._kernels import cache_folder
from ..doctor.examination import joined
from ..memory import check_memory
from ..train.checkpoint import SETTINGS_FILE, check_tensors, load_checkpoint, load_settings, model_forms
from ..train.ranks import device_of
from ..train.settings import PRECISIONS, Settings
from ..train.training import make_module
from .errors import help_of, one_line_errors, plain_console

_DIM = 2
_NETWORK = "The network"


def _option(text: str) -> Any:
    return typer.Option(help=text, rich_help_panel=_NETWORK)


def warmup(
    context: typer.Context,
    batch_size: Annotated[
        list[int] | None, typer.Option(help=f"Points of a step; several: repeat. (default: {Settings.batch_size})")
    ] = None,
    method: Annotated[list[str] | None, typer.Option(help=help_of("What is called; several: repeat", METHODS))] = None,
    dtype: Annotated[
        str | None, typer.Option(help=help_of("Dtype of torch.autocast", PRECISIONS) + " (default: float32, none)")
    ] = None,
    device: Annotated[str | None, typer.Option(help="A torch device. (default: a GPU if there is one)")] = None,
    backend: Annotated[str | None, typer.Option(help="reference, cpp or triton. (default: the fastest)")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of a training run, whose network and options are taken.")
    ] = None,
    arch: Annotated[
        str | None, _option(help_of("Architecture", ARCHITECTURES) + f" (default: {Settings.arch})")
    ] = None,
    dim: Annotated[int | None, _option(f"Dimension d of the points. (default: {_DIM})")] = None,
    embed_dim: Annotated[int | None, _option(f"Hidden units h (per module). (default: {Settings.embed_dim})")] = None,
    layers: Annotated[int | None, _option(f"Layers, or modules. (default: {Settings.layers})")] = None,
    activation: Annotated[str | None, _option("A name of the activation table, or several joined by +.")] = None,
    transform: Annotated[str | None, _option(help_of("Transform ρ of each module's ridge sum", TRANSFORMS))] = None,
    combine: Annotated[
        str | None, _option(help_of("Combination of modules", COMBINATIONS) + f" (default: {Settings.combine})")
    ] = None,
    linear: Annotated[str | None, _option("Linear part: psd or symmetric.")] = None,
) -> None:
    """Run a network and its gradients once, so that later processes wait for no compilation.

    On a GPU Triton compiles each kernel when it first runs, and keeps it in its cache folder.
    """
    names = ("arch", "dim", "embed_dim", "layers", "activation", "transform", "combine", "linear")
    network = {name: context.params[name] for name in names}
    run = {"device": device, "backend": backend, "amp": dtype}
    with one_line_errors():
        if dtype is not None:
            check_choice("warmup", "dtype", dtype, list(PRECISIONS))
        with _as_of_warmup():
            module, settings = _chosen(network, run) if out is None else _of_run(out, network, run)
        _warm(plain_console(), module, settings, batch_size or [settings.batch_size], tuple(method or METHODS[:1]))


@contextmanager
def _as_of_warmup() -> Iterator[None]:
    """Give messages of `Settings`, which name the command train, the name of this one."""
    try:
        yield
    except (FileNotFoundError, MemoryError, TypeError, ValueError) as error:
        text = str(error)
        raise type(error)("warmup" + text.removeprefix("train") if text.startswith("train: ") else text) from error


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _chosen(network: dict[str, Any], run: dict[str, Any]) -> tuple[nn.GradNet, Settings]:
    """The network that the options name, and their settings."""
    options = _given({**run, **network})
    d = options.pop("dim", _DIM)
    check_positive("warmup", "dim", d)
    options.setdefault("device", "cuda" if torch.cuda.is_available() else "cpu")
    settings = Settings(**options)
    return make_module(settings, d), settings


def _of_run(out: Path, network: dict[str, Any], run: dict[str, Any]) -> tuple[nn.GradNet, Settings]:
    """The network of a training run, and its settings with these changes."""
    given = _given(network)
    if given:
        fix = "leave out one or the other"
        raise ValueError(
            message("warmup", ", ".join(given), "nothing beside --out, which names a network", "both", fix)
        )
    if not (out / SETTINGS_FILE).is_file():
        fix = "name the folder that gradnets-fast train has written"
        raise FileNotFoundError(message("warmup", f"out {out}", f"a folder with {SETTINGS_FILE}", "none", fix))
    settings = Settings.from_json(load_settings(out) | _given(run))
    parameters = load_checkpoint(out).model
    weights = (t for name, t in parameters.items() if name.rpartition(".")[2] == "W" and t.dim())
    module = make_module(settings, next((t.shape[-1] for t in weights), 1))
    check_tensors("parameters", parameters, model_forms(module))
    return module, settings


def _warm(console: Console, module: nn.GradNet, settings: Settings, sizes: list[int], methods: tuple[str, ...]) -> None:
    dtype, device = PRECISIONS[settings.amp], device_of(settings.device)
    d: Any = module.in_dim
    if device.type == "cpu":
        # Points, values and gradients of both.
        check_memory("warmup", "batch_size", 16 * d * max(sizes), "lower --batch-size")
    with nullcontext() if dtype is None else torch.autocast(device.type, dtype):
        found = explain(module, torch.empty(0, d, device=device), backend=settings.backend)
    with nullcontext() if settings.backend is None else use_backend(settings.backend):
        first, again = (warm(module, sizes, methods=methods, dtype=dtype) for _ in range(2))
    network, called = f"{type(module).__name__}, d = {d}, h = {settings.embed_dim}", joined(list(methods))
    for line in (f"{network}: {called}, with gradients, on {device}", f"backend {found.backend}: {found.kernel}"):
        console.print(line, highlight=False, soft_wrap=True)
    table = Table()
    for title in ("batch size", "first run", "second run"):
        table.add_column(title, justify="right")
    for size in first:
        table.add_row(str(size), f"{first[size]:.3f} s", f"{again[size]:.3f} s")
    console.print(table)
    console.print(_kept(found.backend, device), highlight=False, soft_wrap=True)


def _kept(backend: str, device: torch.device) -> str:
    """Where later processes find what was compiled."""
    if backend == "triton" and device.type == "cuda":
        return f"compiled kernels are kept for later processes in {cache_folder()}"
    what = {
        "cpp": "the extension's kernels are machine code already",
        "triton": "Triton's interpreter compiles nothing",
        "reference": "PyTorch's own operators run",
    }
    return f"nothing to compile: {what[backend]}"
