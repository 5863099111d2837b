"""`gradnets-fast doctor`: what is installed, whether it works, and what to do where it does not.

Nothing here imports more than the standard library until it is examined: what is broken must not break the report.
"""

from .check import FAILURE, NOTE, OK, STATUSES, WARNING, Check
from .examination import GROUPS, Group, Request, examine

__all__ = ["FAILURE", "GROUPS", "NOTE", "OK", "STATUSES", "WARNING", "Check", "Group", "Request", "examine"]
