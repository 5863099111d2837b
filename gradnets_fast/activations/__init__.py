"""Basis functions: one table (`spec`), from which compiled code is printed (`codegen`)."""

from .spec import TABLE, Basis
from .transforms import TRANSFORMS, Transform

__all__ = ["TABLE", "TRANSFORMS", "Basis", "Transform"]
