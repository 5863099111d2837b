"""The dtypes of cases, and how float32 products are computed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Precision:
    """A dtype, and how its products are computed.

    Attributes:
        dtype: of the points.
        matmul: what torch.set_float32_matmul_precision is told; None leaves PyTorch as it starts.
        eps: of the numbers that products round their factors to.
    """

    dtype: torch.dtype
    matmul: str | None
    eps: float

    @contextmanager
    def active(self) -> Iterator[None]:
        """Computes float32 products so within it; afterwards as PyTorch starts."""
        if self.matmul is None:
            yield
            return
        try:
            torch.set_float32_matmul_precision(self.matmul)
            yield
        finally:
            torch.set_float32_matmul_precision("highest")
            # "highest" asks for IEEE products, which is more than nothing said.
            if hasattr(torch.backends.cuda.matmul, "fp32_precision"):  # torch 2.9
                torch.backends.cuda.matmul.fp32_precision = "none"


PRECISIONS = {
    "float64": Precision(torch.float64, None, 2.0**-52),
    "float32": Precision(torch.float32, None, 2.0**-23),
    "tf32": Precision(torch.float32, "high", 2.0**-10),
    "bfloat16": Precision(torch.bfloat16, None, 2.0**-7),
    "ieee": Precision(torch.float32, "highest", 2.0**-23),
    "float16": Precision(torch.float16, None, 2.0**-10),
}
