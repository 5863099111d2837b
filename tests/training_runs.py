"""Runs of `gradnets-fast train` for tests, and what their errors must look like."""

from __future__ import annotations

from typer.testing import CliRunner

from gradnets_fast.apps.cli import app

QUICK = ["--steps", "40", "--samples", "2000", "--batch-size", "200"]


def invoke(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["train", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def fails(*arguments: object, words: list[str]) -> None:
    code, _, error = invoke(*arguments)
    assert code == 2, error
    assert error.startswith("gradnets-fast: ")
    assert error.count("\n") == 1
    for word in ("expected ", "got ", "; ", *words):
        assert word in error, error
