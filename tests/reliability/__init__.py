"""Faults on purpose, damaged files, native code under sanitizers, and hours of load: `make reliability`.

- __main__.py: the command; results are written after each block of cases, and a run goes on where it was stopped.
- kinds.py: what a kind of case is.  children.py: processes that a case starts, limits and kills.
- runs.py: runs of `gradnets-fast train`, what they give undisturbed, and what holds after a disturbance.
- interruption.py, surroundings.py: kills; full disks, read-only folders, clocks, memory.
- damage.py, mutation.py: files that are read, changed anywhere or in their structure.
- calls.py, sanitized.py: drawn calls of the operators, also under GCC's sanitizers.
- soak.py: training, inference and derivatives in threads and processes at full load.
- results.py: bench/results/reliability.json, and the table docs/reliability.md that is made of it.
"""
