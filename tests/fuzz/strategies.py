"""How calls are drawn: small and awkward sizes more often than large ones, every family, quantity, dtype and layout."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import strategies as st

from gradnets_fast import functional
from gradnets_fast.activations import TABLE, TRANSFORMS
from gradnets_fast.apps import draws
from gradnets_fast.apps.draws import Variant

from .cases import LAYOUTS, MODES, Case

_OPERATORS = [name for name in functional.__all__ if draws.family(name) in functional.NETWORKS]
_DTYPES = ("float32", "float64", "bfloat16", "float16")
_LENGTHS = st.sampled_from([*range(4), *(5, 7, 16, 17, 31, 33, 65)])
_COORDINATES = st.sampled_from([*range(1, 10), *(13, 16, 17, 31, 32, 33, 61, 64, 65, 129)])
_UNITS = st.sampled_from([*range(1, 10), *(15, 16, 17, 31, 32, 33, 64, 65, 127, 130)])
_SCALES = (1.0, 0.0, 1e-3, 30.0)
_QUICK_MODES = tuple(mode for mode in MODES if mode != "compiled")
_COMPILED_OF = 200
"""One of so many calls is compiled by torch.compile, which takes seconds."""
_SOFT = tuple(name for name, basis in TABLE.items() if basis.nondecreasing)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Calls of all operators."""
    operator = draw(st.sampled_from(_OPERATORS))
    family, quantity = draws.family(operator), draws.quantity(operator)
    mode = draw(st.sampled_from(_QUICK_MODES))
    # Each point of a transform's batch is a call of the reference, and a Jacobian has d² numbers.
    widest = 2 if mode == "vmap" or quantity == "jacobian" else 3
    batch = draw(st.lists(_LENGTHS, max_size=widest).filter(lambda sizes: math.prod(sizes) <= 300))
    variant, dtype, seed = draw(variants(family)), draw(st.sampled_from(_DTYPES)), draw(st.integers(0, 2**32 - 1))
    if mode == "autocast" and family == "conv_ridge":
        mode = "gradients"  # the linear part of its potential is PyTorch's, whose sums autocast rounds otherwise
    if seed % _COMPILED_OF == 1:
        mode = "compiled"
    return Case(
        operator=operator,
        variant=variant,
        dtype="float32" if mode == "autocast" else dtype,
        batch=tuple(batch),
        d=draw(_COORDINATES if quantity != "jacobian" else st.integers(1, 20)),
        # The softmax of a single unit is 1, and what rounding leaves of its derivatives is as large as they are.
        h=draw(_UNITS) + (family == "softmax_modules"),
        layouts=tuple(draw(st.lists(st.sampled_from(LAYOUTS), min_size=1, max_size=5))),
        needs=tuple(draw(st.lists(st.booleans(), min_size=1, max_size=6))),
        scale=draw(st.sampled_from(_SCALES)),
        mode=mode,
        seed=seed,
    )


@st.composite
def variants(draw: st.DrawFn, family: str) -> Variant:
    """Parameters and settings of a family."""
    depth, options = draw(st.integers(1, 4)), dict[str, Any]()
    names = st.sampled_from([*TABLE])
    if family in ("ridge", "conv_ridge"):
        basis = tuple(draw(st.lists(names, min_size=1, max_size=3, unique=True)))
        options = {"bare": depth == len(basis) == 1 and draw(st.booleans())}
    elif family == "deep":
        basis = (draw(names),)
    elif family == "transformed_modules":
        basis = (draw(st.sampled_from(_SOFT)),)
        options = {"transform": draw(st.sampled_from([*TRANSFORMS])), "combined": draw(st.booleans())}
    else:
        basis, options = (), {"bare": draw(st.booleans()), "combined": draw(st.booleans())}
    return Variant(family, depth, basis, **options)
