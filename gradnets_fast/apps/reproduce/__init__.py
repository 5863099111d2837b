"""`gradnets-fast reproduce`: each experiment is a file here, and an entry of EXPERIMENTS."""

from __future__ import annotations

from . import (
    colour,
    denoise,
    density,
    energies,
    expressive,
    fields,
    hamiltonian,
    machine,
    optimise,
    poisson,
    potential,
    score,
    structure,
    surface,
    transport,
)
from .experiment import Experiment as Experiment

_FILES = (
    *(fields, potential, structure, hamiltonian, energies, surface, poisson, transport, density, denoise),
    *(score, optimise, machine, colour, expressive),
)
EXPERIMENTS: dict[str, Experiment] = {each.EXPERIMENT.name: each.EXPERIMENT for each in _FILES}
"""All experiments, by their names."""
