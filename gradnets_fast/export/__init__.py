"""Networks for places without Python: `to_c` prints one as a C file."""

from ._c import to_c as to_c

__all__ = ["to_c"]
