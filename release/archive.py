"""Source archives with the same bytes each time.

setup.py calls `normalise`, so that this file imports the standard library alone.
"""

from __future__ import annotations

import gzip
import os
import tarfile
from pathlib import Path

_COMPRESSION = 9


def normalise(path: Path, epoch: int) -> None:
    """Rewrite a .tar.gz without what depends on the machine: times, owners, order and permissions."""
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        # fileobj and an empty name: the file's name would go into the header.
        with (
            tarfile.open(path) as old,
            temporary.open("wb") as raw,
            gzip.GzipFile("", "wb", _COMPRESSION, raw, mtime=epoch) as compressed,
            tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as new,
        ):
            for member in sorted(old, key=lambda member: member.name):
                new.addfile(_normal(member, epoch), old.extractfile(member) if member.isfile() else None)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _normal(member: tarfile.TarInfo, epoch: int) -> tarfile.TarInfo:
    member.mtime, member.pax_headers = epoch, {}
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
    return member
