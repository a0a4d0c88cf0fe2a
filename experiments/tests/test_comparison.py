"""comparison.py: the table and the picture of one cell."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from shell import SCRIPTS


def put_run(root: Path, strategy: str, error: float | None, system: str = "convection", **changes: object) -> Path:
    """Write a run folder with a history, finished if an error is given."""
    folder = root / str(changes.get("model", "")).lower() / system / strategy / "beta_10" / "n_50" / "seed_0"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    rows = ["iteration,stage,train_loss,test_error", "0,a,1.0,2.0", "20,a,0.1,", "40,a,0.01,0.5", ""]
    (folder / "history.csv").write_text("\n".join(rows))
    if error is not None:
        content = {"schema": 1, "module": "PINN", "model": "PINN", "system": system, "strategy": strategy,
                   "physical": {"name": "beta", "value": 10.0}, "data": {"name": "n", "value": 50}, "seed": 0,
                   "train_loss": 0.01, "test_error": error, "status": "finished", "stop_reason": "budget",
                   "iterations": 40, "evaluations": 50, "seconds": 1.25, "metrics": {}, **changes}
        (folder / "metrics.json").write_text(json.dumps(content))
    return folder


def compare(results: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    cell = ["--physical", "beta=10", "--n", "50", "--seed", "0"]
    return subprocess.run([sys.executable, SCRIPTS / "analysis/comparison.py", results, *cell, *arguments],
                          capture_output=True, text=True)


def test_comparison_table_and_picture(tmp_path: Path) -> None:
    put_run(tmp_path, "adam", 0.9)
    put_run(tmp_path, "lbfgs", 0.02)
    put_run(tmp_path, "nncg", None)
    (put_run(tmp_path, "cl", None) / "failed.json").write_text("{}")
    diverged = put_run(tmp_path, "alm", 1.0, status="diverged", stop_reason="non_finite", test_error=None)
    (diverged / "history.csv").unlink()
    result = compare(tmp_path, "--out", str(tmp_path / "new" / "picture.png"))
    assert result.returncode == 0, result.stderr
    rows = [line.split() for line in result.stdout.splitlines()[2:]]
    assert rows == [
        ["strategy", "train", "loss", "test", "error", "iterations", "seconds", "status", "stop", "reason"],
        ["lbfgs", "1.00e-02", "2.00e-02", "40", "1.2", "finished", "budget"],
        ["adam", "1.00e-02", "9.00e-01", "40", "1.2", "finished", "budget"],
        ["alm", "1.00e-02", "nan", "40", "1.2", "diverged", "non_finite"],
        ["cl", "failed"],
        ["nncg", "unfinished"],
    ]
    assert (tmp_path / "new/picture.png").stat().st_size > 10_000
    assert not (tmp_path / "comparison.png").exists()


def test_comparison_refuses_what_it_cannot_tell_apart(tmp_path: Path) -> None:
    assert "no run of beta = 10" in compare(tmp_path).stderr
    put_run(tmp_path, "lbfgs", 0.02)
    put_run(tmp_path, "lbfgs", 0.03, system="other")
    assert "--system is needed: convection and other" in compare(tmp_path).stderr
    assert compare(tmp_path, "--system", "other").returncode == 0
    for arguments in (["--physical", "beta"], ["--n", "many"], ["--out", str(tmp_path / "a.xyz")]):
        result = compare(tmp_path, "--system", "other", *arguments)
        assert result.returncode == 2
        assert result.stderr.count("\n") == 1 and arguments[0] in result.stderr, result.stderr


def test_models_and_systems_are_not_mixed(tmp_path: Path) -> None:
    put_run(tmp_path / "one", "adam", 0.3, "pendulum", model="NODE")
    put_run(tmp_path / "two", "adam", 0.2, "pendulum", model="PINODE")
    put_run(tmp_path / "two", "mine", 0.1, "pendulum", model="PINODE")  # a strategy without a colour of its own
    put_run(tmp_path / "one", "lbfgs", None, "pendulum", model="NODE")
    put_run(tmp_path / "two", "alm_cl", None, "pendulum", model="PINODE")
    put_run(tmp_path, "ropinn", None, "pendulum_long")
    assert "--model is needed: NODE and PINODE have beta 10" in compare(tmp_path).stderr
    for model, strategies in {"NODE": ["adam", "lbfgs"], "PINODE": ["mine", "adam", "alm_cl"]}.items():
        result = compare(tmp_path, "--model", model)
        assert result.returncode == 0, result.stderr
        assert [line.split()[0] for line in result.stdout.splitlines()[3:]] == strategies
