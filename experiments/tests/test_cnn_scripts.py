"""The scripts of ResNets, run as a user runs them, on a small data set in CIFAR's format, in folders with blanks."""

from __future__ import annotations

import csv
import json
import pickle
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from analysis import maps
from analysis.collect import write_csv
from figure_runs import run
from shell import ROOT, SCRIPTS, bash, done, flag, printed, refusal

SWEEP, TRAINING = SCRIPTS / "sweep_cnn.sh", SCRIPTS / "run_cnn_training.sh"
PAPER_RATES = ("0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8")
GIVEN = {"--model", "--dataset", "--data_dir", "--n_samples", "--lr", "--seed", "--save_path", "--budget"}
NETWORKS = "ResNet18 ResNet18_w32 ResNet18_w16 ResNet18_w8"


@pytest.fixture
def data(away: Path) -> Path:
    """Return a folder with 100 training and 40 test images in CIFAR-10's file format."""
    rng, folder = np.random.default_rng(0), away / "my data"
    (folder / "cifar-10-batches-py").mkdir(parents=True)
    sizes = {f"data_batch_{k}": 20 for k in range(1, 6)} | {"test_batch": 40}
    contents = {name: {"data": rng.integers(256, size=(n, 3072), dtype=np.uint8), "labels": [k % 10 for k in range(n)]}
                for name, n in sizes.items()}
    contents["batches.meta"] = {"label_names": [f"class {k}" for k in range(10)]}
    for name, content in contents.items():
        (folder / "cifar-10-batches-py" / name).write_bytes(pickle.dumps(content, protocol=2))
    return folder


@pytest.mark.parametrize("script", [SWEEP, TRAINING], ids=lambda path: path.name)
def test_help_lists_the_variables(script: Path, away: Path) -> None:
    result = bash(script, away, "--help")
    assert result.returncode == 0
    assert "N_SAMPLES" in result.stdout and "170 MB" in result.stdout
    assert list(away.iterdir()) == []


@pytest.mark.parametrize(("script", "settings", "says"), [
    (SWEEP, {"OPT": "adam"}, "OPT must be one of: trajectory sgd both; got 'adam'"),
    (SWEEP, {"OPT": "sgd trajectory"}, "OPT must be one of: trajectory sgd both"),
    (SWEEP, {"MODEL": "ResNet50"}, f"MODEL must be one of: {NETWORKS}; got 'ResNet50'"),
    (SWEEP, {"DATASET": "cifar10"}, "DATASET must be one of: CIFAR-10 CIFAR-100; got 'cifar10'"),
    (SWEEP, {"SCALE": "huge"}, "SCALE must be one of: smoke laptop paper"),
    (SWEEP, {"LRS": "fast"}, "LRS: allowed are numbers; got 'fast'"),
    (SWEEP, {"LRS": "0.1 0"}, "LRS: a learning rate is positive and at most 3.4e38; got '0'"),
    (SWEEP, {"LRS": "0.1 1e400"}, "LRS: a learning rate is positive and at most 3.4e38; got '1e400'"),
    (SWEEP, {"LRS": "0.1 1e-1"}, "LRS: '0.1' is given twice"),
    (SWEEP, {"LRS": " "}, "LRS is empty"),
    (SWEEP, {"N_SAMPLES": "all"}, "N_SAMPLES: allowed are whole numbers; got 'all'"),
    (SWEEP, {"N_SAMPLES": "100 0"}, "N_SAMPLES must be at least 1; got '0'"),
    (SWEEP, {"SEEDS": "1 01"}, "SEEDS: '1' is given twice"),
    (SWEEP, {"THRESHOLDS": "table5", "OPT": "sgd"}, "THRESHOLDS=table5: the table has no row for ResNets"),
    (SWEEP, {"EXTRA": "--n-samples 5"}, "EXTRA: --n-samples is given by this script"),
    (SWEEP, {"EXTRA": "--save_path=x"}, "EXTRA: --save_path is given by this script"),
    (TRAINING, {"MODEL": "ResNet50"}, f"MODEL must be one of: {NETWORKS}; got 'ResNet50'"),
    (TRAINING, {"DATASET": "MNIST"}, "DATASET must be one of: CIFAR-10 CIFAR-100; got 'MNIST'"),
    (TRAINING, {"EPOCHS": "1.5"}, "EPOCHS: allowed are whole numbers; got '1.5'"),
    (TRAINING, {"LR": "0.1 0.2"}, "LR must be a single number"),
    (TRAINING, {"LR": "-0.1"}, "LR must be positive and at most 3.4e38; got '-0.1'"),
    (TRAINING, {"LR": "1e400"}, "LR must be positive and at most 3.4e38; got '1e400'"),
    (TRAINING, {"EPOCHS": "00"}, "EPOCHS must be at least 1; got '00'"),
    (TRAINING, {"BATCH_SIZE": "0"}, "BATCH_SIZE must be at least 1; got '0'"),
    (TRAINING, {"N_SAMPLES": "0"}, "N_SAMPLES must be at least 1; got '0'"),
    (TRAINING, {"N_SAMPLES": "100 200"}, "N_SAMPLES must be a single number"),
    (TRAINING, {"LAUNCH": "slurm"}, "LAUNCH must be one of: local print"),
    (TRAINING, {"EXTRA": "--no-save_model"}, "EXTRA: --no-save_model is given by this script"),
])  # fmt: skip
def test_bad_variable_is_one_line_and_exit_2(script: Path, settings: dict[str, str], says: str, away: Path) -> None:
    assert says in refusal(script, away, **settings)


def test_grid_is_that_of_the_paper_and_the_longest_tasks_come_first(away: Path) -> None:
    tasks = printed(SWEEP, away, SCALE="paper")
    assert [task.runs for task in tasks] == [
        tuple(f"resnet18/cifar10/trajectory/lr_{rate}/n_50000/seed_{seed}" for seed in range(3)) for rate in PAPER_RATES
    ]  # fmt: skip
    assert {(flag(task, "--save_path"), flag(task, "--data_dir")) for task in tasks} == {
        (str(ROOT / "results/cnn_paper"), str(ROOT / "CNN/data"))
    }  # fmt: skip
    settings = {"OPT": "both", "DATASET": "CIFAR-100", "MODEL": "ResNet18_w16", "LRS": ".5 1.0", "N_SAMPLES": "010 500"}
    tasks = printed(SWEEP, away, **settings, DATA="my data")
    assert [task.runs for task in tasks] == [
        (f"resnet18_w16/cifar100/{strategy}/lr_{rate}/n_{n}/seed_0",)
        for strategy in ("trajectory", "sgd") for n in (500, 10) for rate in ("0.5", "1")
    ]  # fmt: skip
    assert flag(tasks[0], "--save_path") == str(ROOT / "results/cnn_laptop_ResNet18_w16")
    assert flag(tasks[0], "--data_dir") == str(away / "my data")


@pytest.mark.parametrize(("rates", "amounts", "limits"), [
    ((0.1, 0.2, 0.4), (1000,), "percentile"), ((0.1,), (500, 1000), "0.3,0.6"), ((0.1,), (1000,), "percentile"),
])  # fmt: skip
def test_maps_of_one_row_or_one_column(
    away: Path, rates: tuple[float, ...], amounts: tuple[int, ...], limits: str
) -> None:
    runs = [run("sgd", rate, float(n), 0, rate, n / 2000, model="ResNet18", system="cifar10", name="lr")
            for rate in rates for n in amounts]
    write_csv(runs, away / "runs.csv")
    assert maps.main([str(away / "runs.csv"), "--thresholds", limits, "--out", str(away / "m.svg"), "--dpi", "50"]) == 0
    text = (away / "m.svg").read_text()
    assert all(f"<!-- {label} -->" in text for label in ("learning rate η", "training images n"))


# ---- training ----------------------------------------------------------------------------------------------------


def test_every_command_is_accepted_and_trains_what_its_folder_says(away: Path) -> None:
    tasks = [task for scale in ("smoke", "laptop", "paper") for model in NETWORKS.split()
             for task in printed(SWEEP, away, SCALE=scale, OPT="both", MODEL=model, OUTDIR="a b")]
    assert len(tasks) == 4 * ((2 + 4) + (4 + 8) + (8 + 8))
    (single,) = printed(TRAINING, away, OUTDIR="a b")
    commands = [shlex.split(task.command) for task in (*tasks, single)]
    parse = """import json, sys; sys.path.insert(0, sys.argv[1]); from cnn.arguments import make_parser, parse
from cnn.model import MODELS
print(json.dumps(list(MODELS)))
print(json.dumps([sorted(make_parser(trajectory)._option_string_actions) for trajectory in (True, False)]))
for name, *command in json.load(sys.stdin):
    print(json.dumps(vars(parse(command, name == "train_trajectories.py"))))"""
    result = subprocess.run([sys.executable, "-c", parse, ROOT / "CNN"], text=True, check=True, stdout=subprocess.PIPE,
                            input=json.dumps([[Path(command[1]).name, *command[2:]] for command in commands]))
    networks, flags, *lines = map(json.loads, result.stdout.splitlines())
    assert networks == NETWORKS.split()
    for task, command, args in zip(tasks, commands, lines):
        strategy = {"train_trajectories.py": "trajectory", "run_exp.py": "sgd"}[Path(command[1]).name]
        (rate,), (n,) = args["lr"], args["n_samples"]
        cell = f"{args['model'].lower()}/cifar10/{strategy}/lr_{rate:g}/n_{n}"
        assert task.runs == tuple(f"{cell}/seed_{seed}" for seed in args["seed"])
        assert args["save_path"] == str(away / "a b") and args["dataset"] == "CIFAR-10"
        if args["budget"] == "paper":
            published = {"trajectory": (64, 250, 0.0, 0.0), "sgd": (128, 200, 0.9, 1e-3)}[strategy]
            assert tuple(args[key] for key in ("batch_size", "epochs", "momentum", "weight_decay")) == published
    last = lines[-1]
    names = ("model", "epochs", "batch_size", "lr", "seed", "n_samples", "save_model", "budget")
    assert [last[name] for name in names] == ["ResNet18", 200, 128, [0.1], [0], None, True, "paper"]
    assert list(away.iterdir()) == []

    # Of both sweeps at once: what one command would refuse is refused before the other has trained.
    of = dict(zip(("trajectory", "sgd"), map(set, flags)))
    for opt, other in (("trajectory", "sgd"), ("sgd", "trajectory")):
        for name in of[opt] - of[other]:
            result = bash(SWEEP, away, OPT="both", EXTRA=f"{name}=3", LAUNCH="print")
            assert result.returncode == 2 and f"{name} is only one of OPT={opt}" in result.stdout, name
    assert printed(SWEEP, away, OPT="both", EXTRA=" ".join(of["sgd"] & of["trajectory"] - GIVEN))
    assert printed(SWEEP, away, OPT="sgd", EXTRA="--epochs 3")


def test_benchmark_measures_batches_of_any_size(away: Path) -> None:
    code = """import sys; sys.path.insert(0, sys.argv[1]); import cnn_step
from pathlib import Path
images = cnn_step.write_images(Path("."), 1001)
pixels, labels = next(cnn_step.plain_batches(Path("."), 1001))
print(images, len(cnn_step.ours(Path("."), images, "ResNet18_w8", 1001, "cpu")[0]()[1]), len(labels), flush=True)
sys.argv[1:] = ["--repeats", "0"]
cnn_step.main()"""
    result = subprocess.run([sys.executable, "-c", code, SCRIPTS / "benchmarks"], cwd=away, capture_output=True,
                            text=True)
    assert result.stdout == "2005 1001 1001\n" and result.returncode == 2, result.stderr
    assert result.stderr.endswith("argument --repeats: must be a whole number from 1, got 0\n")


def test_smoke_sweep_of_both_then_tails_and_map(away: Path, data: Path) -> None:
    settings = {"SCALE": "smoke", "OPT": "both", "LRS": "0.4", "N_SAMPLES": "100", "EXTRA": "--no-verify",
                "DATA": data.name, "OUTDIR": "my results", "THRESHOLDS": "5,0.5"}
    result = bash(SWEEP, away, **settings)
    assert result.returncode == 0, result.stdout
    results = away / "my results"
    assert done(results) == [f"resnet18_w8/cifar10/{name}/lr_0.4/n_100/seed_0" for name in ("sgd", "trajectory")]
    rows = list(csv.DictReader((results / "tails.csv").open()))
    assert [(row["lr"], row["steps"], row["reached"]) for row in rows] == [("0.4", "20", "False")]
    for name in ("tails.png", "regime_map.png"):
        assert (results / name).stat().st_size > 10_000
    assert "means over seeds" in result.stdout and "regime, n (rows) by lr (columns)" in result.stdout
    assert "trajectory; " not in result.stdout  # maps are of sgd
    assert sorted(path.name for path in away.iterdir()) == ["my data", "my results"]

    # Nothing is trained twice; what follows draws what it can, and says so where it cannot.
    for path in results.rglob("steps.json"):
        path.unlink()
    again = bash(SWEEP, away, **settings)
    assert "start " not in again.stdout and "tasks done 2/2" in again.stdout
    assert again.returncode == 1 and "no run with a fitted exponent" in again.stdout
    assert "regime, n (rows) by lr (columns)" in again.stdout


def test_single_training_saves_its_model_and_prints_its_result(away: Path, data: Path) -> None:
    settings = {"MODEL": "ResNet18_w8", "EPOCHS": "1", "LR": "0.05", "SEED": "3", "GPU": "7", "BATCH_SIZE": "50"}
    result = bash(TRAINING, away, **settings, DATA=data.name, OUTDIR="out", EXTRA="--no-verify")
    assert result.returncode == 0, result.stdout
    folder = "resnet18_w8/cifar10/sgd/lr_0.05/n_100/seed_3"
    assert done(away / "out") == [folder] and (away / "out" / folder / "model.pt").exists()
    metrics = json.loads((away / "out" / folder / "metrics.json").read_text())
    assert metrics["config"]["batch_size"] == 50 and metrics["iterations"] == 2
    shown = f"{metrics['train_loss']:.4g} {metrics['test_error']:.4g}"
    last = result.stdout.splitlines()[-1]
    assert " ".join(last.split()).startswith(shown) and last.endswith(folder)
