"""The settings that determine a training run, and their checks."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, get_type_hints

import torch

from ...errors import check_choice, check_positive, check_positive_number, message
from ...nn.modular import COMBINATIONS
from ...nn.registry import ARCHITECTURES
from .columns import FITS
from .ranks import device_of

SCHEDULES = ("constant", "cosine")
LOSSES = ("squared", "nearest")
TASKS = ("gradient", "transport")
_CASCADE_DEFAULTS, _MODULE_DEFAULTS = (1e-2, "cosine"), (5e-3, "constant")
"""Learning rate and schedule: the first chosen by trials on the two-dimensional fields, the second as published."""
_GAUSSIAN_DEFAULTS, _SAMPLES_DEFAULTS, _TRANSPORT_CLIP = (1e-2, "cosine"), (3e-2, "cosine"), 2.0
"""The same of transports, and the most that the gradient's norm may be."""
_STREAMS = 8
_LATER = {"amp", "clip", "fit", "gradient_weight", "streams", "target", "task", "value_weight"}
"""Settings that earlier versions lacked; they did what the defaults do."""
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Precisions by name: the dtype of autocast for points and weights; parameters and sums are always float32."""


@dataclass(frozen=True)
class Settings:
    """Everything that determines a run.

    Attributes are the options of the command.  `data` is a file of samples, or a folder or pattern of shards, in place
    of `field`; a learning rate or a schedule of None becomes the architecture's default.  A transport has no field: its
    source is `data` with `target`, or a Gaussian of `dim` dimensions.
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
    amp: str = "float32"
    streams: int | None = None
    task: str = "gradient"
    target: str | None = None
    clip: float | None = None
    fit: str = "gradient"
    gradient_weight: float = 1.0
    value_weight: float = 1.0

    def __post_init__(self) -> None:
        self._check_types()
        check_choice("train", "arch", self.arch, tuple(ARCHITECTURES))
        check_choice("train", "task", self.task, TASKS)
        lr, schedule = _MODULE_DEFAULTS if ARCHITECTURES[self.arch].modular else _CASCADE_DEFAULTS
        if self.task == "transport":
            lr, schedule = _GAUSSIAN_DEFAULTS if self.data is None else _SAMPLES_DEFAULTS
            self._check_transport()
        object.__setattr__(self, "lr", lr if self.lr is None else self.lr)
        object.__setattr__(self, "schedule", schedule if self.schedule is None else self.schedule)
        check_choice("train", "schedule", str(self.schedule), SCHEDULES)
        check_choice("train", "combine", self.combine, COMBINATIONS)
        check_choice("train", "loss", self.loss, LOSSES)
        check_choice("train", "amp", self.amp, list(PRECISIONS))
        self._check_modules()
        self._check_fit()
        if self.task == "gradient" and self.target is not None:
            raise ValueError(message("train", "target", "nothing", self.target, "add --task transport"))
        if self.task == "gradient" and (self.field is None) == (self.data is None):
            got = "neither" if self.field is None else "both"
            raise ValueError(message("train", "field, data", "one of them", got, "give --field or --data"))
        for name in ("embed_dim", "layers", "batch_size", "samples", "steps", "streams"):
            if name != "streams" or self.streams is not None:
                check_positive("train", name, getattr(self, name))
        if not 0 <= self.seed < 2**63:
            raise ValueError(message("train", "seed", "0 <= seed < 2^63", self.seed, "for example --seed 0"))
        if not 0 < self.learning_rate <= torch.finfo(torch.float32).max:
            raise ValueError(message("train", "lr", "a positive number", self.lr, "for example --lr 5e-3"))
        if self.clip is not None:
            check_positive_number("train", "clip", self.clip)
        try:
            torch.zeros(1, device=device_of(self.device)).item()
        except (RuntimeError, AssertionError) as error:
            cause = str(error).splitlines()[0]
            fix = "choose a device that torch finds here, for example --device cpu"
            raise ValueError(message("train", "device", "a usable device", f"{self.device} ({cause})", fix)) from error

    def _check_transport(self) -> None:
        """Set a transport's defaults; raise ValueError if the settings are not those of one."""
        object.__setattr__(self, "linear", "psd" if self.linear is None else self.linear)
        object.__setattr__(self, "clip", _TRANSPORT_CLIP if self.clip is None else self.clip)
        monotone = [name for name, architecture in ARCHITECTURES.items() if architecture.network.monotone]
        check_choice("train", "arch", self.arch, monotone, "a transport map is the gradient of a convex function")
        check_choice("train", "loss", self.loss, LOSSES[:1], "a transport has a loss of its own")
        if self.field is not None:
            raise ValueError(message("train", "field", "nothing for a transport", self.field, "leave --field out"))
        if (self.data is None) != (self.target is None):
            got = "data alone" if self.target is None else "target alone"
            fix = "give two files, or neither for a Gaussian of --dim dimensions"
            raise ValueError(message("train", "data, target", "both or neither", got, fix))
        if self.dim is not None:
            check_positive("train", "dim", self.dim)

    def _check_types(self) -> None:
        """Raise TypeError unless each value has its field's type; an int may stand for a float, a bool for neither."""
        for name, kind in get_type_hints(type(self)).items():
            value, kinds = getattr(self, name), kind | int if kind == float | None else kind
            if not isinstance(value, kinds) or isinstance(value, bool):
                expected = getattr(kind, "__name__", str(kind))
                raise TypeError(message("train", name, expected, repr(value), "give a value of this type"))

    def _check_modules(self) -> None:
        """Raise ValueError if an option for modules is given to another architecture."""
        modular = " or ".join(name for name, architecture in ARCHITECTURES.items() if architecture.modular)
        if not ARCHITECTURES[self.arch].modular:
            for name, usual in (("transform", None), ("combine", "sum")):
                if getattr(self, name) != usual:
                    fix = f"choose --arch {modular}"
                    raise ValueError(message("train", name, f"nothing for {self.arch}", getattr(self, name), fix))
        if self.loss == "nearest" and self.combine != "logsumexp":
            fix = f"add --combine logsumexp, with --arch {modular}"
            raise ValueError(message("train", "loss", "squared where modules are summed", self.loss, fix))

    def _check_fit(self) -> None:
        """Raise ValueError unless what is fitted can be, with such weights."""
        check_choice("train", "fit", self.fit, list(FITS))
        if self.fit != "gradient" and (self.task != "gradient" or self.loss != "squared"):
            expected = "gradient for a transport or --loss nearest"
            raise ValueError(message("train", "fit", expected, self.fit, "leave --fit out"))
        for name in ("gradient_weight", "value_weight"):
            weight = getattr(self, name)
            check_positive_number("train", name, weight)
            if self.fit != "both" and weight != 1:
                fix = "add --fit both, or leave the weight out"
                raise ValueError(message("train", name, "no weight where one target is fitted", weight, fix))

    @property
    def learning_rate(self) -> float:
        """The learning rate, which is never None after the checks."""
        assert self.lr is not None
        return self.lr

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Settings:
        """The settings that `to_json` wrote.

        Raises:
            TypeError, ValueError: a name is unknown to this version or missing, or a value cannot be.
        """
        known = {f.name for f in fields(cls)}
        unknown, missing = sorted(set(content) - known), sorted(known - _LATER - set(content))
        if unknown:
            fix = "resume with the version that wrote it"
            raise ValueError(message("train", "settings", "the names of this version", ", ".join(unknown), fix))
        if missing:
            fix = "put back a copy, or start anew with --overwrite"
            raise ValueError(
                message("train", "settings", "all settings of a run", f"none of {', '.join(missing)}", fix)
            )
        return cls(**content)

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready copy."""
        return asdict(self)


def resolved_streams(streams: int | None, processes: int) -> int:
    """The number of streams of a run: as asked for, or the first multiple of `processes` from 8 on."""
    return _STREAMS + -_STREAMS % processes if streams is None else streams
