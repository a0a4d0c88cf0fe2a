"""The environment that setup.sh finds or makes, and the tests of all modules that test.sh runs."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from shell import ROOT, SCRIPTS, bash, environ


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """Return a repository that needs no package to run, and has no .venv yet."""
    root = tmp_path / "re po"
    (root / "experiments").mkdir(parents=True)
    for name in ("setup.sh", "test.sh"):
        shutil.copy(SCRIPTS / name, root / "experiments")
    shutil.copy(ROOT / "pyproject.toml", root)
    (root / "requirements.txt").write_text("# run\n\n# test\n")
    return root


def setup(root: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return bash(root / "experiments/setup.sh", root.parent, *arguments, **{"CHECKED_PYTHON": "", **settings})


def test_environment_that_is_given_is_used(bare: Path) -> None:
    assert setup(bare).stdout.splitlines()[-1] == f"ready: {sys.executable}"
    (bare / "requirements.txt").write_text("# run\npytest==0.0.1\n\n# test\nno-such-package==1\n")
    result = setup(bare)
    assert result.stdout.splitlines()[-1] == f"ready: {sys.executable}"
    assert "(pinned: 0.0.1)" in result.stdout
    active = setup(bare, PYTHON="", VIRTUAL_ENV=sys.prefix)
    assert active.stdout.splitlines()[-1] == f"ready: {sys.prefix}/bin/python"
    assert not (bare / ".venv").exists()


def test_torchvision_need_not_be_importable_but_installed(bare: Path, tmp_path: Path) -> None:
    for name in ("torchvision", "other"):
        (tmp_path / f"site/{name}").mkdir(parents=True)
        (tmp_path / f"site/{name}/__init__.py").write_text("raise RuntimeError('operator torchvision::nms is missing')")
        info = tmp_path / f"site/{name}-0.28.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.28.0+cu130\n")
    # -S: without the packages of this environment, which may have one
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    call = {"PYTHON": str(python), "PYTHONPATH": str(tmp_path / "site")}
    for pin, note in {"0.28.0": "", "0.27.0": ", torchvision 0.28.0+cu130 (pinned: 0.27.0)"}.items():
        (bare / "requirements.txt").write_text(f"# run\ntorchvision=={pin}\n\n# test\n")
        used = setup(bare, **call).stdout.splitlines()
        assert used[-1] == f"ready: {python}" and used[0].endswith(f"Python {platform.python_version()}{note}")
    (bare / "requirements.txt").write_text("# run\n\n# test\n")
    assert "lacks other (RuntimeError: operator " in setup(bare, "other", **call).stdout
    shutil.rmtree(tmp_path / "site")
    assert "lacks torchvision: using .venv" in setup(bare, "torchvision", **call).stdout


def test_environment_of_the_same_interpreter_is_not_taken_for_the_venv(bare: Path, tmp_path: Path) -> None:
    other = tmp_path / "other/bin/python"
    for python in (other, bare / ".venv/bin/python"):
        python.parent.mkdir(parents=True)
        python.symlink_to(Path(sys.executable).resolve())
    hashed = subprocess.run(["sha256sum"], input=(bare / "requirements.txt").read_bytes(), capture_output=True)
    (bare / ".venv/.requirements").write_bytes(hashed.stdout)
    assert setup(bare, PYTHON=str(other)).stdout.splitlines()[-1] == f"ready: {other}"
    assert setup(bare, PYTHON="").stdout.splitlines()[-1] == f"ready: {bare}/.venv/bin/python"


def test_venv_is_made_repaired_and_kept(bare: Path) -> None:
    (bare / "wandb").mkdir()  # a folder of the working directory is not the package
    base = str(Path(sys.executable).resolve())
    result = bash(bare / "experiments/setup.sh", bare, "no_such_package", "wandb_", CHECKED_PYTHON="", PYTHON=base)
    ready = f"ready: {bare}/.venv/bin/python"
    assert "lacks no_such_package, wandb_: using .venv" in result.stdout
    assert result.stdout.splitlines()[-1] == ready
    marker = bare / ".venv/marker"
    marker.touch()
    assert setup(bare, PYTHON="").stdout == ready + "\n"
    assert marker.exists()

    # A call that was interrupted leaves no stamp; two calls at once repair it once.
    (bare / ".venv/.requirements").unlink()
    script = ["bash", str(bare / "experiments/setup.sh")]
    calls = [subprocess.Popen(script, env=environ(PYTHON=""), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True) for _ in range(2)]
    outputs = [call.communicate(timeout=300)[0] for call in calls]
    assert [call.returncode for call in calls] == [0, 0]
    assert sum(out.startswith("making ") for out in outputs) == 1, outputs
    assert not marker.exists()

    # Other pins are installed over the old ones; a .venv that was made by hand is kept as well.
    (bare / "requirements.txt").write_text("# run\n\n# test\n# changed\n")
    marker.touch()
    result = setup(bare, PYTHON="")
    assert "installing" in result.stdout and marker.exists()
    for name in (".requirements", ".made_by_setup"):
        (bare / ".venv" / name).unlink()
    assert "installing" in setup(bare, PYTHON="").stdout
    assert marker.exists()


def test_python_that_will_not_do_is_named(bare: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.write_text('#!/bin/sh\ncase "$2" in *version_info*) exit 1 ;; *platform*) echo 3.9.2 ;; esac\n')
    old.chmod(0o755)
    result = setup(bare, PYTHON=str(old))
    assert result.returncode == 2
    assert result.stdout == f"error: PYTHON={old}: Python 3.11 or newer is needed, this is 3.9.2\n"

    (tmp_path / "ensurepip.py").write_text("raise ImportError")
    base = str(Path(sys.executable).resolve())
    result = setup(bare, "no_such_package", PYTHON=base, PYTHONPATH=str(tmp_path))
    assert result.returncode == 2
    assert "apt install python3-venv" in result.stdout.splitlines()[-1]
    assert not (bare / ".venv").exists()


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_tests_of_every_module_are_run(bare: Path, jobs: str) -> None:
    for module, text in {"PINN": "def test_right(): pass", "CNN": "def test_wrong(): assert False"}.items():
        (bare / module / "tests").mkdir(parents=True)
        (bare / module / "tests/test_same_name.py").write_text(text)
    result = bash(bare / "experiments/test.sh", bare.parent, JOBS=jobs)
    assert result.returncode == 1
    assert "1 passed" in result.stdout and "1 failed" in result.stdout
    assert result.stdout.splitlines()[-1] == "tests failed in: CNN"
    result = bash(bare / "experiments/test.sh", bare.parent, "-k", "right", JOBS=jobs)
    assert result.returncode == 0, result.stdout
    assert "JOBS must be a whole number" in bash(bare / "experiments/test.sh", bare.parent, JOBS="0").stdout


def test_files_of_a_module_run_side_by_side(bare: Path) -> None:
    """Each waits for the other."""
    (bare / "PINN/tests").mkdir(parents=True)
    for mine, other in (("a", "b"), ("b", "a")):
        (bare / f"PINN/tests/test_{mine}.py").write_text(f"""
import os, pathlib, time
def test_meets(tmp_path):
    here, end = pathlib.Path(__file__).parent, time.monotonic() + 60
    (here / "{mine}.up").touch()
    while not (here / "{other}.up").exists(): assert time.monotonic() < end; time.sleep(0.05)
    assert os.environ["OMP_NUM_THREADS"] == "1"
""")
    result = bash(bare / "experiments/test.sh", bare.parent, JOBS="2")
    assert result.returncode == 0 and "2 passed" in result.stdout, result.stdout
