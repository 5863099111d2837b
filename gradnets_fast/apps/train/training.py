"""The training loop: fit an architecture to a gradient field."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from ... import nn
from ...backend import choose, use_backend
from ...errors import message
from ...fitting._steps import AutogradStep, Batch, KernelStep, rate_at, why_not_kernels
from ...nn.registry import ARCHITECTURES
from ..memory import check_memory
from .checkpoint import (
    Checkpoint,
    adam_forms,
    adam_of,
    adam_state,
    check_tensors,
    model_forms,
    save_checkpoint,
)
from .losses import Loss, Objective, loss_with_values, nearest_module_loss, squared_loss
from .problem import make_problem
from .ranks import Ranks, device_of
from .settings import Settings
from .transport import TransportProblem, dual_loss, make_transport, monge_ampere_loss

HISTORY_POINTS = 400
_PARAMETER_BYTES, _LAYER_BYTES = 16, 2**12
"""Bytes of a scalar with its gradient and Adam's moments; and of the objects that a layer consists of, or more."""


def make_module(settings: Settings, dim: int) -> nn.GradNet:
    """The network that the settings name, initialised from the seed; MemoryError if there is no room for it."""
    architecture, options = ARCHITECTURES[settings.arch], dict[str, Any](linear=settings.linear)
    h, layers = settings.embed_dim, 1 if architecture.depth is None else settings.layers
    wide = h * (layers * dim if architecture.modular else dim + 2 * layers) + dim * dim * (settings.linear is not None)
    size = _PARAMETER_BYTES * wide + _LAYER_BYTES * layers
    check_memory("train", "embed_dim, layers", size, "lower them, or the dimension of the data")
    torch.manual_seed(settings.seed)
    if settings.activation is not None:
        names = settings.activation.split("+")
        options["activation"] = names if len(names) > 1 else names[0]
    if architecture.modular:
        options |= {"transform": settings.transform, "combine": settings.combine}
    return architecture.make(settings.layers, dim, settings.embed_dim, **options).to(device_of(settings.device))


class Trainer:
    """Training steps, whose state at any step is a `Checkpoint`.

    Where `fit` has a step of kernels for the network, so has a single process for the squared error of gradients.
    Everything else goes by autograd.  Among several processes each computes its own rows' part of a step, and the
    networks stay equal.
    """

    def __init__(self, settings: Settings, ranks: Ranks | None = None) -> None:
        self.settings, self.ranks = settings, ranks or Ranks()
        make = make_transport if settings.task == "transport" else make_problem
        self.problem = make(settings, self.ranks)
        self._module = make_module(settings, self.problem.source.dim)
        if isinstance(self.problem, TransportProblem):
            self.problem.start(self._module)
        self.backend = choose(self._module.operator_name, self.problem.test_x, settings.backend).backend
        self.step = 0
        self.history: list[tuple[int, float]] = []
        # Modules find their parts of the points only where no direction dwarfs the others, so the points are centred.
        self._origin = self.problem.mean if settings.loss == "nearest" else None
        self.loss: Loss = squared_loss if self._origin is None else nearest_module_loss
        if settings.fit != "gradient":
            self.loss = loss_with_values(settings.fit, (settings.gradient_weight, settings.value_weight))
        if settings.task == "transport":
            self.loss = monge_ampere_loss if settings.data is None else dual_loss
        device = self.problem.test_x.device
        self._scaler = torch.amp.GradScaler(device.type, enabled=settings.amp == "float16")
        self._error = torch.empty(1, device=device)
        self._one_step: AutogradStep | KernelStep | None = None
        self._stored = True

    @property
    def module(self) -> nn.GradNet:
        """The network with the parameters of the last step, of which a step of kernels has copies."""
        if not self._stored and self._one_step is not None:
            self._one_step.store()
            self._stored = True
        return self._module

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        settings = self.settings
        return rate_at(self.step, settings.steps, settings.learning_rate, str(settings.schedule))

    def why_not_kernels(self, module: nn.GradNet) -> str | None:
        """Why a step of this module is autograd's business, or None."""
        settings = self.settings
        if self.ranks.size > 1 or self.loss is not squared_loss or settings.clip or settings.amp != "float32":
            return "there are several processes, or another loss, a clipped gradient or another precision is asked for"
        points = self.problem.test_x
        return why_not_kernels(module, Batch(points, points, None))

    def step_of(self, module: nn.GradNet, scaler: torch.amp.GradScaler | None = None) -> AutogradStep | KernelStep:
        """The step that trains a module as these settings say; a batch is points and targets."""
        if self.why_not_kernels(module) is None:
            return KernelStep(module, self.problem.source.dim)
        own = Objective(module, self.loss, self.ranks, self.settings.amp)
        objective = own if self.ranks.size == 1 else DistributedDataParallel(own)

        def weighted(x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
            # DistributedDataParallel takes the plain mean of the processes' gradients.
            weight = len(x) * self.ranks.size / self.problem.source.batch_size
            loss, error = objective(x, g)
            return loss * weight if weight != 1 else loss, error

        return AutogradStep(module, weighted, scaler, self.settings.clip)

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint of the same settings.

        Raises:
            ValueError: its step, tensors, scaler or data are others; then nothing of it is used.
        """
        self.ranks.from_first(lambda: self._check(checkpoint))
        self.problem.source.restore(checkpoint.extra.get("data"), checkpoint.step)
        self._module.load_state_dict(checkpoint.model)
        self._begin().restore(adam_of(checkpoint.optimizer, dict(self._module.named_parameters())))
        self.step, self.history = checkpoint.step, list(checkpoint.history)
        if "scaler" in checkpoint.extra:
            self._scaler.load_state_dict(checkpoint.extra["scaler"])

    def get_ready(self) -> None:
        """Make the step now, which otherwise the first one does: it takes memory, and may import parts of PyTorch."""
        if self._one_step is None:
            self._begin()

    def _begin(self) -> AutogradStep | KernelStep:
        """Make the step, of the network as it is."""
        with use_backend(self.backend):
            self._one_step, self._stored = self.step_of(self._module, self._scaler), True
        return self._one_step

    def _check(self, checkpoint: Checkpoint) -> None:
        """Raise ValueError unless all of a checkpoint but its data is such as this run can have left."""
        if not 0 <= checkpoint.step <= self.settings.steps:
            fix = "resume with the settings of that run"
            expected = f"0 to the {self.settings.steps} of the settings"
            raise ValueError(message("train", "checkpoint: step", expected, checkpoint.step, fix))
        check_tensors("parameters", checkpoint.model, model_forms(self._module))
        scaled = self._scaler.is_enabled()
        moments = adam_forms(dict(self._module.named_parameters()), checkpoint.step, skips=scaled)
        check_tensors("optimizer", checkpoint.optimizer, moments)
        own, saved = self._scaler.state_dict(), checkpoint.extra.get("scaler", {})
        if not _is_scaler(saved, own):
            fix = "put back a copy, or start anew with --overwrite"
            raise ValueError(message("train", "checkpoint: scaler", f"a state such as {own}", saved, fix))

    def checkpoint(self) -> Checkpoint:
        """The present state, equal in all processes."""
        extra = {"data": self.problem.source.state(self.step), "scaler": self._scaler.state_dict()}
        state = {} if self._one_step is None else self._one_step.state()
        moments = adam_state(state, dict(self.module.named_parameters()))
        return Checkpoint(self.step, self.module.state_dict(), moments, list(self.history), extra)

    def advance(self) -> float | None:
        """Make one step; return the loss if the history keeps it.

        Raises:
            ArithmeticError: the loss is not finite.
        """
        settings, one_step = self.settings, self._one_step or self._begin()
        x, g = self.problem.source.batch(self.step)
        if self._origin is not None:
            x = x - self._origin
        self._stored = False
        one_step((x, g), self._error, self.learning_rate)
        self.step += 1
        if self._origin is not None and self.step == settings.steps:
            assert isinstance(self.module, nn.GradNetM)
            self.module.move_origin_(self._origin)
        if self.step % max(1, settings.steps // HISTORY_POINTS) and self.step != settings.steps:
            return None
        value = self.ranks.mean(self._error[0], len(x)).item()
        if not math.isfinite(value):
            fix = "lower --lr"
            raise ArithmeticError(message("train", f"loss at step {self.step}", "a finite number", value, fix))
        self.history.append((self.step, value))
        return value

    def run(self, report: Callable[[int, float], None], save_every: float, folder: Path) -> Iterator[int]:
        """Make all steps that are left; yield after each.

        Process 0 saves a checkpoint every `save_every` seconds and at the end.
        """
        saved = time.monotonic()
        saves = self.ranks.rank == 0
        with use_backend(self.backend):
            while self.step < self.settings.steps:
                loss = self.advance()
                if loss is not None:
                    report(self.step, loss)
                if saves and time.monotonic() - saved > save_every:
                    save_checkpoint(folder, self.checkpoint())
                    saved = time.monotonic()
                yield self.step
        if saves:
            save_checkpoint(folder, self.checkpoint())


def _is_scaler(saved: Any, own: dict[str, Any]) -> bool:
    """Whether this is the state of a scaler with the constants of `own`, which training does not change."""
    if not own or not isinstance(saved, dict) or saved.keys() != own.keys():
        return bool(saved == own)
    scale, tracker = saved["scale"], saved["_growth_tracker"]
    return (
        saved == own | {"scale": scale, "_growth_tracker": tracker}
        and type(scale) is float
        and 0 < scale < math.inf
        and type(tracker) is int
        and 0 <= tracker < own["growth_interval"]
    )
