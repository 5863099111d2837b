"""The main job: fit an architecture to a gradient field."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import nn
from ..backend import choose, use_backend
from ..errors import check_choice, check_positive, message
from ..nn.modular import COMBINATIONS
from .checkpoint import Checkpoint, adam_state, restore_adam, save_checkpoint
from .data import Samples, load_samples
from .fields import Field, make_field

ARCHITECTURES = ("gradnet-c", "mgradnet-c", "gradnet-m", "mgradnet-m", "ridge")
SCHEDULES = ("constant", "cosine")
LOSSES = ("squared", "nearest")
_CASCADE_DEFAULTS, _MODULE_DEFAULTS = (1e-2, "cosine"), (5e-3, "constant")
"""Learning rate and schedule: the first chosen by trials on the two-dimensional fields, the second as published."""
HISTORY_POINTS = 400
_TEST_FRACTION = 0.1


@dataclass(frozen=True)
class Settings:
    """Everything that determines a run.

    Attributes are those of the command line; `data` is a file of samples, in place of `field`; a learning rate or a
    schedule of None becomes the architecture's default.
    """

    arch: str = "mgradnet-c"
    field: str | None = "convex2d"
    data: str | None = None
    dim: int | None = None
    embed_dim: int = 7
    layers: int = 4
    activation: str | None = None
    transform: str | None = None
    combine: str = "sum"
    linear: str | None = None
    loss: str = "squared"
    batch_size: int = 1000
    samples: int = 100_000
    steps: int = 20_000
    lr: float | None = None
    schedule: str | None = None
    seed: int = 0
    backend: str | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_choice("train", "arch", self.arch, ARCHITECTURES)
        lr, schedule = _MODULE_DEFAULTS if self.arch.endswith("-m") else _CASCADE_DEFAULTS
        object.__setattr__(self, "lr", lr if self.lr is None else self.lr)
        object.__setattr__(self, "schedule", schedule if self.schedule is None else self.schedule)
        check_choice("train", "schedule", str(self.schedule), SCHEDULES)
        check_choice("train", "combine", self.combine, COMBINATIONS)
        check_choice("train", "loss", self.loss, LOSSES)
        self._check_modules()
        if (self.field is None) == (self.data is None):
            got = "neither" if self.field is None else "both"
            raise ValueError(message("train", "field, data", "one of them", got, "give --field or --data"))
        for name in ("embed_dim", "layers", "batch_size", "samples", "steps"):
            check_positive("train", name, getattr(self, name))
        if not 0 <= self.seed < 2**63:
            raise ValueError(message("train", "seed", "0 <= seed < 2^63", self.seed, "for example --seed 0"))
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(message("train", "lr", "a positive number", self.lr, "for example --lr 5e-3"))
        try:
            device = torch.device(self.device)
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            cause = str(error).splitlines()[0]
            fix = "choose a device that torch finds here, for example --device cpu"
            raise ValueError(message("train", "device", "a usable device", f"{self.device} ({cause})", fix)) from error

    def _check_modules(self) -> None:
        """Raises if an option for modules is given to another architecture."""
        if not self.arch.endswith("-m"):
            for name, usual in (("transform", None), ("combine", "sum")):
                if getattr(self, name) != usual:
                    fix = "choose --arch mgradnet-m or gradnet-m"
                    raise ValueError(message("train", name, f"nothing for {self.arch}", getattr(self, name), fix))
        if self.loss == "nearest" and self.combine != "logsumexp":
            fix = "add --combine logsumexp, with --arch mgradnet-m or gradnet-m"
            raise ValueError(message("train", "loss", "squared where modules are summed", self.loss, fix))

    @property
    def learning_rate(self) -> float:
        """The learning rate, resolved."""
        assert self.lr is not None
        return self.lr

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Settings:
        """The settings that `asdict` wrote."""
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(content) - known)
        if unknown:
            fix = "resume with the version that wrote it"
            raise ValueError(message("train", "settings", "the names of this version", ", ".join(unknown), fix))
        return cls(**content)

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready copy."""
        return asdict(self)


@dataclass
class Problem:
    """The data of a run: training points with target gradients, test points likewise, and the field if it is known."""

    x: Tensor
    g: Tensor
    test_x: Tensor
    test_g: Tensor
    field: Field | None
    label: str

    @property
    def dim(self) -> int:
        """d."""
        return self.x.shape[1]


def make_problem(settings: Settings) -> Problem:
    """The training and test data that the settings name."""
    if settings.data is not None:
        return _split(load_samples(Path(settings.data)), settings)
    assert settings.field is not None
    field = make_field(settings.field, settings.dim)
    x = field.sample(settings.samples, torch.Generator().manual_seed(settings.seed))
    test_x = field.test_points()
    device = settings.device
    label = field.name if field.dim == 2 else f"{field.name}, d = {field.dim}"
    g, test_g = field.gradient(x), field.gradient(test_x)
    return Problem(x.to(device), g.to(device), test_x.to(device), test_g.to(device), field, label)


def _split(samples: Samples, settings: Settings) -> Problem:
    count, dim = samples.x.shape
    if settings.dim not in (None, dim):
        raise ValueError(message("train", "dim", f"{dim}, as in {samples.source}", settings.dim, "leave --dim out"))
    if count < 2:
        raise ValueError(
            message("train", samples.source, "at least 2 rows, to test on some", count, "give more samples")
        )
    order = torch.randperm(count, generator=torch.Generator().manual_seed(settings.seed))
    test = max(1, int(count * _TEST_FRACTION))
    x, g = samples.x[order].to(settings.device), samples.g[order].to(settings.device)
    return Problem(x[test:], g[test:], x[:test], g[:test], None, Path(samples.source).name)


def make_module(settings: Settings, dim: int) -> nn.GradNet:
    """The architecture, initialised from the seed."""
    torch.manual_seed(settings.seed)
    options: dict[str, Any] = {"linear": settings.linear}
    if settings.activation is not None:
        names = settings.activation.split("+")
        options["activation"] = names if len(names) > 1 else names[0]
    sizes = (settings.layers, dim, settings.embed_dim)
    module: nn.GradNet
    if settings.arch == "ridge":
        module = nn.RidgeGradNet(dim, settings.embed_dim, **options)
    elif settings.arch.endswith("-c"):
        module = (nn.mGradNetC if settings.arch[0] == "m" else nn.GradNetC)(*sizes, **options)
    else:
        options |= {"transform": settings.transform, "combine": settings.combine}
        module = (nn.mGradNetM if settings.arch[0] == "m" else nn.GradNetM)(*sizes, **options)
    return module.to(settings.device)


def mean_squared_error(f: Tensor, g: Tensor) -> Tensor:
    """Mean over the points of |f − g|²."""
    return (f - g).square().sum(-1).mean()


def decibel(error: float) -> float:
    """10·log10, and −∞ for 0."""
    return 10 * math.log10(error) if error > 0 else -math.inf


class Trainer:
    """Runs training steps; its state at any step is a `Checkpoint`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.problem = make_problem(settings)
        self.module = make_module(settings, self.problem.dim)
        self.backend = choose(self.module.operator_name, self.problem.x, settings.backend).backend
        self.step = 0
        self.history: list[tuple[int, float]] = []
        self._names = [name for name, _ in self.module.named_parameters()]
        self.optimizer = torch.optim.Adam(self.module.parameters(), lr=settings.learning_rate, fused=True)
        self._order: tuple[int, Tensor] | None = None
        # About 0, where no direction of the points dwarfs the others, the modules find their parts of the points.
        self._origin = self.problem.x.mean(0) if settings.loss == "nearest" else None

    def resume(self, checkpoint: Checkpoint) -> None:
        """Goes on from a checkpoint of the same settings."""
        try:
            self.module.load_state_dict(checkpoint.model)
        except RuntimeError as error:
            fix = "resume with the settings of that run"
            got = " ".join(str(error).split())
            raise ValueError(message("train", "checkpoint", "the parameters of these settings", got, fix)) from error
        restore_adam(self.optimizer, self._names, checkpoint.optimizer)
        self.step, self.history = checkpoint.step, list(checkpoint.history)

    def checkpoint(self) -> Checkpoint:
        """The present state."""
        state = self.module.state_dict()
        return Checkpoint(self.step, state, adam_state(self.optimizer, self._names), list(self.history))

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """The batch of a step: fixed by seed and step alone, so that a resumed run sees what an unbroken one would."""
        count = self.problem.x.shape[0]
        size = min(self.settings.batch_size, count)
        per_epoch = count // size
        epoch, index = divmod(step, per_epoch)
        if self._order is None or self._order[0] != epoch:
            seed = (self.settings.seed * 1_000_003 + epoch + 1) % 2**63
            order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
            self._order = (epoch, order.to(self.problem.x.device))
        rows = self._order[1][index * size : (index + 1) * size]
        return self.problem.x[rows], self.problem.g[rows]

    def advance(self) -> float | None:
        """One step; returns the loss where the history keeps it."""
        settings = self.settings
        if settings.schedule == "cosine":
            lr = settings.learning_rate * (1 + math.cos(math.pi * self.step / settings.steps)) / 2
            self.optimizer.param_groups[0]["lr"] = lr
        x, g = self.batch(self.step)
        if self._origin is None:
            loss = training_step(self.module, self.optimizer, x, g)
        else:
            loss = training_step(self.module, self.optimizer, x - self._origin, g, nearest_module_loss)
        self.step += 1
        if self._origin is not None and self.step == settings.steps:
            assert isinstance(self.module, nn.GradNetM)
            self.module.move_origin_(self._origin)
        if self.step % max(1, settings.steps // HISTORY_POINTS) and self.step != settings.steps:
            return None
        value = loss.item()
        if not math.isfinite(value):
            fix = "lower --lr"
            raise ArithmeticError(message("train", f"loss at step {self.step}", "a finite number", value, fix))
        self.history.append((self.step, value))
        return value

    def run(self, report: Callable[[int, float], None], save_every: float, folder: Path) -> Iterator[int]:
        """Steps to the end, saving a checkpoint every `save_every` seconds and at the end; yields after each step."""
        saved = time.monotonic()
        with use_backend(self.backend):
            while self.step < self.settings.steps:
                loss = self.advance()
                if loss is not None:
                    report(self.step, loss)
                if time.monotonic() - saved > save_every:
                    save_checkpoint(folder, self.checkpoint())
                    saved = time.monotonic()
                yield self.step
        save_checkpoint(folder, self.checkpoint())


Loss = Callable[[Any, Tensor, Tensor], "tuple[Tensor, Tensor]"]


def squared_loss(module: torch.nn.Module, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Mean |f − g|², to be minimised, and the same as the error."""
    error = mean_squared_error(module(x), g)
    return error, error.detach()


def nearest_module_loss(module: nn.GradNetM, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """A loss under which each module of a soft maximum fits the points whose gradients it is nearest to; and |f − g|².

    Under |f − g|² alone one module takes all points.  Here module i fits each point as far as its gradient is nearer
    than the others', relative to the mean distance of the nearest: as that falls, the choice grows sharp by itself.
    The numbers that weigh modules against each other, sharpness and offset, follow |f − g|², the modules held.
    """
    common = module.bias if module.linear is None else module.bias + module.linear(x)
    gradients = module.module_gradients(x)
    distances = (gradients + common.unsqueeze(-2) - g.unsqueeze(-2)).square().sum(-1)
    with torch.no_grad():
        nearest = distances.min(-1).values.mean().clamp(min=torch.finfo(distances.dtype).tiny)
        nearness = (-distances / nearest).softmax(-1)
        potentials = module.module_potentials(x)
    shares = (module.sharpness.exp() * potentials + module.offset).softmax(-1)
    f = (shares.unsqueeze(-1) * gradients.detach()).sum(-2) + common.detach()
    error = mean_squared_error(f, g)
    return (nearness * distances).sum(-1).mean() + error, error.detach()


def training_step(
    module: torch.nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, g: Tensor, loss: Loss = squared_loss
) -> Tensor:
    """Forward, backward, update; returns the mean of |f − g|² before it."""
    minimised, error = loss(module, x, g)
    optimizer.zero_grad()
    minimised.backward()
    optimizer.step()
    return error
