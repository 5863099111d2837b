"""What compute-sanitizer watches: every operator once, forward and backward, on small shapes."""

from __future__ import annotations

from itertools import product

import torch

from bench.gpu.checks import SMALL_SHAPES, SUFFIXES, arguments, cotangent, drawn, gradients, operator

if __name__ == "__main__":
    for suffix, shape in product(SUFFIXES, SMALL_SHAPES[:2]):
        tensors = drawn(shape, "tanh4", "bf16", torch.device("cuda"))
        gradients(operator(suffix, "tanh4", "triton"), arguments(suffix, tensors), cotangent(suffix, tensors[2]))
    torch.cuda.synchronize()
