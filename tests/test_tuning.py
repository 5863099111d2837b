"""warmup and tune, in Triton's interpreter; the table of tiles, and what the compiler says of it without a GPU."""

from __future__ import annotations

import doctest
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import gradnets_fast
from covering import slow_but
from gradnets_fast.apps import tuning as command
from gradnets_fast.apps.files import locked
from gradnets_fast.kernels import candidates, compiler, configuration, offline, tuning

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _no_tuned_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("GRADNETS_FAST_TABLE", str(tmp_path / "tuned.json"))
    _forget()
    yield
    _forget()


def _forget() -> None:
    configuration.table.cache_clear()
    configuration.options.cache_clear()
    configuration.route.cache_clear()


@pytest.mark.parametrize("backend", ["cpp", pytest.param("triton", marks=pytest.mark.slow)])
def test_warmup_runs_every_method_and_leaves_no_trace(backend: str) -> None:
    net = gradnets_fast.mRidgeGradNet(3, 8)
    state = torch.get_rng_state()
    with gradnets_fast.use_backend(backend):
        seconds = gradnets_fast.warmup(net, [1, 5], methods=("forward", "jvp", "potential", "divergence", "jacobian"))
    assert list(seconds) == [1, 5]
    assert all(s > 0 for s in seconds.values())
    assert all(p.grad is None for p in net.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_warmup_under_autocast_and_of_frozen_networks() -> None:
    net = gradnets_fast.RidgeGradNet(3, 8).requires_grad_(False)
    assert gradnets_fast.warmup(net, [4], dtype=torch.bfloat16)[4] > 0


def test_warmup_names_what_it_cannot_take() -> None:
    net = gradnets_fast.mGradNetC(2, 3, 8)
    with pytest.raises(ValueError, match="batch_sizes: expected a positive integer, got 0"):
        gradnets_fast.warmup(net, [0])
    with pytest.raises(ValueError, match="methods"):
        gradnets_fast.warmup(net, [1], methods=("backward",))
    with pytest.raises(TypeError, match="module: expected a gradient network"):
        gradnets_fast.warmup(torch.nn.Linear(2, 2), [1])


QUICK = ("narrow.forward", "narrow.backward", "forward", "backward", "deep.forward")
"""Kernels whose candidates the interpreter measures in seconds."""


@pytest.mark.parametrize("kernel", slow_but(QUICK, list(configuration.TILES)))
def test_every_candidate_gives_the_same_result_when_measured(kernel: str) -> None:
    case = next(case for case in candidates.cases() if case[1] == kernel)
    measured = tuning.measure(case, CPU)
    assert measured is not None
    assert measured.options in [*candidates.CANDIDATES[kernel], configuration.options(kernel, 0, *case[2:])]
    assert 0 < measured.milliseconds <= (measured.before or 0)


@pytest.mark.slow
def test_tune_writes_a_table_that_goes_before_the_committed_one(tmp_path: Path) -> None:
    lines: list[str] = []
    path = command.tune(CPU, "narrow.forward", None, lines.append)
    assert path == tmp_path / "tuned.json"
    assert len(lines) == len(tuning.listed(CPU, "narrow.forward"))
    (architecture, kernel, kind, d, depth) = tuning.listed(CPU, "narrow.forward")[0]
    written = json.loads(path.read_text())["tables"]
    chosen = written[str(architecture)][kernel][kind][0]
    _forget()
    assert configuration.options(kernel, architecture, kind, d, depth) == chosen["options"]
    assert configuration.options("narrow.backward", architecture, kind, d, depth) is not None


def test_a_tuned_table_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tuned.json").write_text("[]")
    with pytest.raises(ValueError, match=r"tuned\.json: expected what gradnets-fast tune writes"):
        configuration.table()


ENTRY = {"d": 4, "depth": 1, "options": {"BM": 32, "BH": 32, "num_warps": 4, "num_stages": 2}}


@pytest.mark.parametrize(
    "change",
    [
        {"d": "4"}, {"depth": None}, {"options": 3}, {"options": {}}, {"options": ENTRY["options"] | {"BM": 33}},
        {"options": ENTRY["options"] | {"BM": 2**30}}, {"options": ENTRY["options"] | {"num_warps": "4"}},
        {"options": ENTRY["options"] | {"more": 1}}, {"options": ENTRY["options"] | {"num_stages": True}},
    ],
    ids=str,
)  # fmt: skip
def test_a_tuned_table_with_tiles_that_are_none_is_refused(change: dict[str, object], tmp_path: Path) -> None:
    def write(entry: dict[str, object]) -> None:
        tables = {"tables": {"90": {"forward": {"ieee": [entry]}}}}
        (tmp_path / "tuned.json").write_text(json.dumps(tables))

    write(ENTRY | change)
    with pytest.raises(ValueError, match=r"tuned\.json: expected what gradnets-fast tune writes"):
        configuration.table()
    write(ENTRY)
    _forget()
    assert configuration.options("forward", 90, "ieee", 4, 1) == ENTRY["options"]


def test_a_deep_table_is_refused_and_one_that_cannot_be_looked_for_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tuned.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="RecursionError"):
        configuration.table()

    def closed(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", closed)
    assert configuration.table() == json.loads(configuration.TABLE.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("content", "words"), [("{", "valid JSON"), ("[]", "other JSON"), ('{"tables": 1}', "other JSON")]
)
def test_tune_leaves_a_file_alone_that_it_has_not_written(content: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "notes.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=rf"^tune: out .*notes\.json: .*{words}"):
        command.tune(CPU, "narrow.forward", path, print)
    assert path.read_text() == content


def test_one_tune_at_a_time_writes_into_a_folder(tmp_path: Path) -> None:
    with locked(tmp_path, "tune"), pytest.raises(OSError, match="a folder that no other run is using"):
        command.tune(CPU, "narrow.forward", tmp_path / "tuned.json", print)


@pytest.mark.slow
def test_tune_without_a_gpu_says_so_in_one_line() -> None:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-m", "gradnets_fast", "tune"], capture_output=True, text=True, env=environment
    )
    assert run.returncode == 2
    assert run.stderr.startswith(
        "gradnets-fast: tune: device: expected an NVIDIA GPU that the kernels run on, got cuda"
    )
    assert "gradnets-fast doctor" in run.stderr
    assert len(run.stderr.splitlines()) == 1


def test_the_examples_of_the_configuration() -> None:
    assert doctest.testmod(configuration) == (0, 7)


def test_the_table_has_every_case() -> None:
    for architecture, kernel, kind, d, depth in candidates.cases():
        entries = configuration.table()[str(architecture)][kernel][kind]
        assert (d, depth) in [(entry["d"], entry["depth"]) for entry in entries], (architecture, kernel, kind, d, depth)


def test_products_of_full_precision_do_without_tf32_where_its_tiles_spill() -> None:
    assert configuration.options("derivatives", 90, "tf32x3", 128, 4) is None
    assert configuration.options("derivatives", 90, "tf32x3", 20, 4)["PRECISION"] == "ieee"
    assert "PRECISION" not in configuration.options("derivatives", 90, "tf32x3", 20, 1)
    assert configuration.route("backward", 90, "tf32x3", 128, 4).name == "wide"


def test_nothing_in_the_table_spills() -> None:
    for architecture in configuration.ARCHITECTURES:
        for kernel, kinds in configuration.table()[str(architecture)].items():
            for entry in (entry for entries in kinds.values() for entry in entries if entry["options"]):
                assert sorted(entry["resources"]) == sorted(offline.variants(kernel, entry["depth"]))
                assert len(entry["code"]) == len(entry["resources"])
                assert all(compiler.Resources(*r).fits(architecture) for r in entry["resources"].values())


def test_the_table_was_compiled_from_these_kernels() -> None:
    """Else its account of what kernels take is of others: run python -m bench.tiles."""
    for architecture in configuration.ARCHITECTURES:
        for kernel, kinds in configuration.table()[str(architecture)].items():
            for entry in (entry for entries in kinds.values() for entry in entries):
                assert entry["sources"] == offline.digest(kernel, entry["depth"]), (architecture, kernel, entry)


_COMPILE = """
import json, sys
from gradnets_fast.kernels import configuration, offline
from gradnets_fast.kernels.mode import Mode
architecture, kind, d, layers, heads = json.loads(sys.argv[1])
compiled = 0
for name, variant in offline.VARIANTS.items():
    width = min(d, 2) if variant.kernel.startswith("narrow") else d
    mode = Mode(architecture, kind, ("tanh",), layers, heads=heads)
    depth = variant.depth or layers
    if variant.depth and layers > 1:
        continue
    if variant.depth:
        tiles = configuration.options(variant.kernel, architecture, kind, width, depth)
    else:
        tiles = mode.options(variant.kernel, width)
    needs = offline.resources(name, mode, width, tiles)
    assert needs.fits(architecture), (name, tiles, needs)
    compiled += 1
    if (architecture, layers) == (90, 1) and not variant.depth:
        absent = offline.resources(name, mode, width, tiles, even=False, absent=("scale", "coef"))
        assert absent.registers > 0
print("compiled", compiled)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "d", "layers", "heads"),
    [(a, 64, layers, False) for a in configuration.ARCHITECTURES for layers in (1, 4)]
    + [(80, 32, 4, True), (90, 32, 4, True), (100, 64, 2, True)],
)
def test_kernels_compile_without_a_gpu(architecture: int, d: int, layers: int, heads: bool) -> None:
    """A sample: the rest of the table is compiled by bench.tiles, whose account the two tests above check.

    Heads take the tiles of cascades as deep, for their potentials and derivatives with more warps.
    """
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    case = json.dumps([architecture, "half", d, layers, heads])
    run = subprocess.run([sys.executable, "-c", _COMPILE, case], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    expected = [v for v in offline.VARIANTS.values() if layers == 1 or not v.depth]
    assert run.stdout.split() == ["compiled", str(len(expected))]


_ASYNCHRONOUS = """
from gradnets_fast.kernels import compiler, configuration, offline
from gradnets_fast.kernels.mode import Mode
mode = Mode(90, "half", offline.BASIS, 1)
for name in ("divergence.backward", "jacobian", "jacobian.backward"):
    tiles = configuration.options(offline.VARIANTS[name].kernel, 90, "half", 64, 1)
    tiles = tiles | ({"BH": 64} if name == "jacobian.backward" else {})
    text = compiler.compiled(offline.launch(name, mode, 64, tiles, True, ()), 90).asm["ptx"]
    print(name, "wgmma.mma_async" in text, "cp.async" in text)
"""


@pytest.mark.slow
def test_no_product_reads_shared_memory_that_copies_fill_meanwhile() -> None:
    """W's tile has one buffer where registers hold it too, and products on 9.0 are awaited an iteration later."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    run = subprocess.run([sys.executable, "-c", _ASYNCHRONOUS], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    lines = [f"{name} True False" for name in ("divergence.backward", "jacobian", "jacobian.backward")]
    assert run.stdout.splitlines() == lines
