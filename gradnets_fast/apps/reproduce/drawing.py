"""Colours of the figures, which are drawn on white."""

from __future__ import annotations

OURS, OTHER, MARK, INK = "#1b6b93", "#8d99ae", "#c1440e", "#1b3a4b"
"""Of gradient networks, of others, of what is known, and of what was given."""
SERIES = (OURS, MARK, "#e0a458", "#2a9d6f", OTHER)
"""Of lines beside each other."""
