"""The software bill of materials of a wheel, in CycloneDX: what is compiled into it, and with what it was built.

setup.py calls `document`, so that this file imports the standard library alone.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

FOLDER = "sboms"
"""The folder of a wheel's .dist-info for it, by PEP 770."""

_FORM = {"$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json", "bomFormat": "CycloneDX", "specVersion": "1.6"}


@dataclass(frozen=True)
class Part:
    """Other people's code in the wheel.

    Attributes:
        licence: an SPDX expression.
        package: its package URL, without the version.
        description: which of it is in the wheel, and how.
    """

    licence: str
    package: str
    description: str


PARTS = {
    "pybind11": Part("BSD-3-Clause", "pkg:pypi/pybind11", "headers, compiled into the extension"),
    "libstdc++": Part(
        "GPL-3.0-or-later WITH GCC-exception-3.1",
        "pkg:generic/libstdc%2B%2B",
        "templates of its headers, compiled into the extension; the library itself is the system's",
    ),
}
"""The names that `bundled` facts may have."""


def document(
    name: str, version: str, licence: str, facts: Mapping[str, Any], files: Mapping[str, Path], epoch: int
) -> dict[str, Any]:
    """The bill of one wheel; the same facts, files and epoch give the same bill.

    Args:
        facts: {"bundled": {part: version}, "tools": {program: version}, "processor": name}, as the build found them.
        files: the wheel's compiled files, by their paths in it.
        epoch: when it was built, in seconds since 1970.
    """
    root = {
        "type": "library",
        "bom-ref": name,
        "name": name,
        "version": version,
        "purl": f"pkg:pypi/{name.replace('_', '-')}@{version}",
        "licenses": [{"expression": licence}],
    }
    parts = [_part(part, found) for part, found in facts["bundled"].items()]
    compiled = [_file(path, file) for path, file in files.items()]
    references = [part["bom-ref"] for part in parts]
    bill = {
        **_FORM,
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(epoch, timezone.utc).isoformat(),
            "component": root,
            "properties": [{"name": f"{name}:processor", "value": facts["processor"]}],
        },
        "components": [*parts, *compiled],
        "dependencies": [
            {"ref": name, "dependsOn": [file["bom-ref"] for file in compiled]},
            *({"ref": file["bom-ref"], "dependsOn": references} for file in compiled),
            *({"ref": reference} for reference in references),
        ],
        "formulation": [{"components": [_tool(tool, found) for tool, found in facts["tools"].items()]}],
    }
    digest = hashlib.sha256(json.dumps(bill, sort_keys=True).encode()).hexdigest()
    return {**bill, "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, digest)}"}


def _part(name: str, version: str) -> dict[str, Any]:
    part = PARTS[name]
    return {
        "type": "library",
        "bom-ref": name,
        "name": name,
        "version": version,
        "purl": f"{part.package}@{version}",
        "description": part.description,
        "licenses": [{"expression": part.licence}],
    }


def _file(path: str, file: Path) -> dict[str, Any]:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return {"type": "file", "bom-ref": path, "name": path, "hashes": [{"alg": "SHA-256", "content": digest}]}


def _tool(name: str, version: str) -> dict[str, Any]:
    return {"type": "application", "bom-ref": f"tool:{name}", "name": name, "version": version}
