"""Selection of backends: the order of requests, refusals with reasons, and `explain`."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

import gradnets_fast
from gradnets_fast import backend
from gradnets_fast.backend import BackendUnavailableError

X = torch.zeros(4, 2)
FLOAT8 = torch.float8_e5m2
"""A dtype that no kernel of csrc reads."""


def test_automatic_choice() -> None:
    assert backend.select("ridge", X) == "cpp"
    assert backend.select("ridge", X.double()) == "cpp"
    assert backend.select("ridge", X.bfloat16()) == "cpp"
    assert backend.select("ridge", X.half()) == "cpp"
    assert backend.select("ridge", X.to("meta")) == "reference"
    assert backend.select("ridge", X.to(FLOAT8)) == "reference"


def test_argument_beats_block_beats_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADNETS_FAST_BACKEND", "reference")
    assert backend.select("ridge", X) == "reference"
    with gradnets_fast.use_backend("cpp"):
        assert backend.select("ridge", X) == "cpp"
        with gradnets_fast.use_backend("reference"):
            assert backend.select("ridge", X) == "reference"
            assert backend.select("ridge", X, "cpp") == "cpp"
        assert backend.select("ridge", X) == "cpp"
    assert backend.select("ridge", X) == "reference"


def test_block_belongs_to_its_thread() -> None:
    seen = []
    with gradnets_fast.use_backend("reference"):
        thread = threading.Thread(target=lambda: seen.append(backend.select("ridge", X)))
        thread.start()
        thread.join()
    assert seen == ["cpp"]


def test_block_ends_with_an_exception() -> None:
    with pytest.raises(ZeroDivisionError), gradnets_fast.use_backend("reference"):
        raise ZeroDivisionError
    assert backend.select("ridge", X) == "cpp"


@pytest.mark.parametrize(
    ("request_by", "operator", "x", "words"),
    [
        ("argument", "ridge", X.to(FLOAT8), ["cpp", "float64, bfloat16 and", "float8", "choose one of reference"]),
        ("block", "ridge", X.to(FLOAT8), ["asked for by use_backend", "float8"]),
        ("environment", "ridge", X.to(FLOAT8), ["GRADNETS_FAST_BACKEND", "float8"]),
    ],
)
def test_a_named_backend_raises_when_it_cannot(
    request_by: str, operator: str, x: torch.Tensor, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if request_by == "environment":
        monkeypatch.setenv("GRADNETS_FAST_BACKEND", "cpp")
    block = gradnets_fast.use_backend("cpp") if request_by == "block" else nullcontext()
    with block, pytest.raises(BackendUnavailableError) as caught:
        backend.select(operator, x, "cpp" if request_by == "argument" else None)
    for word in words:
        assert word in str(caught.value)


def test_triton_is_refused_honestly() -> None:
    with pytest.raises(BackendUnavailableError, match=r"float32, bfloat16 and float16, not torch\.float64"):
        gradnets_fast.explain("softmax_modules_divergence", X.double(), backend="triton")


def test_unknown_names(monkeypatch: pytest.MonkeyPatch) -> None:
    for call in (lambda: backend.select("ridge", X, "cuda"), lambda: gradnets_fast.use_backend("cuda").__enter__()):
        with pytest.raises(ValueError, match="one of reference, cpp, triton, got 'cuda'"):
            call()
    monkeypatch.setenv("GRADNETS_FAST_BACKEND", "fast")
    with pytest.raises(ValueError, match="GRADNETS_FAST_BACKEND: expected one of"):
        backend.select("ridge", X)


def test_a_missing_extension_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradnets_fast.ops._cpp._WHY_UNAVAILABLE", "the extension is missing (test)")
    assert backend.select("ridge", X) == "reference"
    assert "missing (test)" in str(gradnets_fast.explain("ridge", X))
    with pytest.raises(BackendUnavailableError, match="missing"):
        backend.select("ridge", X, "cpp")


def test_explain_names_backend_kernel_and_reasons() -> None:
    net = gradnets_fast.mGradNetC(2, 2, 3)
    account = gradnets_fast.explain(net, X)
    assert (account.operator, account.backend) == ("ridge", "cpp")
    assert "f32" in account.kernel
    assert set(account.rejected) == {"triton"}
    text = str(account)
    assert text.splitlines()[0] == "operator  ridge"
    assert "asked for by name" in text
    assert gradnets_fast.explain(gradnets_fast.ridge, X).operator == "ridge"
    assert gradnets_fast.explain(gradnets_fast.ridge_jvp, X).backend == "cpp"
    assert gradnets_fast.explain("softmax_modules", X).operator == "softmax_modules"
    with gradnets_fast.use_backend("reference"):
        assert gradnets_fast.explain(gradnets_fast.GradNetM(2, 2, 3), X).backend == "reference"
    with pytest.raises(ValueError, match="expected one of ridge"):
        gradnets_fast.explain("conv", X)
    with pytest.raises(TypeError, match="a module or operator"):
        gradnets_fast.explain(3, X)  # type: ignore[arg-type]


def test_explain_under_autocast_and_for_bad_points() -> None:
    net = gradnets_fast.mGradNetC(2, 2, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        account = gradnets_fast.explain(net, X)
        assert net(X).dtype == torch.bfloat16
    assert account.backend == "cpp"
    assert "bf16" in account.kernel
    with pytest.raises(TypeError, match=r"explain: x: expected a torch\.Tensor"):
        gradnets_fast.explain(net, None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a floating dtype"):
        gradnets_fast.explain(net, X.long())


def test_explain_says_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Break the kernel: the module fails exactly where explain says that it would run."""

    def broken(*_: object) -> None:
        raise RuntimeError("broken kernel")

    net = gradnets_fast.mRidgeGradNet(2, 3)
    monkeypatch.setattr("gradnets_fast.ops._cpp._EXTENSION", SimpleNamespace(ridge=broken, environment=lambda _: ""))
    with gradnets_fast.use_backend("reference"):
        net(X)
    with pytest.raises(RuntimeError, match="broken kernel"):
        net(X)
