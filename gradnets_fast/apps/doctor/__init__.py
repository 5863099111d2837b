"""`gradnets-fast doctor`: what is installed, whether it works, and what to do where it does not.

`cli/doctor_command.py` calls `command.run`; `__main__.py` calls `command.main` where the command line lacks a package.
Nothing here imports more than the standard library until it is examined: what is broken must not break the report.
"""
