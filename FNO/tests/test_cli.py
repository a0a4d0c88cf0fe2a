"""The command train.py, from another working directory: what it leaves, repetitions, missing data, things that fail."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import small  # noqa: E402
from fno import datafile, generate, train  # noqa: E402
from fno.arguments import make_parser, parse, settings  # noqa: E402
from fno.configs import MODULE  # noqa: E402
from fno.files import strict  # noqa: E402
from fno.parallel import World  # noqa: E402

data = pytest.fixture(scope="module")(small.data)

KEYS = ("schema module model system strategy physical data seed train_loss test_error metrics status stop_reason "
        "iterations evaluations seconds config environment")
METRICS = {"train_objective", "train_error_running", "train_error_best", "test_error_last", "val_error",
           "val_error_last", "val_objective", "best_epoch", "epochs", "parameters", "processes"}
COLUMNS = ("iteration epoch stage train_loss objective val_error val_objective grad_norm learning_rate seconds")
FILES = {"config.json", "history.csv", "metrics.json", "model.pt", "model_best.pt", "model_init.pt"}
SMALL = "--n 16 --ntrain 32 --nval 32 --ntest 8 --device cpu"


def tiny(folder: Path, data: Path, **keys: object) -> list[object]:
    """Arguments of a tiny run that writes into folder/out."""
    yaml = small.write_yaml(folder / "x.yaml", **keys)
    return ["--yaml_config", yaml, "--config", "tiny", "--data_dir", data, "--root_dir", folder / "out"]


def result(folder: Path, data: Path, flags: str = "", **keys: object) -> dict:
    """The result of a tiny run in this process."""
    done = small.call(*tiny(folder, data, **keys), *shlex.split(flags), cwd=folder)
    assert done.returncode == 0, done
    (found,) = small.results(folder / "out")
    return found


def snapshot(folder: Path) -> dict[Path, tuple[int, bytes]]:
    """Times and contents of all files; a claim is touched now and then."""
    return {path: (0 if path.name == "claim" else path.stat().st_mtime_ns, path.read_bytes())
            for path in folder.rglob("*") if path.is_file()}


# ---- what a command leaves -----------------------------------------------------------------------------------------


def test_two_subsamples_and_two_seeds_from_nothing(tmp_path: Path) -> None:
    """A published configuration from another folder, data made first: folders, results, histories and weights."""
    name = "poisson_scale_k1.0_2.5_val1024_64K"
    words = ["--yaml_config", "config/operators_poisson_64K.yaml", "--config", name, "--root_dir", "out", "--data_dir",
             "made", "--subsample", "8", "2", "--seed", "0", "1", "--max_epochs", "3", "--lr", "2e-3"]
    done = small.run(*words, "--generate", SMALL, cwd=tmp_path)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done
    assert {path.name for path in (tmp_path / "made").iterdir()} == set(small.names().values())
    args, config = parse([*words, "--data_dir", str(tmp_path / "made"), "--device", "cpu"])
    cells = settings(args, config, World(torch.device("cpu")))
    folders = [tmp_path / "out" / "fno_64K" / "poisson" / "adam" / "k_1-2.5" / f"n_{n}" / f"seed_{k}"
               for n, k in itertools.product((4, 16), (0, 1))]
    assert sorted(path.parent for path in tmp_path.rglob("metrics.json")) == sorted(folders)
    assert sum(path.is_file() for path in (tmp_path / "out").rglob("*")) == 4 * len(FILES)
    for folder, (cell, seed) in zip(folders, itertools.product(cells, (0, 1))):
        found, rows = small.read_strict(folder / "metrics.json"), small.history(folder)
        assert {path.name for path in folder.iterdir()} == FILES and " ".join(found) == KEYS
        assert found["config"] == small.read_strict(folder / "config.json") and set(found["metrics"]) == METRICS
        assert (found["schema"], found["module"], found["model"], found["system"], found["strategy"]) == (
            1, "FNO", "FNO", "poisson", "adam")
        assert found["physical"] == {"name": "k", "value": "1-2.5"} and found["seed"] == seed
        assert found["data"] == {"name": "n", "value": cell.n} and found["metrics"]["parameters"] == 66_025
        assert (found["status"], found["stop_reason"], found["iterations"]) == ("finished", "budget", 3)
        assert {"python", "torch", "device", "git_commit"} <= set(found["environment"])
        assert list(rows[0]) == COLUMNS.split() and [row["epoch"] for row in rows] == ["1", "2", "3"]
        assert [float(row["learning_rate"]) for row in rows] == pytest.approx([2e-3, 1.5e-3, 0.5e-3])
        validated = [float(row["val_objective"]) for row in rows if row["val_objective"]]
        assert len(validated) == (2 if cell.n == 4 else 3)  # 8 samples are validated: every other epoch, and the last
        assert found["metrics"]["val_objective"] == pytest.approx(min(validated), rel=1e-12)
        check_weights(folder, cell, seed, found)
    first = [torch.load(folder / "model_init.pt", weights_only=True)["model"] for folder in folders]
    assert all(torch.equal(first[0][name], first[2][name]) and not torch.equal(first[0][name], first[1][name])
               for name in first[0])


def check_weights(folder: Path, cell: object, seed: int, found: dict) -> None:
    """The initial ones are those of the seed; the others give the errors that are recorded."""
    train, val, test = cell.load()
    assert (len(train), len(val), len(test)) == (cell.n, 8, 8)  # every fourth of 32 is validated, all are tested
    model, errors, objectives = cell.build(seed), {}, {}
    names = ("model_init", "model", "model_best")
    saved = {name: torch.load(folder / f"{name}.pt", weights_only=True) for name in names}
    for name, weights in model.state_dict().items():
        assert torch.equal(saved["model_init"]["model"][name], weights)
        assert not torch.equal(saved["model"]["model"][name], weights)
    for name, state in saved.items():
        assert strict(state["config"]) == found["config"]
        model.load_state_dict(state["model"])
        for split, samples in (("train", train), ("val", val), ("test", test)):
            difference = (model(samples.f, samples.coefficients) - samples.u).detach().double().numpy()
            norms = np.linalg.norm(samples.u.double().numpy(), axis=(1, 2))
            errors[name, split] = (np.linalg.norm(difference, axis=(1, 2)) / norms).mean()
            objectives[name, split] = np.square(difference).sum() / len(samples)
    metrics = found["metrics"]
    for value, by_hand in [
            (found["train_loss"], errors["model", "train"]), (found["test_error"], errors["model_best", "test"]),
            (metrics["test_error_last"], errors["model", "test"]), (metrics["val_error"], errors["model_best", "val"]),
            (metrics["val_error_last"], errors["model", "val"]),
            (metrics["train_error_best"], errors["model_best", "train"]),
            (metrics["train_objective"], objectives["model", "train"]),
            (metrics["val_objective"], objectives["model_best", "val"])]:
        assert value == pytest.approx(by_hand, rel=1e-5)


def test_the_best_weights_are_those_of_the_best_epoch(data: Path, tmp_path: Path) -> None:
    """With a learning rate that spoils them later, the last are not the best, and test_error is that of the best."""
    found = result(tmp_path, data, "--lr 0.3 --scheduler none --max_epochs 6 --val_every 1 --seed 1")
    (folder,) = (path.parent for path in tmp_path.rglob("metrics.json"))
    rows, metrics = small.history(folder), found["metrics"]
    losses = [float(row["val_objective"]) for row in rows]
    assert metrics["best_epoch"] == 1 + int(np.argmin(losses)) < 6 == len(losses)
    assert metrics["val_error"] == pytest.approx(float(rows[metrics["best_epoch"] - 1]["val_error"]))
    args, config = parse([str(w) for w in tiny(tmp_path, data)])
    cell = settings(args, config, World(torch.device("cpu")))[0]
    check_weights(folder, cell, 1, found)


#: Flags that must change the result, and those that act elsewhere.
CHANGES = ["--subsample 4", "--seed 1", "--lr 0.01", "--batch_size 4", "--max_epochs 3", "--loss_style mean",
           "--loss_style relative", "--optimizer sgd", "--scheduler none", "--no-shuffle", "--precision float64",
           "--spectral fft"]
ELSEWHERE = ("--yaml_config --config --data_dir --generate --root_dir --run_num --device --budget --force --log_every "
             "--hessian_every --save_model --checkpoint_every --val_every --wandb --wandb_project --help")


def test_every_flag_acts(data: Path, tmp_path: Path) -> None:
    """Other settings give other results; the parser knows no flag that is not tried."""
    weights = {}
    for number, flags in enumerate(["", *CHANGES]):
        (tmp_path / str(number)).mkdir()
        result(tmp_path / str(number), data, flags)
        (path,) = (tmp_path / str(number)).rglob("model.pt")
        weights[flags] = torch.cat([w.flatten() for w in torch.load(path, weights_only=True)["model"].values()])
    assert not [(a, b) for a, b in itertools.combinations(weights, 2) if torch.equal(weights[a], weights[b])]
    flags = {flag for action in make_parser()._actions for flag in action.option_strings if flag.startswith("--")}
    tried = {word for words in (*CHANGES, ELSEWHERE) for word in words.split() if word.startswith("--")}
    assert flags - tried == {"--shuffle", "--no-save_model"} and tried <= flags
    (tmp_path / "quiet").mkdir()
    quiet = result(tmp_path / "quiet", data, "--max_epochs 5 --log_every 2 --no-save_model --checkpoint_every 0")
    (folder,) = (path.parent for path in (tmp_path / "quiet").rglob("metrics.json"))
    assert {path.name for path in folder.iterdir()} == {"config.json", "history.csv", "metrics.json"}
    assert [row["epoch"] for row in small.history(folder)] == ["2", "4", "5"] and quiet["metrics"]["epochs"] == 5


def test_help_and_a_batch_larger_than_n(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(["--help"])
    assert caught.value.code == 0 and "torchrun" in capsys.readouterr().out
    done = small.call(*tiny(tmp_path, data), "--batch_size", 128, "--run_num", "0", cwd=tmp_path)
    assert done.returncode == 0 and done.stderr.startswith("n = 16 is less than a batch of 128: every update takes all")
    (found,) = small.results(tmp_path / "out" / "0" / "fno_tiny")
    assert found["config"]["batch_size"] == 16 and found["iterations"] == 2


# ---- a run that is there -------------------------------------------------------------------------------------------


def test_finished_runs(data: Path, tmp_path: Path) -> None:
    """Again nothing happens; other arguments are refused and named, before anything else; --force trains again."""
    words = [*tiny(tmp_path, data), "--seed", "7", "8"]
    assert small.call(*words, cwd=tmp_path).returncode == 0
    before = snapshot(tmp_path)
    for more in ([], ["--log_every", 3, "--budget", "paper", "--max_epochs", 2, "--spectral", "fft"]):
        done = small.call(*words, *more, cwd=tmp_path)
        assert done.returncode == 0 and done.stderr == (
            "already done, nothing to do: 2 runs of poisson/adam k_1-2.5 n_16 (--force trains again)\n")
    small.make_data(tmp_path / "other", seed=5)
    for more, named in [(["--lr", 0.5, "--batch_size", 4], ["lr 0.001 -> 0.5", "batch_size 8 -> 4"]),
                        (["--max_epochs", 3], ["max_epochs 2 -> 3"]), (["--no-shuffle"], ["shuffle True -> False"]),
                        (["--precision", "float64"], ["precision float32 -> float64"]),
                        (["--subsample", 8, 2, "--lr", 1], ["n_16/seed_7 holds a run with other", "lr 0.001 -> 1.0"]),
                        (["--data_dir", tmp_path / "other"], ["data.train.seed 0 -> 5", "data.test.crc32_fields"])]:
        done = small.call(*words, *more, cwd=tmp_path)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 + ("is less than" in done.stderr), done
        assert all(text in done.stderr for text in [*named, "use another --root_dir or --force"]), done
    assert {path: old for path, old in snapshot(tmp_path).items() if path in before} == before
    assert len(small.results(tmp_path)) == 2
    assert small.call(*words, "--lr", 0.5, "--force", cwd=tmp_path).returncode == 0
    assert [found["config"]["lr"] for found in small.results(tmp_path)] == [0.5, 0.5]
    assert not list(tmp_path.rglob("claim")) and not list(tmp_path.rglob("*.tmp"))


def test_a_run_that_another_process_has(data: Path, tmp_path: Path) -> None:
    """It is left as it is, the others are trained, and the exit code is 3."""
    words = [*tiny(tmp_path, data), "--seed", "0", "1", "--subsample", "2", "4"]
    args, config = parse([str(word) for word in words])
    held = settings(args, config, World(torch.device("cpu")))[0].run(0)
    held.prepare()
    try:
        for force in ([], ["--force"]):
            before = snapshot(held.path)
            done = small.call(*words, *force, cwd=tmp_path)
            assert done.returncode == 3, done
            assert f"left alone, another process is training it ({held.holder or 'process'}" in done.stderr
            assert snapshot(held.path) == before and len(small.results(tmp_path)) == 3
    finally:
        held.release()
    assert small.call(*words, cwd=tmp_path).returncode == 0 and len(small.results(tmp_path)) == 4


# ---- data that are missing -----------------------------------------------------------------------------------------


def test_the_command_for_missing_data_makes_them(tmp_path: Path) -> None:
    """As it is printed, in a shell, from another folder whose name needs quotes; and then training works."""
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    folder = tmp_path / "my data"
    words = tiny(tmp_path, folder)
    done = small.call(*words, cwd=tmp_path)
    found = re.fullmatch(r"error: (\S.*) is missing; make it with: (.*) \(or give --generate\)\n", done.stderr)
    assert done.returncode == 2 and found and Path(found[1]) == folder / small.names()["train"] and not folder.exists()
    shell = subprocess.run(f"{found[2]} {SMALL}", shell=True, cwd="/", capture_output=True, text=True, timeout=120,
                           env=os.environ | {"PATH": f"{python.parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"})
    assert shell.returncode == 0, shell
    assert {path.name for path in folder.iterdir()} == set(small.names().values())
    assert small.call(*words, cwd=tmp_path).returncode == 0
    before = snapshot(folder)
    (folder / small.names()["val"]).unlink()
    done = small.call(*words, "--force", cwd=tmp_path)
    assert done.returncode == 2 and small.names()["val"] in done.stderr
    assert small.call(*words, "--force", "--generate", SMALL, cwd=tmp_path).returncode == 0
    after = snapshot(folder)
    assert {path for path in before if after[path][0] != before[path][0]} == {folder / small.names()["val"]}
    with h5py.File(folder / small.names()["val"]) as file:
        assert file["fields"].shape == (32, 2, 16, 16)


def test_scales_of_published_files_are_made(data: Path, tmp_path: Path) -> None:
    """They come without scales; --generate writes those and nothing else."""
    folder = tmp_path / "published"
    folder.mkdir()
    for split in small.SPLITS:
        name = small.names()[split]
        with h5py.File(data / name) as old, h5py.File(folder / name, "w") as new:
            for key in old:
                new[key] = old[key][:]
    assert f"{small.names()['scales']} is missing" in small.call(*tiny(tmp_path, folder), cwd=tmp_path).stderr
    before, found = snapshot(folder), result(tmp_path, folder, "--generate")
    scales = np.load(folder / small.names()["scales"])
    np.testing.assert_array_equal(scales, np.load(data / small.names()["scales"]))
    assert found["config"]["scales"] == scales.tolist() and found["config"]["data"]["val"] == {"rows": 32, "grid": 16}
    assert {path: old for path, old in snapshot(folder).items() if path.suffix == ".h5"} == before


def test_stopped_while_the_data_are_made(tmp_path: Path) -> None:
    """Exit code 75, no run folder yet, and the next start goes on with what is there."""
    words = [sys.executable, MODULE / "train.py", *tiny(tmp_path, tmp_path / "d"), "--device", "cpu", "--generate",
             "--n 128 --ntrain 30000 --nval 32 --ntest 8"]
    process = subprocess.Popen([*map(str, words)], cwd=tmp_path, stderr=subprocess.PIPE, text=True,
                               env=os.environ | {"OMP_NUM_THREADS": "1"})
    part = tmp_path / "d" / f"{small.names()['train']}.part" / "data.h5"
    end = time.monotonic() + 60
    while not (part.exists() and part.stat().st_blocks > 4000) and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert "the same command goes on" in process.communicate(timeout=60)[1] and process.returncode == 75
    assert part.with_name("progress.json").exists() and not (tmp_path / "out").exists()


def test_asked_to_stop_while_the_scales_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal comes once: it is not lost with the last file."""
    def write(path: Path, target: Path) -> None:
        os.kill(os.getpid(), signal.SIGUSR1)
        datafile.write_scales(path, target)
    monkeypatch.setattr(generate, "write_scales", write)
    done = small.call(*tiny(tmp_path, tmp_path / "d"), f"--generate={SMALL}", cwd=tmp_path)
    assert done.returncode == 75 and "SIGUSR1: stopped, with all files made" in done.stderr, done
    assert (tmp_path / "d" / small.names()["scales"]).exists() and not (tmp_path / "out").exists()


def test_force_removes_all_old_results_at_once(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted in the first cell, the same command without --force trains the second one anew too."""
    words = [*tiny(tmp_path, data), "--subsample", "2", "4"]
    assert small.call(*words, cwd=tmp_path).returncode == 0 and len(small.results(tmp_path)) == 2
    step = train.Trainer.step

    def stop(self: train.Trainer, order: object) -> None:
        step(self, order)
        os.kill(os.getpid(), signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(train.Trainer, "step", stop)
        assert small.call(*words, "--force", cwd=tmp_path).returncode == 75
    assert not small.results(tmp_path)
    again = small.call(*words, cwd=tmp_path)
    assert again.returncode == 0 and "already done" not in again.stderr and len(small.results(tmp_path)) == 2


# ---- runs that fail ------------------------------------------------------------------------------------------------


def test_divergence_is_recorded(data: Path, tmp_path: Path) -> None:
    """Null in strict JSON, every seed of it, exit code 0."""
    done = small.call(*tiny(tmp_path, data), "--lr", "1e30", "--seed", "0", "1", cwd=tmp_path)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done
    found = small.results(tmp_path)
    assert [(r["status"], r["train_loss"], r["test_error"], r["stop_reason"]) for r in found] == [
        ("diverged", None, None, "non_finite")] * 2
    again = small.call(*tiny(tmp_path, data), "--lr", "1e30", "--seed", "0", "1", cwd=tmp_path)
    assert again.returncode == 0 and "already done" in again.stderr


def test_data_that_are_found_broken_while_they_are_read(tmp_path: Path) -> None:
    """One line and exit code 2; once they are mended, the same command trains."""
    folder = small.make_data(tmp_path / "data", nval=128)
    name = folder / small.names()["val"]
    with h5py.File(name, "r+") as file:  # a row that the look at the medians does not see
        good = file["fields"][3 * 4]
    words = tiny(tmp_path, folder)
    with h5py.File(name, "r+") as file:
        file["fields"][12, 1, 2, 2] = np.nan
    done = small.call(*words, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "values that are not finite" in done.stderr, done
    assert not list(tmp_path.rglob("claim"))
    with h5py.File(name, "r+") as file:
        file["fields"][12] = good
    assert small.call(*words, cwd=tmp_path).returncode == 0
