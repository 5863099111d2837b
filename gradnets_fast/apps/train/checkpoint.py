"""What a training run can be resumed from: its settings and checkpoints.

Reading checks the form of a file, and `check_tensors` what the run expects of its tensors: nothing is used before.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from ...errors import message
from ...fitting._steps import AdamState
from ...nn.stacked import attribute_of
from ..files import write_atomically

SETTINGS_FILE = "settings.json"
CHECKPOINT_FILE = "checkpoint.safetensors"
_HISTORY, _EXTRA = "history", "extra"
_ADAM_STATE = ("step", "exp_avg", "exp_avg_sq")
_MOMENT_OF_A_MODULE = re.compile(rf"mmgn_modules\.(\d+)\.(.+)\.({'|'.join(_ADAM_STATE)})")
_LAST_STEP = 2**24
"""The largest step that Adam counts to: its count is a float32."""
_FIX = "put back a copy, or start anew with --overwrite"


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
        _HISTORY: json.dumps(checkpoint.history, allow_nan=False),
        _EXTRA: json.dumps(checkpoint.extra, allow_nan=False),
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
        step = int(header["step"])
        history = _checked_history(json.loads(header[_HISTORY]), step)
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        extra = json.loads(header.get(_EXTRA, "{}"))  # earlier versions had none
        if not isinstance(extra, dict):
            raise TypeError(f"{_EXTRA} is no JSON object")
        return Checkpoint(step, parts["model"], _stacked(parts["optimizer"]), history, extra)
    except (SafetensorError, LookupError, TypeError, ValueError, ArithmeticError, MemoryError, RuntimeError) as error:
        cause = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ValueError(message("train", f"checkpoint {path}", "an undamaged checkpoint", cause, _FIX)) from error


def _stacked(moments: dict[str, Tensor]) -> dict[str, Tensor]:
    """Adam's moments with all modules' in one tensor; earlier versions had parameters, and moments, of each module."""
    stacked, parts = dict(moments), dict[str, dict[int, Tensor]]()
    for name in moments:
        if found := _MOMENT_OF_A_MODULE.fullmatch(name):
            module, parameter, key = found.groups()
            parts.setdefault(f"mmgn_modules.{attribute_of(parameter)}.{key}", {})[int(module)] = stacked.pop(name)
    for name, modules in parts.items():
        together = torch.stack([modules[i] for i in range(len(modules))])
        if name.endswith(".step"):
            if (together != together[0]).any():
                raise ValueError(f"{name} differs from module to module")
            together = together[0]
        stacked[name] = together
    return stacked


def _checked_history(entries: Any, step: int) -> list[tuple[int, float]]:
    """The history of a checkpoint; raise TypeError or ValueError unless it can be that of a run at this step."""
    history = [(number, float(loss)) for number, loss in entries]
    numbers = [number for number, _ in history]
    if not all(type(number) is int for number in numbers):
        raise TypeError("a step of the history is no integer")
    if numbers != sorted(set(numbers)) or not all(0 < number <= step for number in numbers):
        raise ValueError(f"steps of the history do not rise from 1 to at most {step}")
    if not all(0 <= loss < math.inf for _, loss in history):
        raise ValueError("a loss of the history is negative or not finite")
    return history


class Form(NamedTuple):
    """What a tensor of a checkpoint must be; low, high: the least and the greatest that an element may be."""

    shape: torch.Size
    dtype: torch.dtype
    low: float = -math.inf
    high: float = math.inf


def adam_forms(parameters: Mapping[str, Tensor], step: int, skips: bool) -> dict[str, Form]:
    """The forms of what `adam_state` returns at a step; skips: whether Adam may have left out some steps."""
    if step == 0:
        return {}
    forms, count = {}, min(step, _LAST_STEP)
    for name, parameter in parameters.items():
        forms[f"{name}.step"] = Form(torch.Size(), torch.float32, 0 if skips else count, count)
        forms[f"{name}.exp_avg"] = Form(parameter.shape, parameter.dtype)
        forms[f"{name}.exp_avg_sq"] = Form(parameter.shape, parameter.dtype, low=0)
    return forms


def model_forms(module: torch.nn.Module) -> dict[str, Form]:
    """The forms of a network's state_dict."""
    return {name: Form(tensor.shape, tensor.dtype) for name, tensor in module.state_dict().items()}


def check_tensors(part: str, tensors: Mapping[str, Tensor], forms: Mapping[str, Form]) -> None:
    """Raise ValueError unless a part of a checkpoint has the tensors of these forms, no others, and all finite."""

    def refuse(name: str, expected: object, got: object, fix: str) -> None:
        raise ValueError(message("train", f"checkpoint: {name}", expected, got, fix))

    fix = "resume with the settings of that run"
    missing, others = sorted(forms.keys() - tensors.keys()), sorted(tensors.keys() - forms.keys())
    if missing or others:
        got = f"all but {', '.join(missing[:4]) or 'none'}, and beside them {', '.join(others[:4]) or 'none'}"
        refuse(part, f"the {part} of these settings", got, fix)
    for name, (shape, dtype, low, high) in forms.items():
        tensor, label = tensors[name], f"{part}: {name}"
        if (tensor.shape, tensor.dtype) != (shape, dtype):
            form = [f"shape {tuple(s)}, {d}" for s, d in ((shape, dtype), (tensor.shape, tensor.dtype))]
            refuse(label, f"the {part} of these settings: {form[0]}", form[1], fix)
        wrong = ~(tensor.isfinite() & (tensor >= low) & (tensor <= high))
        if wrong.any():
            bounds = "a finite number" if (low, high) == (-math.inf, math.inf) else f"{low:g} to {high:g}"
            refuse(label, bounds, tensor[wrong][0].item(), _FIX)


def load_settings(folder: Path) -> dict[str, Any]:
    """Read the folder's settings."""
    path = folder / SETTINGS_FILE
    if not path.is_file():
        raise FileNotFoundError(message("train", f"settings {path}", "a file", "none", "start without --resume"))
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        fix = "correct it, or start anew with --overwrite"
        raise ValueError(message("train", f"settings {path}", "valid JSON", str(error), fix)) from error
    if not isinstance(content, dict):
        fix = "put back a copy, or start anew with --overwrite"
        raise ValueError(message("train", f"settings {path}", "a JSON object", type(content).__name__, fix))
    return content


def adam_state(state: AdamState, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Adam's moments by parameter name."""
    return {
        f"{name}.{key}": torch.as_tensor(state[parameter][key])
        for name, parameter in parameters.items()
        if parameter in state
        for key in _ADAM_STATE
    }


def adam_of(saved: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter]) -> AdamState:
    """The state whose moments `adam_state` returned."""
    if not saved:
        return {}
    return {parameter: {key: saved[f"{name}.{key}"] for key in _ADAM_STATE} for name, parameter in parameters.items()}
