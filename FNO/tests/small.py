"""Small data sets, a small configuration, and train.py as a subprocess, to test with."""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).resolve().parent
FNO = TESTS.parent
sys.path[:0] = [str(FNO)] if str(FNO) not in sys.path else []

from fno.generate import generate  # noqa: E402
from fno.systems import SYSTEMS, file_name, scales_name  # noqa: E402

#: Ranges of the data and the configurations here.
RANGES: dict[str, tuple[float, float]] = {"poisson": (1.0, 2.5), "advdiff": (0.2, 0.4), "helmholtz": (1, 10)}
SIZES = {"n": 16, "ntrain": 32, "nval": 32, "ntest": 8}
SPLITS = ("train", "val", "test")


def names(system: str = "poisson") -> dict[str, str]:
    """File names by split, and `scales`."""
    found = {split: file_name(SYSTEMS[system], split, *RANGES[system]) for split in SPLITS}
    return found | {"scales": scales_name(SYSTEMS[system], *RANGES[system])}


def make_data(folder: Path, system: str = "poisson", **sizes: Any) -> Path:
    """The four files of RANGES[system] in a folder, which is returned; `sizes` are flags of the generator: n=16."""
    flags = dict(zip(SYSTEMS[system].flags, RANGES[system])) | SIZES | sizes | {"datapath": folder, "device": "cpu"}
    with contextlib.redirect_stdout(io.StringIO()):
        generate(system, [word for name, value in flags.items() for word in (f"--{name}", str(value))])
    return folder


def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with Poisson data, to be made a fixture: `data = pytest.fixture(scope="module")(small.data)`."""
    return make_data(tmp_path_factory.mktemp("data"))


def write_yaml(path: Path, system: str = "poisson", **keys: Any) -> Path:
    """A YAML file with one entry, `tiny`: a network of 3 modes and width 4. `keys` are added; None leaves one out."""
    lower, upper = RANGES[system]
    entry: dict[str, Any] = {"system": system, "range": [lower, upper], "size": "tiny", "mode_cut": 3, "embed_cut": 4,
                             "batch_size": 8, "subsample": 2, "max_epochs": 2, "seed": 7}
    entry |= {f"{name}_path": file for name, file in names(system).items()} | keys
    path.write_text(json.dumps({"tiny": {key: value for key, value in entry.items() if value is not None}}))
    return path


def run(*argv: object, cwd: Path, env: dict[str, str] | None = None,
        timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """`python train.py *argv` from the folder `cwd`, on one thread of the CPU."""
    words = [sys.executable, str(FNO / "train.py"), *map(str, argv)]
    more = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""} | (env or {})
    return subprocess.run(words, cwd=cwd, env=os.environ | more, capture_output=True, text=True, timeout=timeout)


def call(*argv: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The same in this process, on the CPU, which saves the imports."""
    signals = (signal.SIGUSR1, signal.SIGTERM)
    handlers, words = [signal.getsignal(number) for number in signals], [*map(str, argv)]
    words += [] if "--device" in words else ["--device", "cpu"]
    spec = importlib.util.spec_from_file_location("fno_entry", FNO / "train.py")
    entry, out, err, old = importlib.util.module_from_spec(spec), io.StringIO(), io.StringIO(), sys.argv
    try:
        spec.loader.exec_module(entry)
        sys.argv = [str(FNO / "train.py"), *words]
        with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = entry.main()
    finally:
        sys.argv = old
        for number, handler in zip(signals, handlers):
            signal.signal(number, handler)
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def read_strict(path: Path) -> dict[str, Any]:
    """Parse JSON and refuse NaN and Infinity."""

    def refuse(text: str) -> None:
        raise AssertionError(text)

    return json.loads(path.read_text(), parse_constant=refuse)


def results(path: Path) -> list[dict[str, Any]]:
    """All results below a folder, in the order of their paths."""
    return [read_strict(found) for found in sorted(path.rglob("metrics.json"))]


def history(folder: Path) -> list[dict[str, str]]:
    """The rows of history.csv."""
    with open(folder / "history.csv", newline="") as file:
        return list(csv.DictReader(file))
