"""The command run_exp.py, from another working directory: what it leaves, flags, repetitions, runs that fail."""

from __future__ import annotations

import itertools
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import small  # noqa: E402
from cnn.arguments import make_parser, parse  # noqa: E402
from cnn.command import main  # noqa: E402
from cnn.data import DATASETS, balanced_order, load, normalise  # noqa: E402
from cnn.model import build  # noqa: E402
from cnn.train import Trainer  # noqa: E402
from cnn.vision import torchvision  # noqa: E402

KEYS = ("schema module model system strategy physical data seed train_loss test_error metrics status stop_reason "
        "iterations evaluations seconds config environment")
COLUMNS = ("iteration epoch stage train_loss train_error grad_norm learning_rate test_loss test_error seconds")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 training images, 20 test images."""
    return small.make_data(tmp_path_factory.mktemp("data"), 60, 20)


def snapshot(folder: Path) -> dict[Path, tuple[int, bytes]]:
    """Times and contents of all files; a claim is touched now and then."""
    return {path: (0 if path.name == "claim" else path.stat().st_mtime_ns, path.read_bytes())
            for path in folder.rglob("*") if path.is_file()}


@torch.no_grad()
def evaluated(state: dict[str, Any], found: dict[str, Any], data: Path) -> dict[str, float]:
    """What a result must say of these weights."""
    name, numbers = found["config"]["dataset"], {}
    model = build(found["model"], DATASETS[name].classes, 0, "torch").eval()
    model.load_state_dict(state)
    train, test = load(name, data, verify=False)
    rows = balanced_order(train.labels)[:found["data"]["value"]]
    assert train.labels[rows].bincount().unique().numel() == 1  # equally many of each class
    for split, images in (("train", train.select(rows)), ("test", test)):
        logits = model(normalise(images.pixels, name, torch.float32)).double()
        numbers[f"{split}_loss"] = cross_entropy(logits, images.labels).item()
        numbers[f"{split}_error"] = (logits.argmax(1) != images.labels).double().mean().item()
    return numbers


# ---- what a command leaves -----------------------------------------------------------------------------------------


def test_a_product_from_another_folder(tmp_path: Path) -> None:
    """Two learning rates, numbers of images and seeds: folders, results, histories and weights."""
    data = small.make_data(tmp_path / "data", 60, 20)
    words = small.tiny(Path("data"), "--lr 0.1 0.02 --n_samples 20 30 --seed 0 3 --save_path out --workers 4")
    before = snapshot(data)
    done = small.run(*words, cwd=tmp_path)
    assert done.returncode == 0 and not done.stdout and snapshot(data) == before, done
    assert done.stderr.startswith("--workers 4: none are needed, the images are held in memory\n")
    folders = {tmp_path / "out" / "resnet18_w8" / "cifar10" / "sgd" / f"lr_{lr}" / f"n_{n}" / f"seed_{k}": (lr, n, k)
               for lr, n, k in itertools.product((0.1, 0.02), (20, 30), (0, 3))}
    assert {path.parent for path in tmp_path.rglob("metrics.json")} == set(folders)
    assert sum(path.is_file() for path in (tmp_path / "out").rglob("*")) == 8 * len(small.FILES)
    for folder, (lr, n, seed) in folders.items():
        found, rows = small.read_strict(folder / "metrics.json"), small.table(folder / "history.csv")
        assert {path.name for path in folder.iterdir()} == small.FILES and " ".join(found) == KEYS
        assert found["config"] == small.read_strict(folder / "config.json") and set(found["metrics"]) == small.METRICS
        assert {key: found[key] for key in KEYS.split()[:8]} == {
            "schema": 1, "module": "CNN", "model": small.MODEL, "system": "cifar10", "strategy": "sgd",
            "physical": {"name": "lr", "value": lr}, "data": {"name": "n", "value": n}, "seed": seed}
        assert (found["status"], found["stop_reason"], found["metrics"]["epochs"]) == ("finished", "budget", 2)
        assert found["iterations"] == found["evaluations"] == 2 * math.ceil(n / 20)
        assert {"python", "torch", "device", "git_commit"} <= set(found["environment"])
        assert list(rows[0]) == COLUMNS.split() and [row["epoch"] for row in rows] == ["0", "1", "2"]
        assert [row["learning_rate"] for row in rows] == ["", str(lr), str(lr / 2)]  # cosine
        state = torch.load(folder / "model.pt", weights_only=True)
        first, last = (evaluated(weights, found, data) for weights in (
            build(small.MODEL, 10, seed, "fan_out").state_dict(), state["model"]))
        said = {"train_loss": found["train_loss"], "test_error": found["test_error"]} | {
            name: found["metrics"][name] for name in ("train_error", "test_loss")}
        assert said == pytest.approx(last, rel=1e-4) and said["test_error"] == last["test_error"]
        assert {name: float(rows[0][name]) for name in first} == pytest.approx(first, rel=1e-4)  # before training
        assert {name: float(rows[2][name]) for name in ("test_loss", "test_error")} == pytest.approx(
            {name: last[name] for name in ("test_loss", "test_error")}, rel=1e-4)
        assert found["metrics"]["train_loss_running"] == float(rows[2]["train_loss"]) != found["train_loss"]
        assert state["config"] == found["config"] and found["metrics"]["parameters"] == sum(
            w.numel() for w in build(small.MODEL, 10, 0, "torch").parameters())


def test_it_learns_what_can_be_learnt(tmp_path: Path) -> None:
    """Images that tell their class, to well above chance; with --no-save_model and --log_every."""
    data = small.make_data(tmp_path / "data", 200, 100)
    flags = "--n_samples 200 --epochs 5 --lr 0.05 --batch_size 25 --no-save_model --log_every 2"
    found = small.result(tmp_path, data, flags)
    assert found["test_error"] < 0.3 and found["train_loss"] < 1  # of guessing: 0.9 and 2.3
    assert found["data"] == {"name": "n", "value": 200} and found["config"]["data"]["test"] == 100
    path = tmp_path / "results/resnet18_w8/cifar10/sgd/lr_0.05/n_200/seed_0"
    assert {p.name for p in path.iterdir()} == small.FILES - {"model.pt"}
    assert [row["epoch"] for row in small.table(path / "history.csv")] == ["0", "2", "4", "5"]


# ---- flags ---------------------------------------------------------------------------------------------------------

#: Flags that must change the weights, and those that act elsewhere.
CHANGES = ["--model ResNet18_w16", "--init torch", "--dataset CIFAR-100", "--n_samples 40", "--augment none",
           "--augment crop+flip", "--lr 0.1", "--batch_size 10", "--momentum 0.5", "--weight_decay 0",
           "--schedule constant", "--epochs 3", "--seed 1", "--mixed_precision bf16", "--precision float64"]
ELSEWHERE = ("--pretrain --data_dir --verify --budget --save_path --save_model --device --hessian_every --log_every "
             "--checkpoint_every --force --wandb --wandb_project --workers --visualize --type --help")
TRAJECTORY = "--loss --max_epochs --steps"


def test_every_flag_acts(data: Path, tmp_path: Path) -> None:
    """Other settings give other weights; the parsers know no flag that is not tried."""
    weights, dtypes = {}, set()
    hundred = small.make_data(tmp_path / "hundred", 20, 20, classes=100)
    for number, flags in enumerate(["", *CHANGES]):
        folder = tmp_path / str(number)
        folder.mkdir()
        small.result(folder, hundred if "CIFAR-100" in flags else data, f"--n_samples 20 --lr 0.01 {flags}")
        (path,) = folder.rglob("model.pt")
        state = torch.load(path, weights_only=True)["model"]
        weights[flags] = torch.cat([w.flatten().double() for w in state.values()])
        dtypes.add((str(state["conv1.weight"].dtype), "float64" in flags))
    assert not [(a, b) for a, b in itertools.combinations(weights, 2) if torch.equal(weights[a], weights[b])]
    fine, coarse = ((weights[name] - weights[""]).norm() for name in ("--precision float64", "--mixed_precision bf16"))
    assert fine < 0.3 * coarse < 0.3 * 0.05 * weights[""].norm()  # the same run to their rounding
    assert dtypes == {("torch.float32", False), ("torch.float64", True)}
    tried = {word for words in (*CHANGES, ELSEWHERE) for word in words.split() if word.startswith("--")}
    for trajectory, others, own in ((False, {"--no-verify", "--no-save_model"}, ""),
                                    (True, {"--no-verify", "--no-save_model"}, TRAJECTORY)):
        flags = {flag for action in make_parser(trajectory)._actions for flag in action.option_strings
                 if flag.startswith("--")}
        assert flags - tried == others | set(own.split())
        assert tried - flags == ({"--epochs", "--schedule", "--visualize", "--type"} if trajectory else set())


def test_published_values_and_budgets(capsys: pytest.CaptureFixture[str]) -> None:
    """The published command changes no default; a budget sets what no flag does."""
    plain = vars(parse([], False))
    assert vars(parse(shlex.split("--model ResNet18 --dataset CIFAR-10 --epochs 200 --batch_size 128 --save_model"),
                      False)) == plain
    names = ("lr", "momentum", "weight_decay", "schedule", "init", "seed", "pretrain", "verify", "n_samples")
    assert [plain[name] for name in names] == [[0.1], 0.9, 1e-3, "cosine", "fan_out", [0], False, True, None]
    path = vars(parse([], True))
    names = ("lr", "momentum", "weight_decay", "batch_size", "augment", "init", "loss", "epochs", "steps")
    assert [path[name] for name in names] == [[0.1], 0, 0, 64, "none", "torch", 1e-4, 250, 200]
    assert [(DATASETS[name].augment, DATASETS[name].classes) for name in ("CIFAR-10", "CIFAR-100")] == [
        ("flip", 10), ("crop+flip", 100)]
    for budget, epochs, before, steps in (("smoke", 1, 2, 20), ("laptop", 20, 50, 200)):
        assert parse(["--budget", budget], False).epochs == epochs
        args = parse(["--budget", budget], True)
        assert (args.epochs, args.steps) == (before, steps)
        assert parse(["--budget", budget, "--epochs", "7"], False).epochs == 7
        args = parse(["--budget", budget, "--max_epochs", "7", "--steps", "8"], True)
        assert (args.epochs, args.steps) == (7, 8)
    for trajectory in (False, True):
        with pytest.raises(SystemExit) as caught:
            parse(["--help"], trajectory)
        assert caught.value.code == 0 and "11,173,962 weights" in " ".join(capsys.readouterr().out.split())


def test_smoke_budget_and_a_batch_larger_than_n(data: Path, tmp_path: Path) -> None:
    words = small.tiny(data, "--budget smoke --batch_size 128")
    place = words.index("--epochs")
    del words[place : place + 2]
    done = small.call(*words, cwd=tmp_path)
    assert done.returncode == 0 and done.stderr.startswith("n = 40 is less than a batch of 128: every update takes all")
    (found,) = small.results(tmp_path)
    assert (found["config"]["batch_size"], found["iterations"], found["config"]["budget"]) == (40, 1, "smoke")


def test_eigenvalues_are_logged_every_so_many_epochs(data: Path, tmp_path: Path) -> None:
    """And at the end; the result has that of the final weights."""
    found = small.result(tmp_path, data, "--epochs 3 --hessian_every 2 --n_samples 20")
    column = [row["lambda_max"] for row in small.table(tmp_path / small.RUN.parents[1] / "n_20/seed_0/history.csv")]
    assert [bool(value) for value in column] == [True, False, True, True]
    assert 0 < float(column[3]) == found["metrics"]["lambda_max"] != float(column[2])


def test_pretrained_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network at its published size starts from a file of torchvision's layers, but for stem and head."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    file = tmp_path / "hub" / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    file.parent.mkdir(parents=True)
    torch.manual_seed(5)
    weights = torchvision.models.resnet18().state_dict()
    torch.save(weights, file)
    data = small.make_data(tmp_path / "data", 10, 10)
    words = "--model ResNet18 --pretrain --n_samples 10 --epochs 1 --no-save_model --init torch --lr 1e-3"
    found = small.result(tmp_path, data, words)
    assert found["metrics"]["parameters"] == 11_173_962 and found["config"]["pretrain"] is True
    state = build("ResNet18", 10, 0, "torch").state_dict()
    state |= {name: value for name, value in weights.items() if not name.startswith(("conv1.", "fc."))}
    (path,) = tmp_path.rglob("history.csv")
    row = small.table(path)[0]
    expected = evaluated(state, found, data)
    assert {name: float(row[name]) for name in expected} == pytest.approx(expected, rel=1e-4)


# ---- a run that is there -------------------------------------------------------------------------------------------


def test_finished_runs(data: Path, tmp_path: Path) -> None:
    """Again nothing happens; other arguments are refused and named, before anything else; --force trains again."""
    words = small.tiny(data, "--seed 7 8")
    assert small.call(*words, cwd=tmp_path).returncode == 0
    for more in ([], ["--log_every", 3, "--budget", "smoke", "--hessian_every", 1, "--augment", "flip"]):
        done = small.call(*words, *more, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (
            0, "already done, nothing to do: 2 runs of cifar10/sgd lr_0.1 n_40 (--force trains again)\n")
    other = small.make_data(tmp_path / "other", 60, 20, seed=5)
    kept = snapshot(tmp_path)
    for flags, named in [("--momentum 0.5 --batch_size 10", ["momentum 0.9 -> 0.5", "batch_size 20 -> 10"]),
                         ("--epochs 3", ["epochs 2 -> 3"]), ("--augment none", ["augment flip -> none"]),
                         ("--mixed_precision bf16", ["mixed_precision none -> bf16"]),
                         ("--lr 0.3 0.1 --init torch", ["lr_0.1/n_40/seed_7 holds", "init fan_out -> torch"]),
                         (f"--data_dir {other}", ["data.train_crc32 ", "data.test_crc32 "])]:
        done = small.call(*words, *shlex.split(flags), cwd=tmp_path)
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done
        assert all(text in done.stderr for text in [*named, "use another --save_path or --force"]), done
    assert snapshot(tmp_path) == kept and len(small.results(tmp_path)) == 2
    assert small.call(*words, "--force", "--epochs", 1, cwd=tmp_path).returncode == 0
    assert [found["iterations"] for found in small.results(tmp_path)] == [2, 2]
    assert set(snapshot(tmp_path)) == set(kept)


def test_force_removes_all_old_results_at_once(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted in the first cell, the same command without --force trains the second one anew too."""
    words = small.tiny(data, "--lr 0.1 0.05 --epochs 1")
    assert small.call(*words, cwd=tmp_path).returncode == 0 and len(small.results(tmp_path)) == 2
    step = Trainer.step

    def stop(self: Trainer, *batch: Any) -> None:
        step(self, *batch)
        os.kill(os.getpid(), signal.SIGUSR1)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", stop)
        done = small.call(*words, "--force", cwd=tmp_path)
    assert done.returncode == 75 and "stopped by SIGUSR1 and saved; the same command without --force" in done.stderr
    assert not small.results(tmp_path)
    again = small.call(*words, cwd=tmp_path)
    assert again.returncode == 0 and "already done" not in again.stderr and len(small.results(tmp_path)) == 2
    assert main([], False, asked=[signal.SIGTERM]) == 75  # asked while Python imports


def test_damaged_run_folders(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A result cut short is no result, an unreadable checkpoint no checkpoint: the run is trained, to the same end."""
    whole = small.result(tmp_path, data)
    path = tmp_path / small.RUN
    weights, rows = (path / "model.pt").read_bytes(), small.table(path / "history.csv")
    (path / "metrics.json").write_bytes((path / "metrics.json").read_bytes()[:100])
    (path / "checkpoint.pt").write_bytes(weights[:1000])
    (path / "history.csv").write_text("iteration,epoch\n7,")
    (path / "model.pt").unlink()
    (path / "failed.json").write_text("{")
    (path / "metrics.json.0.tmp").write_text("{")
    done = small.call(*small.tiny(data), cwd=tmp_path)
    assert done.returncode == 0 and f"{small.RUN}/checkpoint.pt cannot be read" in done.stderr, done
    again, ignored = small.read_strict(path / "metrics.json"), {"seconds", "environment"}
    assert {k: v for k, v in again.items() if k not in ignored} == {k: v for k, v in whole.items() if k not in ignored}
    assert {p.name for p in path.iterdir()} == small.FILES
    assert [row | {"seconds": ""} for row in small.table(path / "history.csv")] == [
        row | {"seconds": ""} for row in rows]


def test_two_processes_and_a_signal(data: Path, tmp_path: Path) -> None:
    """The second leaves the run alone; the first stops and saves, and the same command goes on from there."""
    words = small.tiny(data, "--epochs 16 --checkpoint_every 0 --no-save_model")
    command = [sys.executable, str(small.CNN / "run_exp.py"), *map(str, words), "--device", "cpu"]
    first = subprocess.Popen(command, cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"}, text=True,
                             stderr=subprocess.PIPE)
    path, end = tmp_path / small.RUN, time.monotonic() + 60
    try:
        while not (path / "checkpoint.pt").exists():
            assert first.poll() is None and time.monotonic() < end
            time.sleep(0.01)
        done = small.call(*words, cwd=tmp_path)
        first.send_signal(signal.SIGTERM)
        error = first.communicate(timeout=60)[1]
    finally:
        first.kill()
    assert done.returncode == 3 and f"process {first.pid} on " in done.stderr, done
    assert done.stderr.startswith("left alone, another process is training it")
    assert first.returncode == 75 and "stopped by SIGTERM and saved; the same command goes on from here" in error
    assert not (path / "metrics.json").exists() and not (path / "claim").exists()
    before = (path / "history.csv").read_text().splitlines()
    assert 2 <= len(before) < 17
    assert small.call(*words, cwd=tmp_path).returncode == 0
    after = (path / "history.csv").read_text().splitlines()
    assert after[: len(before)] == before and [line.split(",")[1] for line in after[1:]] == [str(k) for k in range(17)]
    assert {p.name for p in path.iterdir()} == small.FILES - {"model.pt"}


# ---- runs that fail ------------------------------------------------------------------------------------------------


def test_divergence_is_recorded(data: Path, tmp_path: Path) -> None:
    """Null in strict JSON, exit code 0, and the next learning rate is trained."""
    words = small.tiny(data, "--lr 1e6 0.01 --epochs 4")
    done = small.call(*words, cwd=tmp_path)
    assert done.returncode == 0 and "failed" not in done.stderr, done
    good, bad = small.results(tmp_path)
    assert (bad["status"], bad["train_loss"], bad["stop_reason"]) == ("diverged", None, "non_finite")
    assert bad["metrics"]["test_loss"] is None and bad["metrics"]["epochs"] < 4 and bad["physical"]["value"] == 1e6
    assert good["status"] == "finished" and good["iterations"] == 8 and math.isfinite(good["train_loss"])
    again = small.call(*words, cwd=tmp_path)
    assert again.returncode == 0 and again.stderr.count("already done") == 2


def test_a_run_that_fails_leaves_the_other_cells_alone(
        data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 1, a line that says where; once it is mended, the same command trains what is left."""
    words, step = small.tiny(data, "--lr 0.1 0.05"), Trainer.step

    def fail(self: Trainer, *batch: Any) -> None:
        if self.settings.lr == 0.1 and self.epoch == 1:
            raise RuntimeError("out of\nmemory")
        step(self, *batch)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", fail)
        done = small.call(*words, cwd=tmp_path)
    (found,) = small.results(tmp_path)
    assert done.returncode == 1 and found["physical"]["value"] == 0.05
    assert f"failed: {small.RUN}: RuntimeError: out of" in done.stderr
    (failed,) = tmp_path.rglob("failed.json")
    assert "Traceback" in small.read_strict(failed)["traceback"]
    done = small.call(*words, cwd=tmp_path)
    assert done.returncode == 0 and done.stderr.count("already done") == 1 and len(small.results(tmp_path)) == 2
    assert not failed.exists()
