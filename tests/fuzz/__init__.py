"""Calls of the operators that nobody thought of: drawn by hypothesis, judged by the rule of the package's tests.

- cases.py: what a call is made of, as a value that prints itself as a program.
- strategies.py: how such values are drawn.
- judge.py: what has to hold of a call.

`tests/test_fuzz.py` tries a few hundred, the same ones in each run; `make fuzz` 20,000 others.
"""
