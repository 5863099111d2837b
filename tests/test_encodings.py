"""Terminals, pipes and file names that are not UTF-8."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

COMMANDS = ("train", "bench", "doctor", "warmup", "tune")
QUICK = ["--steps", "4", "--samples", "200", "--batch-size", "100", "--embed-dim", "3"]
MAIN = """
import sys
from gradnets_fast.__main__ import main
for line in sys.argv[1:]:
    sys.argv[1:] = line.split("|")
    try:
        main()
    except SystemExit as end:
        print("CODE", end.code)
"""


def run(encoding: dict[str, str], *lines: str | bytes) -> tuple[bytes, bytes]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "LC_", "LANG"))}
    done = subprocess.run(
        [sys.executable, "-c", MAIN, *lines], capture_output=True, env={**environment, **encoding}, check=True
    )
    return done.stdout, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "encoding",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=["ascii", "latin-1", "LC_ALL=C"],
)
def test_every_command_writes_in_the_characters_that_there_are(encoding: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("y\n1\n")
    lines = [
        "--help",
        *(f"{command}|--help" for command in COMMANDS),
        "|".join(["train", *QUICK, "--out", str(tmp_path / "run")]),
        "bench|--list|--preset|full",
        "warmup|--embed-dim|3|--device|cpu",
        f"train|--data|{tmp_path}/a.csv|--out|{tmp_path}/none",
        "warmup|--method|nothing",
    ]
    out, errors = (text.decode(encoding.get("PYTHONIOENCODING", "ascii")) for text in run(encoding, *lines))
    codes = [line.removeprefix("CODE ") for line in out.splitlines() if line.startswith("CODE ")]
    assert codes == ["0"] * 9 + ["2", "2"], errors
    assert "Traceback" not in errors
    assert "columns x0, ..., g0, ..., got y; name coordinates x0, x1, ..., gradients g0, g1, ..." in errors
    assert "Transform rho of each module's" in " ".join(out.replace("|", " ").split())
    assert "|J - J" in out


@pytest.mark.slow
def test_a_file_may_have_any_name(tmp_path: Path) -> None:
    """Not UTF-8, markup of the terminal's library, formulas of the figure's."""
    x = np.random.default_rng(0).random((50, 2))
    folder, lines, paths = os.fsencode(tmp_path), [], {}
    for name in (b"\xff\xfe", b"a$^^_{$", b"a[red]b[", b"[\\x]:smile:"):
        out, path = folder + b"/" + name, folder + b"/" + name + b".npz"
        np.savez(os.fsdecode(path), x=x, g=x)
        paths[out] = path
        lines.append(b"|".join([b"train", *map(os.fsencode, QUICK), b"--data", path, b"--out", out]))
    text, errors = run({"PYTHONIOENCODING": "utf-8"}, *lines, *(b"train|--resume|--out|" + out for out in paths))
    assert text.count(b"CODE 0") == 8, errors.decode()
    for out, path in paths.items():
        settings = json.loads(Path(os.fsdecode(out), "settings.json").read_text(encoding="utf-8"))
        assert os.fsencode(settings["data"]) == path
