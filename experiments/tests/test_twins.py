"""The twins checker in temporary trees."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import twins
from twins import check, find_twins

BODY = '"""Curvature."""\nx = 1\n'
HEADER = "# Twin of PINN/pinn/hessian.py - edit there and run: python experiments/twins.py --fix\n"


def write(root: Path, name: str, text: str) -> Path:
    """Write a file and its folders."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a tree with one original and one twin in step."""
    write(tmp_path, "PINN/pinn/hessian.py", BODY)
    write(tmp_path, "PINO/pino/hessian.py", HEADER + BODY)
    return tmp_path


def test_in_step(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(tree) == 0
    assert capsys.readouterr().out == "1 twins, 0 drifted\n"


@pytest.mark.parametrize(
    "text", [HEADER + BODY + "\n", HEADER + "x = 2\n", HEADER.replace("edit", "change") + BODY]
)
def test_drift_is_reported_and_fixed(
    tree: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = write(tree, "FNO/fno/hessian.py", text)
    assert check(tree) == 1
    assert "FNO/fno/hessian.py: differs from PINN/pinn/hessian.py" in capsys.readouterr().out
    assert copy.read_text() == text  # checking alone changes nothing
    assert check(tree, fix=True) == 0
    assert copy.read_bytes() == (HEADER + BODY).encode()
    assert (tree / "PINN/pinn/hessian.py").read_text() == BODY
    assert check(tree) == 0


def test_carriage_returns_are_a_drift(tree: Path) -> None:
    (tree / "PINO/pino/hessian.py").write_bytes((HEADER + BODY).encode().replace(b"\n", b"\r\n"))
    assert check(tree) == 1


def test_original_must_exist_and_be_no_twin(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tree, "FNO/a.py", HEADER.replace("pinn/hessian", "pinn/gone") + BODY)
    write(tree, "FNO/b.sh", HEADER.replace("PINN/pinn", "PINO/pino") + BODY)
    assert check(tree, fix=True) == 2
    errors = capsys.readouterr().err
    assert "FNO/a.py: its original PINN/pinn/gone.py does not exist" in errors
    assert "FNO/b.sh: its original PINO/pino/hessian.py is itself a twin" in errors


def test_what_is_not_ours_is_skipped(tree: Path) -> None:
    for name in (".venv/a.py", ".git/b.py", "results/c.py", "results_old/d.sh", "note.txt"):
        write(tree, name, HEADER + "drifted")
    write(tree, "env/pyvenv.cfg", "")
    write(tree, "env/lib/e.py", HEADER + "drifted")
    write(tree, "CNN/mentions.py", "x = 1\n" + HEADER)
    assert [path.relative_to(tree).as_posix() for path in find_twins(tree)] == [
        "PINO/pino/hessian.py"
    ]


def test_command_line(tmp_path: Path) -> None:
    call = [sys.executable, twins.__file__, "--root", str(tmp_path)]
    none = subprocess.run(call, capture_output=True, text=True, timeout=60, check=False)
    assert none.returncode == 0 and "no twins" in none.stdout
    write(tmp_path, "PINN/pinn/hessian.py", BODY)
    copy = write(tmp_path, "PINO/pino/hessian.py", HEADER)
    assert subprocess.run(call, capture_output=True, timeout=60, check=False).returncode == 1
    fixed = subprocess.run([*call, "--fix"], capture_output=True, timeout=60, check=False)
    assert fixed.returncode == 0 and copy.read_text() == HEADER + BODY
