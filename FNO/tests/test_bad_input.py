"""Bad input of train.py: one line that names the flag and what is allowed, exit code 2, nothing written."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import small  # noqa: E402

data = pytest.fixture(scope="module")(small.data)

#: Arguments, and what the one line of the answer must contain.
FLAGS = {
    "--bogus 3": "unrecognized arguments: --bogus 3", "stray": "unrecognized arguments: stray",
    "--yaml_config nowhere.yaml": "--yaml_config nowhere.yaml: no such file; config/ has operators_ad.yaml",
    "--config tinny": "--config 'tinny': x.yaml has no such configuration; nearest: tiny",
    "--yaml_config config/operators_poisson_1M.yaml --config poisson_scale_k1_2.5_val1024_1M": "nearest: poisson_scale",
    "--subsample": "--subsample: expected at least one argument", "--seed 0 1 0": "--seed: 0 is given twice",
    "--subsample 0": "--subsample must be a whole number from 1, got 0", "--subsample 2 4 2": "--subsample: 2 is given",
    "--subsample 1.5": "--subsample: invalid int value: '1.5'", "--seed -1": "--seed must be a whole number from 0",
    f"--seed {2**63}": "--seed must be a whole number from 0", "--seed x": "--seed: invalid int value",
    "--subsample 33": "--subsample must be at most 32, the rows of", "--subsample 1 99999999999": "at most 32",
    "--subsample 11 2 16": "--subsample 11 and 16 both leave 2 samples of 32", "--lr 0": "--lr must be a positive",
    "--lr -1": "--lr must be a positive number, got -1.0", "--lr nan": "--lr must be a positive number",
    "--lr inf": "--lr must be a positive number", "--lr fast": "--lr: invalid float value: 'fast'",
    "--batch_size 0": "--batch_size must be a whole number from 1, got 0",
    "--batch_size 2.5": "--batch_size: invalid int value", "--max_epochs 0": "--max_epochs must be",
    "--max_epochs many": "--max_epochs: must be auto or a whole number from 1, got 'many'",
    "--max_epochs -3": "--max_epochs: must be auto or a whole number", "--val_every 0": "--val_every must",
    "--max_epochs 1e3": "--max_epochs: must be auto or a whole number", "--val_every 1.5": "--val_every: must be auto",
    "--loss_style l2": "--loss_style: invalid choice: 'l2'", "--optimizer lbfgs": "--optimizer: invalid choice",
    "--scheduler step": "--scheduler: invalid choice", "--shuffle yes": "unrecognized arguments: yes",
    "--budget huge": "--budget: invalid choice", "--precision half": "--precision: invalid choice",
    "--spectral wavelet": "--spectral: invalid choice", "--log_every 0": "--log_every must be a whole number from 1",
    "--checkpoint_every -1": "--checkpoint_every must be a number of seconds from 0",
    "--checkpoint_every nan": "--checkpoint_every must be", "--checkpoint_every inf": "--checkpoint_every must be",
    "--device banana": "--device must be auto, cpu, cuda or cuda:k", "--device cuda:": "--device must be",
    "--device cuda:99": "--device cuda:99: there is no such GPU", "--wandb maybe": "--wandb: invalid choice",
    "--run_num ../up": "--run_num must be a name of letters, digits and ._=-, got '../up'",
    "--run_num ..": "--run_num must be a name", "--run_num ''": "--run_num must be a name",
    "--root_dir ''": "--root_dir must name a folder", "--data_dir ''": "--data_dir must name a folder",
    "--root_dir /proc/nowhere": "--root_dir /proc/nowhere",
    "--root_dir x.yaml": "--root_dir x.yaml", "--root_dir x.yaml/below": "cannot write",
    "--root_dir x.yaml/r --data_dir new --generate '--n 16'": "--root_dir x.yaml/r: cannot write: ",
    "--data_dir x.yaml": "_train_k1.0_2.5_32k.h5 is missing; make it with: python",
    "--data_dir x.yaml --generate": "x.yaml: cannot write", "--data_dir /proc/nowhere --generate": "cannot write",
    "--generate '--n 18'": "holds data made with other arguments: n 16 -> 18, ntrain 32 -> 32768",
    "--generate '--ntrain 7 --seed 5'": "other arguments: n 16 -> 128, seed 0 -> 5, ntrain 32 -> 7",
    "--generate '--e1 2.0 --n 16'": "--generate: --e1 is given by the configuration and --data_dir",
    "--generate '--n 16 --datapath=elsewhere'": "--generate: --datapath=elsewhere is given by the configuration",
    "--generate '--n \"16'": "--generate: No closing quotation", "--generate '--bogus 3'": "unrecognized arguments",
    "--data_dir new --generate '--n 15'": "--n must be an even number", "--generate ' 16'": "unrecognized arguments:",
    "--data_dir new --generate '--device tpu --n 16'": "--device must be auto, cpu",
}

#: Keys of the configuration, and the same.
KEYS: list[tuple[dict[str, Any], str]] = [
    ({"lr": "fast"}, "x.yaml, tiny: lr must be a positive number, got 'fast'"),
    ({"colour": 3}, "x.yaml, tiny: unknown key 'colour'"), ({"n_layers": 0}, "n_layers must be a whole number"),
    ({"mode_cut": 9}, "--config tiny: 9 modes need a grid of at least 18 points a side"),
    ({"val_subsample": 33}, "_val_k1.0_2.5_4k.h5 has 32 rows: fewer than val_subsample 33"),
    ({"subsample": 33}, "--subsample must be at most 32"),
    ({"range": [1.0, 5.0]}, "holds the range [1.0, 2.5], but the configuration asks for [1.0, 5.0]"),
    ({"train_path": "mine.h5"}, "mine.h5 is missing, and the generator does not make it (it makes"),
    ({"val_path": "_val_k1.0_2.5_8k.h5"}, "_val_k1.0_2.5_8k.h5 is missing, and the generator does not make it"),
]


def refused(words: list[object], folder: Path, expected: str) -> str:
    """What is wrong with the answer, nothing if it is one line with these words and wrote no file."""
    before = sorted(folder.rglob("*"))
    done = small.call(*words, cwd=folder)
    lines = done.stderr.splitlines()
    if done.returncode != 2 or len(lines) != 1 or not lines[0].startswith("error: ") or expected not in lines[0]:
        return f"{expected!r}: {done}"
    made = [str(path) for path in sorted(folder.rglob("*")) if path not in before]
    return f"{words}: wrote {made}" if made else ""


def test_flags(data: Path, tmp_path: Path) -> None:
    yaml = small.write_yaml(tmp_path / "x.yaml")
    wrong = []
    for flags, expected in FLAGS.items():
        words = ["--yaml_config", yaml, "--config", "tiny", "--data_dir", data, "--root_dir", "never"]
        wrong.append(refused([*words, *shlex.split(flags)], tmp_path, expected))
    assert not any(wrong), "\n".join(filter(None, wrong))


def test_configurations(data: Path, tmp_path: Path) -> None:
    wrong = []
    for keys, expected in KEYS:
        yaml = small.write_yaml(tmp_path / "x.yaml", **keys)
        words = ["--yaml_config", yaml, "--config", "tiny", "--data_dir", data, "--root_dir", "never"]
        wrong.append(refused(words, tmp_path, expected))
    assert not any(wrong), "\n".join(filter(None, wrong))


def test_data(tmp_path: Path) -> None:
    """Files of different grids, of another range, with the scales of other data, cut short."""
    folder, names = small.make_data(tmp_path / "data"), small.names()
    other = small.make_data(tmp_path / "other", n=32)
    yaml = small.write_yaml(tmp_path / "x.yaml")
    words = ["--yaml_config", yaml, "--config", "tiny", "--data_dir", folder, "--root_dir", "never"]
    contents = {name: (folder / file).read_bytes() for name, file in names.items()}
    scales, raw = np.load(folder / names["scales"]), contents["train"]
    np.save(tmp_path / "twice.npy", scales * [1, 1, 2, 1, 1, 1, 1])
    np.save(tmp_path / "nan.npy", scales * np.nan)
    with h5py.File(tmp_path / "grid.h5", "w") as new, h5py.File(other / names["test"]) as old:  # as published
        for name in old:
            new[name] = old[name][:]
    changes = [("test", (tmp_path / "grid.h5").read_bytes(), "different grids: train 16, val 16, test 32"),
               ("val", (other / names["val"]).read_bytes(), "different grids: train 16, val 32, test 16"),
               ("scales", (tmp_path / "twice.npy").read_bytes(), "the scales file does not belong to"),
               ("scales", (other / names["scales"]).read_bytes(), "the scales file does not belong to"),
               ("scales", (tmp_path / "nan.npy").read_bytes(), "must hold finite numbers"),
               ("scales", b"", f"{names['scales']} cannot be read"), ("train", raw[:-1], "cannot be read"),
               ("test", raw[:3000], "cannot be read"), ("val", b"not HDF5", "cannot be read")]
    wrong = []
    for name, content, expected in changes:
        (folder / names[name]).write_bytes(content)
        wrong.append(refused(words, tmp_path, expected))
        (folder / names[name]).write_bytes(contents[name])
    assert not any(wrong), "\n".join(filter(None, wrong))
    assert small.call(*words, cwd=tmp_path).returncode == 0


def test_what_needs_a_process_of_its_own(tmp_path: Path) -> None:
    """The real command: its answer comes before any file, on standard error alone."""
    done = small.run("--data_dir", "none", "--config", "poisson_scale_k1.0_2.5_val1024_46K", cwd=tmp_path)
    assert done.returncode == 2 and not done.stdout and not list(tmp_path.iterdir())
    assert done.stderr.startswith("error: --config") and done.stderr.count("\n") == 1
    assert "nearest: poisson_scale_k1.0_2.5_val1024_64K" in done.stderr
