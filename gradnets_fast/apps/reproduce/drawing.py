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

_DTYPES = {torch.float32: "float32", torch.float16: "float16", torch.uint8: "uint8"}


def packed(t: Tensor, dtype: torch.dtype = torch.float16) -> dict[str, Any]:
    """An array as JSON keeps it, in 11 bits where that is enough for a picture; dtype: a key of _DTYPES.

    >>> packed(torch.tensor([[1.0, 2.0]]))
    {'shape': [1, 2], 'dtype': 'float16', 'base64': 'ADwAQA=='}
    """
    raw = bytes(t.detach().to(dtype).contiguous().view(torch.uint8).flatten().tolist())
    return {"shape": list(t.shape), "dtype": _DTYPES[dtype], "base64": b64encode(raw).decode()}


def unpacked(kept: dict[str, Any]) -> Tensor:
    """The array that `packed` took.

    >>> unpacked(packed(torch.tensor([[1.0, 2.0]])))
    tensor([[1., 2.]])
    """
    raw = torch.tensor(list(b64decode(kept["base64"])), dtype=torch.uint8)
    dtype = next(each for each, name in _DTYPES.items() if name == kept["dtype"])
    return raw.view(dtype).reshape(kept["shape"]).float()
