"""`gradnets-fast reproduce`: each experiment is a file here, and an entry of EXPERIMENTS."""

from __future__ import annotations

from . import colour, expressive, fields, machine, optimise, potential, score, structure
from .experiment import Experiment as Experiment

EXPERIMENTS: dict[str, Experiment] = {
    each.name: each
    for each in (
        fields.EXPERIMENT,
        potential.EXPERIMENT,
        structure.EXPERIMENT,
        score.EXPERIMENT,
        optimise.EXPERIMENT,
        machine.EXPERIMENT,
        expressive.EXPERIMENT,
        colour.EXPERIMENT,
    )
}
"""All experiments, by their names."""
