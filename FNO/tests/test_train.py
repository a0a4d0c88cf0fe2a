"""The training loop: against a plain torch loop, interrupted at every step, in blocks, and by two processes."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import small  # noqa: E402
from fno import arguments  # noqa: E402
from fno.parallel import World  # noqa: E402
from fno.settings import Settings  # noqa: E402
from fno.train import Trainer, train  # noqa: E402

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set."""
    return small.make_data(tmp_path_factory.mktemp("data"), ntrain=24, nval=16, ntest=8)


@pytest.fixture
def cell(data: Path, tmp_path: Path) -> Any:
    """Make the settings of a cell with n = 12 samples, in float64."""

    def make(*flags: str, **changes: Any) -> Settings:
        yaml = small.write_yaml(tmp_path / "tiny.yaml", batch_size=5, max_epochs=4, val_subsample=2)
        args, config = arguments.parse([
            "--yaml_config", str(yaml), "--config", "tiny", "--data_dir", str(data), "--subsample", "2", "--device",
            "cpu", "--precision", "float64", "--root_dir", str(tmp_path / "runs"), *flags])
        return replace(arguments.settings(args, config, World(CPU))[0], **changes)
    return make


class Stop:
    """Stands for Signals: asks to stop after so many steps."""

    def __init__(self, steps: float = math.inf) -> None:
        self.left = steps

    @property
    def requested(self) -> str | None:
        """Asked after every step."""
        self.left -= 1
        return "SIGTERM" if self.left <= 0 else None


def trained(settings: Settings, seed: int = 0, steps: float = math.inf) -> dict[str, Any]:
    """Train in this process, interrupted every so many steps; what is left in the run folder."""
    run = settings.run(seed)
    data = settings.load()
    for _ in range(200):
        run.prepare(settings.force)
        interrupted = Trainer(settings, run, data, World(CPU)).train(Stop(steps))
        run.release()
        settings = replace(settings, force=False)
        if not interrupted:
            return outcome(run.path)
    raise AssertionError("it does not end")


def outcome(path: Path) -> dict[str, Any]:
    """Result, history and weights of a run, without what may differ between two executions."""
    names = {p.name for p in path.iterdir()}
    assert names == {"config.json", "history.csv", "metrics.json", "model.pt", "model_best.pt", "model_init.pt"}
    result = json.loads((path / "metrics.json").read_text())
    for name in ("seconds", "environment", "config"):
        result.pop(name)
    with open(path / "history.csv", newline="") as file:
        result["history"] = [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]
    for name in ("model", "model_best", "model_init"):
        state = torch.load(path / f"{name}.pt", weights_only=True)["model"]
        result[name] = {key: value.numpy().tobytes() for key, value in state.items()}
    return result


def weights(path: Path, name: str = "model") -> list[torch.Tensor]:
    """Of a file in a run folder."""
    return list(torch.load(path / f"{name}.pt", weights_only=True)["model"].values())


@pytest.mark.parametrize(("flags", "scale"), [
    (["--no-shuffle"], 1.0), (["--no-shuffle", "--loss_style", "mean"], 16**-2.0), ([], 1.0),
    (["--loss_style", "relative", "--scheduler", "none"], None), (["--optimizer", "sgd", "--lr", "1e-5"], 1.0)])
def test_is_a_plain_torch_loop(cell: Any, flags: list[str], scale: float | None) -> None:
    settings = cell(*flags)
    train_set, val, test = settings.load()
    model = settings.build(7)
    parameters = list(model.parameters())
    optimizer = (torch.optim.Adam(parameters, 1e-3) if "sgd" not in flags
                 else torch.optim.SGD(parameters, 1e-5, momentum=0.9))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4)

    def relative(samples: Any) -> torch.Tensor:
        error = model(samples.f, samples.coefficients) - samples.u
        return error.flatten(1).norm(dim=1) / samples.u.flatten(1).norm(dim=1)

    def objective(f: torch.Tensor, c: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        difference = (model(f, c) - u).flatten(1)
        if scale is None:
            return (difference.norm(dim=1) / u.flatten(1).norm(dim=1)).mean()
        return scale * (difference**2).sum() / len(f)

    best, best_state, rates = math.inf, {}, []
    for epoch in range(4):
        order = Trainer(settings, settings.run(7), (train_set, val, test), World(CPU))
        order.epoch = epoch
        for rows in order.order().split(5):
            optimizer.zero_grad()
            objective(train_set.f[rows], train_set.coefficients[rows], train_set.u[rows]).backward()
            optimizer.step()
        rates.append(optimizer.param_groups[0]["lr"])
        if "none" not in flags:
            schedule.step()
        with torch.no_grad():
            loss = float(objective(val.f, val.coefficients, val.u))
        if loss < best:
            best, best_state, best_error = loss, {k: v.clone() for k, v in model.state_dict().items()}, relative(val)
    result = trained(settings, 7)
    path = settings.run(7).path
    for ours, theirs in zip(weights(path), parameters, strict=True):
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-9, atol=1e-11)
    assert result["train_loss"] == pytest.approx(relative(train_set).mean().item(), rel=1e-9)
    assert result["metrics"]["test_error_last"] == pytest.approx(relative(test).mean().item(), rel=1e-9)
    model.load_state_dict(best_state)
    assert result["test_error"] == pytest.approx(relative(test).mean().item(), rel=1e-9)
    assert result["metrics"]["val_error"] == pytest.approx(best_error.mean().item(), rel=1e-9)
    assert result["metrics"]["val_objective"] == pytest.approx(best, rel=1e-9)
    assert [float(row["learning_rate"]) for row in result["history"]] == pytest.approx(rates)
    assert result["iterations"] == 4 * 3 and result["status"] == "finished"


def test_curvature_changes_nothing_else(cell: Any) -> None:
    """Lines of their own for epochs 0 and 3, and the last; the same run otherwise, also interrupted in between."""
    plain = trained(cell("--log_every", "2"))
    watched = trained(cell("--log_every", "2", "--hessian_every", "3", "--force"), steps=2)
    assert [(row["epoch"], bool(row["lambda_max"])) for row in watched["history"]] == [
        ("0", True), ("2", False), ("3", True), ("4", True)]
    values = [float(row["lambda_max"]) for row in watched["history"] if row["lambda_max"]]
    assert min(values) > 2 * 16**2 and watched["metrics"]["lambda_max"] == values[-1] != values[0]
    names = ("lambda_max", "lambda_max_residual")
    for row in watched["history"]:
        assert not row["lambda_max"] or 0 <= float(row[names[1]]) <= 1e-3 * float(row[names[0]])
        for name in names:
            row.pop(name)
    for name in names:
        watched["metrics"].pop(name)
    watched["history"] = [row for row in watched["history"] if row["epoch"] in ("2", "4")]
    assert watched == plain


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 7])
def test_interrupted_after_any_step_it_ends_in_the_same_bits(cell: Any, steps: int) -> None:
    """Three steps an epoch: the checkpoints lie within epochs and at their ends, before and after validations."""
    whole = trained(cell("--val_every", "2"), 3)
    again = trained(cell("--val_every", "2", "--force"), 3, steps)
    assert again == whole
    assert [bool(row["val_error"]) for row in whole["history"]] == [False, True, False, True]


def test_killed_and_stopped_as_a_process_it_ends_in_the_same_bits(data: Path, tmp_path: Path) -> None:
    """SIGKILL, SIGTERM and SIGUSR1 at moments spread over the run, checkpoints after every step."""
    yaml = small.write_yaml(tmp_path / "tiny.yaml", batch_size=4, max_epochs=40, val_subsample=2)
    command = [sys.executable, str(TESTS.parent / "train.py"), "--yaml_config", str(yaml), "--config", "tiny",
               "--data_dir", str(data), "--subsample", "2", "--seed", "1", "--checkpoint_every", "0", "--root_dir"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    assert subprocess.run([*command, "whole"], cwd=tmp_path, env=environment, capture_output=True).returncode == 0
    (path,) = (p.parent for p in (tmp_path / "whole").rglob("metrics.json"))
    broken = tmp_path / "broken" / path.relative_to(tmp_path / "whole")
    codes = []
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGUSR1, None):
        process = subprocess.Popen([*command, "broken"], cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
        checkpoint, before = broken / "checkpoint.pt", time.time_ns()
        while number and process.poll() is None:  # until this process has written some checkpoints of its own
            with suppress(FileNotFoundError):  # between two of them
                if checkpoint.stat().st_mtime_ns > before + 10**8:
                    process.send_signal(number)
                    break
            time.sleep(0.002)
        codes.append(process.wait())
    assert codes == [-9, 75, -9, 75, 0]
    assert outcome(broken) == outcome(path)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_blocks_of_a_batch_add_up_to_it(cell: Any, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trained(cell())
    before = weights(cell().run(0).path)
    monkeypatch.setattr(Settings, "block", count)
    blocks = trained(cell("--force"))
    for ours, theirs in zip(weights(cell().run(0).path), before, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    assert blocks["test_error"] == pytest.approx(whole["test_error"], rel=1e-9)


def test_order_is_a_permutation_of_its_own_for_every_epoch_and_seed(cell: Any) -> None:
    settings = cell()
    orders = set()
    for seed in (0, 1):
        trainer = Trainer(settings, settings.run(seed), settings.load(), World(CPU))
        for epoch in (0, 1):
            trainer.epoch = epoch
            orders.add(tuple(trainer.order().tolist()))
            assert sorted(trainer.order().tolist()) == list(range(12))
    assert len(orders) == 4
    plain = replace(settings, config=replace(settings.config, shuffle=False))
    assert Trainer(plain, plain.run(0), plain.load(), World(CPU)).order().tolist() == list(range(12))


def test_a_run_that_raises_leaves_the_others_alone(cell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, build = cell(), Settings.build
    monkeypatch.setattr(Settings, "build", lambda self, seed: build(self, seed) if seed else 1 / 0)
    runs = settings.runs([0, 1])
    assert train(settings, runs, World(CPU)) == 1
    assert json.loads((runs[0].path / "failed.json").read_text())["error"].startswith("ZeroDivisionError")
    assert runs[1].is_done() and not (runs[0].path / "metrics.json").exists()


def launch(processes: int, *arguments: object, cwd: Path) -> subprocess.Popen[str]:
    """train.py under torchrun."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes),
               str(TESTS.parent / "train.py"), *map(str, arguments)]
    return subprocess.Popen(command, cwd=cwd, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE,
                            text=True)


def same(path: Path, other: Path) -> None:
    """Last and best weights and results agree up to rounding, initial weights to the bit."""
    for name in ("model", "model_best"):
        for ours, theirs in zip(weights(path, name), weights(other, name), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-11)
    a, b = outcome(path), outcome(other)
    for result in (a, b):
        result["metrics"].pop("processes")
    assert a["model_init"] == b["model_init"] and a["iterations"] == b["iterations"]
    assert a["metrics"] == pytest.approx(b["metrics"], rel=1e-8)
    assert (a["train_loss"], a["test_error"]) == pytest.approx((b["train_loss"], b["test_error"]), rel=1e-8)


def test_two_processes_take_the_steps_of_one(cell: Any, data: Path, tmp_path: Path) -> None:
    """Batches of 1 and of 5 or 2 samples over two processes; a run that these began is ended by one."""
    flags = ["--yaml_config", tmp_path / "tiny.yaml", "--config", "tiny", "--data_dir", data, "--subsample", "2",
             "--device", "cpu", "--precision", "float64", "--root_dir", "two"]
    settings = cell("--batch_size", "1")  # the second process has nothing to do but to keep in step
    folder = settings.run(0).path.relative_to(tmp_path / "runs")
    trained(settings)
    process = launch(2, *flags, "--seed", "0", "--batch_size", "1", cwd=tmp_path)
    errors = process.communicate()[1]
    assert process.returncode == 0, errors
    assert json.loads((tmp_path / "two" / folder / "metrics.json").read_text())["metrics"]["processes"] == 2
    same(tmp_path / "two" / folder, tmp_path / "runs" / folder)

    long = cell("--max_epochs", "200", "--force")
    trained(long)
    flags += ["--max_epochs", "200", "--force", "--checkpoint_every", "0"]
    process = launch(2, *flags, "--seed", "0", cwd=tmp_path)
    checkpoint = tmp_path / "two" / folder / "checkpoint.pt"
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.01)
    process.terminate()
    assert "stopped by SIGTERM and saved" in process.communicate()[1] and process.returncode != 0
    assert checkpoint.exists()
    alone = cell("--max_epochs", "200", save_path=tmp_path / "two")
    assert train(alone, alone.runs([0]), World(CPU)) == 0
    same(tmp_path / "two" / folder, tmp_path / "runs" / folder)
