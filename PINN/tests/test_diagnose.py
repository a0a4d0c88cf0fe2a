"""`diagnose.py steps`: finished runs are opened, trained again bit for bit, and their steps are the optimizer's."""

from __future__ import annotations

import csv
import itertools
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import diagnose  # noqa: E402
from pinn import train as training  # noqa: E402
from pinn.arguments import parse  # noqa: E402
from pinn.files import UsageError, write_json  # noqa: E402
from pinn.finished import UNITS, approach, begin_again, open_run, record  # noqa: E402
from pinn.pdes import SYSTEMS  # noqa: E402
from pinn.session import Signals  # noqa: E402
from pinn.steps import write  # noqa: E402
from pinn.strategies import STRATEGIES  # noqa: E402
from run_folders import read_strict  # noqa: E402
from trained import BETA, TINY, train  # noqa: E402

for number in diagnose.STOPS:  # taken as it is imported, and not meant for the tests
    signal.signal(number, signal.SIG_DFL)

PARAMETERS = {"convection": '{"beta": 30}', "reaction": '{"rho": 2}', "wave": '{"c": 2, "beta": 5}',
              "reaction_diffusion": '{"rho": 5, "nu": 1, "sigma": 0.5}'}
STEPS_FILES = {"steps.csv", "steps.json", "steps.png"}


def history(folder: Path) -> list[dict[str, float]]:
    """Iterations and training losses of a run."""
    with open(folder / "history.csv", newline="") as file:
        return [{name: float(row[name]) for name in ("iteration", "train_loss")} for row in csv.DictReader(file)]


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a run but those of its steps."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name not in STEPS_FILES}


def steps(*arguments: object) -> int:
    """The subcommand, in this process."""
    return diagnose.steps(diagnose.make_parser().parse_args(["steps", *map(str, arguments)]))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float32 L-BFGS run in calls of up to five iterations, its loss logged after each of them."""
    return train(f"{BETA} --iterations 60 --log_every 1 --opt_params '{{\"max_iter\": 5}}'",
                 tmp_path_factory.mktemp("finished"))


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, at the same place below another save path."""
    return Path(shutil.copytree(finished, tmp_path.joinpath(*finished.parts[-5:])))


# ---- opened ------------------------------------------------------------------------------------


@pytest.mark.parametrize("opt", STRATEGIES)
def test_any_finished_run_is_read_back(tmp_path: Path, opt: str) -> None:
    """Settings from config.json give the same configuration and folder, whatever the flags were."""
    for k, pde in enumerate(SYSTEMS):
        flags = ["", "--precision float64 --set_idx seed --L 2", "--loss huber --num_layers 4", "--num_t 6"][k]
        settings, physical, seeds = parse([*shlex.split(
            f"{TINY} --pde {pde} --pde_params '{PARAMETERS[pde]}' --opt {opt} --initial_seed 7 {flags}"),
            "--save_path", str(tmp_path)])
        (run,) = settings[0].runs(physical, seeds)
        run.prepare()
        run.release()
        write_json(run.path / "metrics.json", {"module": "PINN"})
        found, again = open_run(Path(os.path.relpath(run.path)))
        assert again.path == run.path and again.key == run.key and found.options == settings[0].options
        same = {name: value for name, value in run.config.items() if name not in ("budget", "log_every", "device")}
        assert same.items() <= again.config.items() and len(again.config) == len(run.config)
        strategy = settings[0].build(settings[0].plan([run.key]))[1]
        several = len(strategy.stages) > 1 or pde != "convection" and opt == "cl"  # the others' curricula are short
        assert (several or strategy.redraws) != (opt in UNITS)


#: What is done to a finished run, and what the one line of the answer must contain.
DAMAGE: dict[str, tuple[Any, str]] = {
    "no folder": (lambda f: shutil.rmtree(f), "there is no such folder"),
    "not finished": (lambda f: (f / "metrics.json").unlink(), "must hold a finished run, but has no metrics.json"),
    "no config": (lambda f: (f / "config.json").unlink(), "but has no config.json"),
    "cut short": (lambda f: (f / "config.json").write_text('{"pde": "conv'), "config.json is damaged: it must hold"),
    "no object": (lambda f: (f / "metrics.json").write_text("[1]"), "metrics.json is damaged"),
    "bytes": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"), "config.json is damaged"),
    "module": (lambda f: write_json(f / "metrics.json", {"module": "CNN"}), "must hold a run of PINN"),
    "moved": (lambda f: None, "must end with what its config.json says: convection/lbfgs/beta_2/n_30/seed_1234"),
}
CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "option": ({"opt_params": {"speed": 3}}, "opt_params: unknown option 'speed'; allowed: iterations"),
    "option value": ({"opt_params": {"lbfgs_lr": "fast"}}, "lbfgs_lr must be float"),
    "missing option": ({"opt_params": {"iterations": 60}}, "other arguments than this version writes: opt_params"),
    "argument": ({"dropout": 0.5}, "other arguments than this version writes: dropout"),
    "equation": ({"pde": "heat"}, "config.json is damaged: KeyError: 'heat'"),
    "type": ({"hidden": 3}, "config.json is damaged: TypeError"),
    "precision": ({"precision": "float99"}, "config.json is damaged: AttributeError"),
    "strategy": ({"opt": "sgd"}, "config.json is damaged: KeyError: 'sgd'"),
}


@pytest.mark.parametrize("what", [*DAMAGE, *CHANGES])
def test_what_is_no_finished_run(folder: Path, what: str) -> None:
    """One clear line, and nothing is written; the run that is in order is not touched either."""
    good = Path(shutil.copytree(folder, folder.parents[4] / "good" / Path(*folder.parts[-5:])))
    if what in DAMAGE:
        damage, words = DAMAGE[what]
        damage(folder)
        folder = Path(shutil.move(folder, folder.with_name("seed_9"))) if what == "moved" else folder
    else:
        change, words = CHANGES[what]
        write_json(folder / "config.json", read_strict(folder / "config.json") | change)
    with pytest.raises(UsageError) as error:
        steps(good, folder, "--loss", 1)
    assert words in str(error.value) and str(folder) in str(error.value)
    assert not STEPS_FILES & {p.name for p in [*good.iterdir(), *(folder.iterdir() if folder.exists() else ())]}


def test_a_run_copied_to_a_short_path(folder: Path) -> None:
    """It is told where it belongs, as any other run that was moved."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        shutil.copytree(folder, name, dirs_exist_ok=True)
        with pytest.raises(UsageError, match="must end with what its config.json says: convection/lbfgs/beta_2/n_30/"):
            open_run(Path(name))


def test_bad_arguments(folder: Path, tmp_path: Path) -> None:
    """Named with what is allowed; strategies with several stages or changing points say which can."""
    for arguments, words in [(["--loss", "0"], "--loss must be a positive number"), (["--loss", "nan"], "--loss must"),
                             (["--steps", "0"], "--steps must be at least 1"), (["--device", "tpu"], "--device must"),
                             (["--epochs", "3"], "--epochs"), (["--steps", "1.5"], "--steps: invalid int")]:
        with pytest.raises(UsageError, match=words):
            steps(folder, *arguments)
    several = train(f"{BETA} --opt adam_lbfgs --opt_params '{{\"adam_iterations\": 3}}' --iterations 5", tmp_path / "x")
    with pytest.raises(UsageError, match="steps are recorded of runs of adam and lbfgs,.* not of adam_lbfgs"):
        steps(folder, several)
    assert contents(folder).keys() == {p.name for p in folder.iterdir()}


# ---- trained again -----------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [
    "--opt lbfgs --iterations 60 --opt_params '{\"max_iter\": 5}'", "--opt adam --iterations 30 --L 3",
    "--pde reaction --pde_params '{\"rho\": 2}' --opt lbfgs --iterations 30 --set_idx seed --initial_seed 5"])
def test_the_replay_passes_through_the_same_weights(tmp_path: Path, arguments: str) -> None:
    """Bit-equal at the threshold, in float32, to a training that ends there; the run's own losses say where that is."""
    arguments += "" if "--pde " in arguments else f" {BETA}"
    folder = train(f"{arguments} --log_every 1", tmp_path / "whole")
    lines, kept = history(folder), contents(folder)
    for line in (lines[0], lines[len(lines) // 2], lines[-1]):
        first = next(row for row in lines if row["train_loss"] <= line["train_loss"])
        group = begin_again(*open_run(folder))
        lowest = approach(group, first["train_loss"], Signals())
        assert (lowest, group.counters[0].total) == (first["train_loss"], first["iteration"])
        short = train(f"{arguments} --iterations {first['iteration']:.0f}", tmp_path / f"{first['iteration']:.0f}")
        weights = torch.load(short / "model.pt", weights_only=True)["params"]
        assert all(torch.equal(p[0], w) for p, w in zip(group.params, weights, strict=True))
    assert contents(folder) == kept


@pytest.mark.parametrize(("opt", "options"), [("lbfgs", '{"max_iter": 5}'), ("adam", '{"lr": 0.01}')])
def test_lengths_are_those_of_torch(tmp_path: Path, opt: str, options: str) -> None:
    """float64: lengths and losses of ten steps as in a loop of its own over torch's optimizer, the history kept."""
    folder = train(f"{BETA} --opt {opt} --iterations 10 --log_every 1 --precision float64 --opt_params '{options}'",
                   tmp_path)
    settings, run = open_run(folder)
    threshold = history(folder)[1 if opt == "lbfgs" else 4]
    group = begin_again(settings, run)
    approach(group, threshold["train_loss"], Signals())
    done = group.counters[0].total
    assert done == threshold["iteration"] > 3
    lengths, losses = record(group, 10, Signals())

    objective, weights = group.objective, [p[0].detach().clone().requires_grad_() for p in begin_again(
        settings, run).params]
    if opt == "lbfgs":
        optimizer = torch.optim.LBFGS(weights, max_iter=5, history_size=100, line_search_fn="strong_wolfe")
    else:
        optimizer = torch.optim.Adam(weights, lr=0.01)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = objective.losses([w[None] for w in weights], torch.arange(1)).sum()
        loss.backward()
        return loss
    for _ in range(1 if opt == "lbfgs" else done):
        optimizer.step(closure)
    optimizer.param_groups[0]["max_iter"] = 1
    expected = []
    for _ in range(10):
        before, loss = [w.detach().clone() for w in weights], closure().item()
        optimizer.step(closure)
        difference = torch.cat([(w.detach() - b).flatten() for w, b in zip(weights, before, strict=True)])
        expected.append((difference.norm().item(), loss))
    assert lengths == pytest.approx([length for length, _ in expected], rel=1e-6)
    assert losses == pytest.approx([loss for _, loss in expected], rel=1e-6)


def test_recorded_without_a_trace(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three files and nothing else; again: nothing to do; other arguments: refused; --force: recorded anew."""
    kept, line = contents(folder), history(folder)[4]
    assert steps(folder, "--loss", line["train_loss"], "--steps", 50) == 0
    found = read_strict(folder / "steps.json")
    assert contents(folder) == kept and {p.name for p in folder.iterdir()} == kept.keys() | STEPS_FILES
    assert (found["iteration"], found["steps"], found["unit"], found["lr"]) == (line["iteration"], 50,
                                                                               "L-BFGS iteration", 1)
    assert line["iteration"] + 50 > read_strict(folder / "metrics.json")["iterations"], "beyond the run's own budget"
    with open(folder / "steps.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[0]["loss"]) == line["train_loss"] and all(float(row["length"]) > 0 for row in rows)
    assert f"alpha {found['alpha']:.2f}" in capsys.readouterr().out
    written = {name: (folder / name).stat().st_mtime_ns for name in STEPS_FILES}
    assert steps(folder, folder / ".." / folder.name, "--loss", line["train_loss"], "--steps", 50) == 0
    assert capsys.readouterr().err.count("already there, nothing to do") == 1
    for other, words in [(["--loss", 1], r"--loss \S+ -> 1\.0"), (["--steps", 7], "--steps 50 -> 7")]:
        with pytest.raises(UsageError, match=words):
            steps(folder, "--loss", line["train_loss"], "--steps", 50, *other)
    assert {name: (folder / name).stat().st_mtime_ns for name in STEPS_FILES} == written
    (folder / "steps.json").write_text('{"alpha": 2.')
    with pytest.raises(UsageError, match=r"steps.json is damaged: .*; --force records the steps again"):
        steps(folder)
    assert steps(folder, "--loss", line["train_loss"], "--steps", 7, "--force") == 0
    assert read_strict(folder / "steps.json")["requested"] == 7


def test_a_loss_that_is_not_reached(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line with the lowest loss, exit code 1, and the other runs go on."""
    other = train(f"{BETA} --opt adam --iterations 5 --log_every 1", tmp_path / "other")
    lowest = min(row["train_loss"] for row in history(other))
    assert steps(other, folder, "--loss", history(folder)[-1]["train_loss"], "--steps", 9) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("failed:")]
    assert f"{other}: --loss" in line and f"of 5 iterations is {lowest:.3g}" in line
    assert not STEPS_FILES & {p.name for p in other.iterdir()} and (folder / "steps.json").exists()


@pytest.mark.parametrize("back", [3, 0])
def test_no_further_step(tmp_path: Path, capsys: pytest.CaptureFixture[str], back: int) -> None:
    """An optimizer that stops: what there is is recorded, even nothing, with a word."""
    folder = train(f"{BETA} --iterations 60 --log_every 1 --opt_params '{{\"max_iter\": 1, \"tolerance_grad\": 0.1}}'",
                   tmp_path)
    lines = history(folder)
    assert read_strict(folder / "metrics.json")["stop_reason"] == "tolerance_grad" and lines[-1]["iteration"] < 60
    assert steps(folder, "--loss", lines[-1 - back]["train_loss"]) == 0
    found = read_strict(folder / "steps.json")
    assert (found["steps"], found["requested"], found["stop_reason"], found["alpha"]) == (back, 200, "tolerance_grad",
                                                                                         None)
    assert f"no further step is possible after {back} of 200 (tolerance_grad)" in capsys.readouterr().err


def test_what_rounds_otherwise_is_mentioned(folder: Path, monkeypatch: pytest.MonkeyPatch,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    """Company, device, threads and torch of the training, where the replay has others; a run of the CPU stays there."""
    monkeypatch.setattr(diagnose, "device", lambda text: torch.device("meta"))  # as if there were a GPU
    assert steps(folder, "--loss", 1e9, "--steps", 2) == 0
    assert "rounding differs" not in capsys.readouterr().err and read_strict(folder / "steps.json")["iteration"] == 0
    metrics = read_strict(folder / "metrics.json")
    metrics["metrics"]["runs_side_by_side"] = 3
    now, then = metrics["environment"], {"device": "cuda:0 (fast)", "threads": 99, "torch": "1.0"}
    write_json(folder / "metrics.json", metrics | {"environment": now | then})
    monkeypatch.setattr(diagnose, "device", lambda text: torch.device("cpu"))
    assert steps(folder, "--loss", 1e9, "--steps", 2, "--force") == 0
    said = "".join(f", with {name} {then[name]}, replayed with {now[name]}" for name in then)
    assert (f"{folder}: trained side by side with 2 more, replayed alone{said}: rounding differs, and the iterates"
            in capsys.readouterr().err)


def test_a_folder_that_cannot_be_had(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run that is claimed is left alone; one that cannot be claimed fails in one line that names the argument."""
    _, other = open_run(folder)
    assert other.claim() and steps(folder, "--loss", 1) == 3
    assert "another process works on it" in capsys.readouterr().err
    other.release()
    (folder / "claim").mkdir()
    assert steps(folder, "--loss", 1) == 1
    start = f"failed: RUN_FOLDER {folder.parents[4]}: cannot write: "
    assert capsys.readouterr().err.startswith(start)


@pytest.mark.parametrize(("recorded", "code", "says"), [
    (3, 0, "already there, nothing to do"), (4, 1, "--steps 4 -> 3; --force"), (0, 1, "has no metrics.json")])
def test_what_others_did_meanwhile_stays(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                         capsys: pytest.CaptureFixture[str], recorded: int, code: int,
                                         says: str) -> None:
    """Steps that another process recorded, or a training it began anew, while this one was busy with an earlier run."""
    first = Path(shutil.copytree(folder, tmp_path / "first" / Path(*folder.parts[-5:])))

    def busy(settings: Any, run: Any) -> Any:
        if recorded:
            write(folder, [0.5] * recorded, [1.0] * recorded,
                  {"loss": 1e9, "requested": recorded, "reached": True, "iteration": 0, "unit": "step", "lr": 1})
        else:
            (folder / "metrics.json").unlink()
        return begin_again(settings, run)
    monkeypatch.setattr(diagnose, "begin_again", busy)
    assert steps(first, folder, "--loss", 1e9, "--steps", 3) == code
    assert says in capsys.readouterr().err and (first / "steps.json").exists()
    if recorded:
        assert [row.split(",")[1] for row in (folder / "steps.csv").read_text().split()[1:]] == ["0.5"] * recorded
    assert not (folder / "claim").exists()


def interrupt(monkeypatch: pytest.MonkeyPatch, at: int, number: int) -> None:
    """Send this process a signal at the beginning of a call of the optimizer, counted from 1."""
    count, step = itertools.count(1), training.Group.step

    def interrupting(self: training.Group, stage: Any) -> None:
        if next(count) == at:
            os.kill(os.getpid(), number)
        step(self, stage)
    monkeypatch.setattr(training.Group, "step", interrupting)


@pytest.mark.parametrize(("at", "number"), [(2, signal.SIGUSR1), (9, signal.SIGTERM), (9, signal.SIGINT)])
def test_interrupted(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], at: int,
                     number: int) -> None:
    """On the way to the loss or while steps are recorded: exit code 75, nothing written, and then the same."""
    line, kept = history(folder)[4], contents(folder)
    plain = folder, "--loss", line["train_loss"], "--steps", 9
    interrupt(monkeypatch, at, number)
    assert steps(*plain) == 75 and f"stopped by {signal.Signals(number).name}" in capsys.readouterr().err
    assert contents(folder) == kept and not STEPS_FILES & {p.name for p in folder.iterdir()}
    assert steps(*plain) == 0
    settings, run = open_run(folder)
    group = begin_again(replace(settings, log_every=1), run)
    approach(group, line["train_loss"], Signals())
    with open(folder / "steps.csv", newline="") as file:
        assert [float(row["length"]) for row in csv.DictReader(file)] == record(group, 9, Signals())[0]


def test_interrupted_in_the_last_step(folder: Path, monkeypatch: pytest.MonkeyPatch,
                                      capsys: pytest.CaptureFixture[str]) -> None:
    """A record that is complete is kept."""
    plain = folder, "--loss", history(folder)[4]["train_loss"], "--steps", 9
    interrupt(monkeypatch, 4 + 9, signal.SIGTERM)
    assert steps(*plain) == 75 and read_strict(folder / "steps.json")["steps"] == 9
    assert steps(*plain) == 0 and "already there" in capsys.readouterr().err


def test_command(folder: Path, tmp_path: Path) -> None:
    """As a process, from another folder: a run by its relative path, and what is wrong in one line."""
    def command(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, str(TESTS.parent / "diagnose.py"), *map(str, arguments)], text=True,
                              capture_output=True, cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"})
    done = command("steps", folder, "nowhere")
    assert done.returncode == 2 and done.stderr == f"error: RUN_FOLDER {tmp_path}/nowhere: there is no such folder\n"
    assert "starts over" in diagnose.make_parser().format_help()
    for arguments, words in [(["peaks", folder], "WHAT: invalid choice"), ([], "WHAT"), (["steps"], "RUN_FOLDER")]:
        with pytest.raises(UsageError, match=words):
            diagnose.make_parser().parse_args([*map(str, arguments)])
    done = command("steps", folder.relative_to(tmp_path), "--loss", history(folder)[4]["train_loss"], "--steps", 5)
    assert done.returncode == 0 and done.stdout == f"{folder}: too few step lengths for a fit: 5\n", done.stderr
    assert json.loads((folder / "steps.json").read_text())["log_sd"] > 0
