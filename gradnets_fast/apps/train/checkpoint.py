"""What a training run can be resumed from: its settings and checkpoints."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from ...errors import message
from ..files import write_atomically

SETTINGS_FILE = "settings.json"
CHECKPOINT_FILE = "checkpoint.safetensors"
_HISTORY, _EXTRA = "history", "extra"
_ADAM_STATE = ("step", "exp_avg", "exp_avg_sq")


@dataclass
class Checkpoint:
    """The state of a training run, from which it goes on as if it had never stopped; `extra` is ready for JSON."""

    step: int
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    history: list[tuple[int, float]]
    extra: dict[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint in place of the folder's own."""
    tensors = {f"model.{name}": tensor for name, tensor in checkpoint.model.items()}
    tensors |= {f"optimizer.{name}": tensor for name, tensor in checkpoint.optimizer.items()}
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {
        "step": str(checkpoint.step),
        _HISTORY: json.dumps(checkpoint.history),
        _EXTRA: json.dumps(checkpoint.extra),
    }
    data = save_tensors(contiguous, metadata=metadata)
    write_atomically(folder / CHECKPOINT_FILE, lambda temporary: temporary.write_bytes(data))


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read the folder's checkpoint.

    Raises:
        FileNotFoundError, ValueError: there is none, or it is damaged.
    """
    path = folder / CHECKPOINT_FILE
    if not path.is_file():
        raise FileNotFoundError(message("train", f"checkpoint {path}", "a file", "none", "start without --resume"))
    try:
        data = path.read_bytes()
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        tensors = load_tensors(data)
        history = [(int(step), float(loss)) for step, loss in json.loads(header[_HISTORY])]
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        extra = json.loads(header.get(_EXTRA, "{}"))  # earlier versions had none
        return Checkpoint(int(header["step"]), parts["model"], parts["optimizer"], history, extra)
    except (SafetensorError, KeyError, TypeError, ValueError, OverflowError, MemoryError) as error:
        fix = "delete it and start without --resume, or put back a copy"
        cause = f"{type(error).__name__}: {error}"
        raise ValueError(message("train", f"checkpoint {path}", "an undamaged checkpoint", cause, fix)) from error


def load_settings(folder: Path) -> dict[str, Any]:
    """Read the folder's settings."""
    path = folder / SETTINGS_FILE
    if not path.is_file():
        raise FileNotFoundError(message("train", f"settings {path}", "a file", "none", "start without --resume"))
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        fix = "correct it, or start without --resume"
        raise ValueError(message("train", f"settings {path}", "valid JSON", str(error), fix)) from error
    if not isinstance(content, dict):
        fix = "start without --resume"
        raise ValueError(message("train", f"settings {path}", "a JSON object", type(content).__name__, fix))
    return content


def adam_state(optimizer: torch.optim.Adam, names: list[str]) -> dict[str, Tensor]:
    """Adam's moments by parameter name."""
    parameters = optimizer.param_groups[0]["params"]
    return {
        f"{name}.{key}": torch.as_tensor(optimizer.state[parameter][key])
        for name, parameter in zip(names, parameters)
        if parameter in optimizer.state
        for key in _ADAM_STATE
    }


def restore_adam(optimizer: torch.optim.Adam, names: list[str], saved: dict[str, Tensor]) -> None:
    """Give an optimizer the moments that `adam_state` returned."""
    for name, parameter in zip(names, optimizer.param_groups[0]["params"]):
        state = {key: saved[f"{name}.{key}"] for key in _ADAM_STATE if f"{name}.{key}" in saved}
        if state:
            optimizer.state[parameter] = {key: value.to(parameter.device) for key, value in state.items()}
