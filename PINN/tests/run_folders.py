"""Run folders to test with: made, worked on by this process or another, finished and read back."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

PACKAGES = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PACKAGES))

import pytest  # noqa: E402
from pinn import files  # noqa: E402
from pinn.record import Run, RunKey  # noqa: E402

# What a subprocess starts with: `run` as below, in the folder argv[1], and a fast heartbeat.
PREAMBLE = f"""
import os, sys, time
sys.path.insert(0, {str(PACKAGES)!r})
from pathlib import Path
from pinn import files, record
files.HEARTBEAT = 0.2
key = record.RunKey("pinn", "mlp", "convection", "lbfgs", "beta", 30.0, "n", 1000, 0)
run = record.Run(Path(sys.argv[1]), key, {{"lr": 1.0}})
"""


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> Any:
    """No warning was given, no claim is held, and the heart beats fast."""
    monkeypatch.setattr(files, "_warned", set())
    monkeypatch.setattr(files, "HEARTBEAT", 0.2)
    yield
    files._release_all()


def make(path: Path, seed: int = 0, config: dict[str, Any] | None = None, **kwargs: Any) -> Run:
    """One run of the convection map."""
    key = RunKey("pinn", "mlp", "convection", "lbfgs", "beta", 30.0, "n", 1000, seed)
    return Run(path, key, {"lr": 1.0} if config is None else config, **kwargs)


def prepared(path: Path, seed: int = 0) -> Run:
    """A run that this process works on."""
    run = make(path, seed)
    run.prepare()
    assert run.claim()
    return run


def finish(run: Run, **changes: Any) -> dict[str, Any]:
    """Finish a run and give its metrics.json, read by a parser that refuses NaN."""
    result: dict[str, Any] = dict(status="finished", stop_reason="max_iter", train_loss=1e-3)
    result |= dict(test_error=0.1, metrics={"bc": 1e-4}, iterations=20, evaluations=25)
    result |= dict(seconds=1.5, environment={"torch": "2"}, model=None)
    run.finish(**result | changes)
    return read_strict(run.path / "metrics.json")


def read_strict(path: Path) -> dict[str, Any]:
    """Parse JSON and refuse NaN and Infinity."""

    def refuse(text: str) -> None:
        raise AssertionError(text)

    return json.loads(path.read_text(), parse_constant=refuse)


def spawn(code: str, *arguments: object, stdin: int | None = None) -> subprocess.Popen[str]:
    """Start a subprocess on PREAMBLE and `code`."""
    command = [sys.executable, "-c", PREAMBLE + code, *map(str, arguments)]
    return subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, text=True)


def rows(run: Run) -> list[dict[str, str]]:
    """The history as it lies on disk."""
    return list(csv.DictReader(io.StringIO((run.path / "history.csv").read_text())))
