"""Seeded faults, and what of the suite catches each: `python -m tests.mutants`, or `make mutants`."""
