"""Predictions beside measurements: which of the committed predictions a measured case has."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.environment import RESULTS
from gradnets_fast.kernels import configuration

FILE = RESULTS / "gpu_model.json"


def kind_of(dtype: str, capability: int) -> str:
    """The kind of products that a dtype of the benchmark takes.

    >>> kind_of("bfloat16", 90), kind_of("float32", 90), kind_of("tf32", 80)
    ('half', 'tf32x3', 'tf32')
    """
    if dtype in ("bfloat16", "float16"):
        return "half"
    return configuration.float32_kind(capability) if dtype == "float32" else dtype


def milliseconds(
    facts: Mapping[str, Any], layers: int, capability: int | None, predictions: Path = FILE
) -> dict[str, float]:
    """The predicted time of each job of a ridge network of tanh; none for one that the model has no case of.

    facts: batch, d, h and dtype.  capability: of the GPU that measures; None where there is none.  Predictions are for
    the chip that stands for its architecture; of another batch or h they change in proportion.
    """
    if capability is None or not predictions.is_file() or facts["h"] < 1024:
        return {}
    content = json.loads(predictions.read_text(encoding="utf-8"))
    architecture, kind = configuration.tabulated(capability), kind_of(facts["dtype"], capability)
    scale = facts["batch"] * facts["h"] / (content["batch"] * content["h"])
    found = {
        row["job"]: scale * row["predicted_milliseconds"]
        for row in content["rows"]
        if (row["architecture"], row["kind"], row["d"], row["layers"]) == (architecture, kind, facts["d"], layers)
    }
    return found | ({"step": sum(found.values())} if len(found) > 1 else {})


def ratios(row: Mapping[str, Any]) -> dict[str, float]:
    """How many times its prediction each measured job of a row takes.

    >>> timed = {"ours": {"milliseconds": {"forward": {"median": 3.0}, "step": {"median": 9.0}}}}
    >>> ratios({"predicted": {"forward": 2.0}, "contenders": timed})
    {'forward': 1.5}
    """
    measured = row["contenders"].get("ours", {}).get("milliseconds", {})
    return {job: measured[job]["median"] / time for job, time in row.get("predicted", {}).items() if job in measured}


def error(rows: list[Mapping[str, Any]]) -> tuple[float, float] | None:
    """The smallest and the largest of all ratios; None where nothing was predicted."""
    found = [ratio for row in rows for ratio in ratios(row).values()]
    return (min(found), max(found)) if found else None
