"""The digests of what kernels are compiled from: what makes them stale, and what does not."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from gradnets_fast.kernels import sources

ROOT = Path(__file__).resolve().parents[1]
TANH = frozenset({"tanh"})
KERNELS = (
    *("entry.forward", "entry.backward", "modules_entry.forward", "modules_entry.backward"),
    *("wide.forward", "wide.backward"),
)


@pytest.fixture(name="folder")
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of kernels/ that digests are made of."""
    folder = tmp_path / "kernels"
    shutil.copytree(sources.FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__", "*.zip"))
    monkeypatch.setattr(sources, "FOLDER", folder)
    sources.forget()
    yield folder
    sources.forget()


def _digests(names: frozenset[str] = TANH) -> dict[str, str]:
    sources.forget()
    return {kernel: sources.digest(kernel, names) for kernel in KERNELS}


@cache
def _unchanged(names: frozenset[str] = TANH) -> dict[str, str]:
    """The digests of a copy that is as it was made; all are alike."""
    return _digests(names)


def _changed(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def _stale(before: dict[str, str], names: frozenset[str] = TANH) -> set[str]:
    return {kernel for kernel, digest in _digests(names).items() if digest != before[kernel]}


def test_another_activation_leaves_the_digests_of_those_that_do_not_use_it(folder: Path) -> None:
    path, both = folder / "_activations_gen.py", TANH | {"cube"}
    before, before_with_it = _unchanged(), _unchanged(both)
    text = path.read_text(encoding="utf-8")
    branch = r'(    elif NAME == ")relu(":\n        return )relu(_\w+\(x\)\n)'
    text, count = re.subn(branch, r"\g<0>\1cube\2cube\3", text)
    assert count == 4
    for name in ("antiderivative", "value", "value_first", "value_first_second"):
        text += f"\n\n@triton.jit\ndef cube_{name}(x):\n    return x * x * x\n"
    path.write_text(text, encoding="utf-8")
    assert _stale(before) == set()
    assert _stale(before_with_it, both) == set(KERNELS)
    assert ("_activations_gen", "cube_value") in sources.reached("wide.forward", both)
    assert ("_activations_gen", "relu_value") not in sources.reached("wide.forward", both)


def test_words_and_layout_do_not_count(folder: Path) -> None:
    before = _unchanged()
    for path in folder.glob("*.py"):
        text = re.sub(r'    """(?=\S)', '    """Other words.  ', path.read_text(encoding="utf-8"))
        path.write_text(text.replace("\n    return", "\n\n    # Another comment.\n    return"), encoding="utf-8")
    _changed(folder / "common.py", "s2 * (1.0 / 11.0", "s2 * (\n        1.0 / 11.0")
    assert _stale(before) == set()


@pytest.mark.parametrize(
    ("file", "old", "new", "stale"),
    [
        ("_activations_gen", "return t0, 1.0 - (t0 * t0)", "return t0, 1.0 - t0", {*KERNELS} - {"wide.forward"}),
        ("_activations_gen", "def relu_value(x):\n    return", "def relu_value(x):\n    return 2 *", set()),
        ("common", "4.0 * tl.exp(", "2.0 * tl.exp(", {*KERNELS} - {"wide.forward"}),
        ("integral", "FAR = tl.constexpr(128)", "FAR = tl.constexpr(64)", {"entry.forward", "entry.backward"}),
        (
            "cascade",
            "    shift: tl.constexpr\n",
            "    shift: tl.constexpr = True\n",
            {"entry.backward", "wide.backward"},
        ),
        ("reduction", 'cache_modifier=".cg"', 'cache_modifier=".ca"', {"entry.backward", "modules_entry.backward"}),
        ("wide", 'do_not_specialize=["count"]', 'do_not_specialize=["h"]', {"wide.forward"}),
        ("wide", "        _store(a", "    _store(a", {"wide.backward"}),
    ],
)
def test_code_makes_stale_what_reaches_it(file: str, old: str, new: str, stale: set[str], folder: Path) -> None:
    before = _unchanged()
    _changed(folder / f"{file}.py", old, new)
    assert _stale(before) == stale


def test_a_transform_counts_where_it_is_used(folder: Path) -> None:
    used = TANH | {"half_square"}
    before, before_with_it = _unchanged(), _unchanged(used)
    for path in folder.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        path.write_text(re.sub(r'(NAME == "half_square":\n +return )', r"\g<1>2.0 * ", text), encoding="utf-8")
    assert _stale(before) == set()
    assert _stale(before_with_it, used) == {"modules_entry.forward", "modules_entry.backward"}


def test_names_are_those_of_a_launch_or_of_its_account_in_json() -> None:
    constants = {"BASIS": ("tanh", "sin"), "LAYERS": 2}
    assert sources.names_in(constants) == sources.names_in(json.loads(json.dumps(constants))) == {"tanh", "sin", ""}
    assert sources.names_in({"BASIS": "tanh", "TRANSFORM": "exp"}) == {"tanh", "exp"}


_TRANSLATE = """
import json, sys
from gradnets_fast.kernels import compiler, configuration, offline
from gradnets_fast.kernels.mode import Mode
for name, variant in offline.VARIANTS.items():
    mode = Mode(90, "half", offline.BASIS, variant.depth or 4)
    d = 2 if variant.kernel.startswith("narrow") else 32
    tiles = configuration.options(variant.kernel, 90, "half", d, mode.layers)
    separate, together = compiler.translated(offline.launch(name, mode, d, tiles, False, ()), 90)
    assert separate.count("tt.func") > together.count("tt.func") == 1
    print(json.dumps([variant.entry, {"BASIS": offline.BASIS} | variant.constants, separate]))
"""


def _printed(script: str) -> list[str]:
    """The lines that a script prints outside Triton's interpreter."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


@pytest.mark.slow
def test_every_function_that_triton_compiles_is_reached() -> None:
    """Triton's own account: the functions of a launch before they are put into one."""
    for line in _printed(_TRANSLATE):
        kernel, constants, text = json.loads(line)
        called = set(re.findall(r"@gradnets_fast\.kernels\.(\w+)\.(\w+?)__", text))
        assert len(called) > 5
        assert called <= sources.reached(kernel, sources.names_in(constants))


_RENEW = """
from types import SimpleNamespace
import triton
from bench import tiles
from gradnets_fast.kernels import offline
case = (90, "narrow.forward", "half", 2, 1)
table = tiles._read()
(entry,) = tiles._entries(table, case)
entry |= {"code": tiles.code(case, entry["options"]), "triton": triton.__version__}
known, compiled = dict(entry), []

def compile(launch, architecture):
    compiled.append(launch.kernel)
    return SimpleNamespace(asm={"ttgir": "", "ptx": ""})

tiles._read, tiles.compiler.compiled = lambda: table, compile
tiles.compiler.Resources.of = lambda made: tiles.compiler.Resources(1, 0, 2, 3)
tiles.model.of_compiled = lambda *compiled: SimpleNamespace(of_bound=0.25)
entry["sources"] = "stale"
assert tiles.updated(case) == known | {"sources": offline.digest(case[1], case[4])}
print(len(compiled), end=" ")
for other in ({"code": ["other"]}, {"triton": "1.0.0"}):
    entry.update(known | other)
    assert tiles.updated(case)["resources"] == {"narrow.forward": (1, 0, 2, 3)}
    assert tiles.updated(case)["code"] == known["code"]
    assert tiles.updated(case)["predicted"] == 0.25
print(len(compiled))
"""


@pytest.mark.slow
def test_what_translates_to_the_same_code_is_not_compiled_again() -> None:
    assert _printed(_RENEW) == ["0 12"]
