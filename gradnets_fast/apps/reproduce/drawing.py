"""Colours of the figures, which are drawn on white, and arrays that a result file keeps for them."""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Any

import torch
from torch import Tensor

OURS, OTHER, MARK, INK = "#1b6b93", "#8d99ae", "#c1440e", "#1b3a4b"
"""Of gradient networks, of others, of what is known, and of what was given."""
SERIES = (OURS, MARK, "#e0a458", "#2a9d6f", OTHER)
"""Of lines beside each other."""


def packed(t: Tensor) -> dict[str, Any]:
    """An array as JSON keeps it, with the 11 bits that a picture needs.

    >>> packed(torch.tensor([[1.0, 2.0]]))
    {'shape': [1, 2], 'float16': 'ADwAQA=='}
    """
    raw = bytes(t.detach().to(torch.float16).contiguous().view(torch.uint8).flatten().tolist())
    return {"shape": list(t.shape), "float16": b64encode(raw).decode()}


def unpacked(kept: dict[str, Any]) -> Tensor:
    """The array that `packed` took.

    >>> unpacked(packed(torch.tensor([[1.0, 2.0]])))
    tensor([[1., 2.]])
    """
    raw = torch.tensor(list(b64decode(kept["float16"])), dtype=torch.uint8)
    return raw.view(torch.float16).reshape(kept["shape"]).float()
