"""The training loop: against a plain torch loop, interrupted at every step, step lengths, and the Hessian."""

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

import pyhessian
import pytest
import torch
from torch.nn.functional import cross_entropy

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import small  # noqa: E402
from cnn import arguments  # noqa: E402
from cnn.data import Augment, normalise  # noqa: E402
from cnn.objective import PROBE  # noqa: E402
from cnn.settings import Recording, Settings  # noqa: E402
from cnn.train import Trainer, train  # noqa: E402


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set."""
    return small.make_data(tmp_path_factory.mktemp("data"), 60, 30)


@pytest.fixture
def cell(data: Path, tmp_path: Path) -> Any:
    """Make the settings of a cell of 30 images in batches of 12, in float64."""

    def make(*flags: str, trajectory: bool = False, **changes: Any) -> Settings:
        words = ["--model", "ResNet18_w8", "--data_dir", str(data), "--no-verify", "--n_samples", "30", "--batch_size",
                 "12", "--save_path", str(tmp_path / "runs"), "--device", "cpu", *flags]
        words += [] if "--precision" in flags else ["--precision", "float64"]
        words += [] if trajectory or "--epochs" in flags else ["--epochs", "3"]
        args = arguments.parse(words, trajectory)
        return replace(arguments.settings(args, trajectory)[0], **changes)
    return make


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hessians of a few images: which ones does not matter for when they are computed and what follows."""
    monkeypatch.setattr("cnn.train.probe", lambda train: train.select(slice(5)))


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
    for _ in range(200):
        run.prepare(settings.force)
        Trainer(settings, run).train(Stop(steps))
        run.release()
        settings = replace(settings, force=False)
        if run.is_done():
            return outcome(run.path)
    raise AssertionError("it does not end")


def outcome(path: Path) -> dict[str, Any]:
    """Result, history, step lengths and weights of a run, without what may differ between two executions."""
    recorded = {"steps.csv", "steps.json", "steps.png"} if (path / "steps.json").exists() else set()
    assert {p.name for p in path.iterdir()} - recorded == {"config.json", "history.csv", "metrics.json", "model.pt"}
    result = json.loads((path / "metrics.json").read_text())
    for name in ("seconds", "environment", "config"):
        result.pop(name)
    with open(path / "history.csv", newline="") as file:
        result["history"] = [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]
    for name in recorded - {"steps.png"}:
        result[name] = (path / name).read_text()
    state = torch.load(path / "model.pt", weights_only=True)["model"]
    return result | {"model": {key: value.contiguous().numpy().tobytes() for key, value in state.items()}}


def by_hand(settings: Settings, seed: int, epochs: int) -> Any:
    """A plain torch loop, an item a step: (epoch, network, loss of the batch, weights before), and after the last."""
    images, _ = settings.load()
    model = settings.build(seed).train()
    optimizer = torch.optim.SGD(model.parameters(), settings.lr, settings.momentum,
                                weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    stream = Trainer(settings, settings.run(seed))
    for epoch in range(epochs):
        stream.epoch = epoch
        order, draws = stream.shuffle()
        for k in range(0, len(images), settings.batch):
            rows = order[k : k + settings.batch]
            pixels = Augment(settings.augment).apply(images.pixels[rows], draws[k : k + settings.batch])
            optimizer.zero_grad()
            loss = cross_entropy(model(normalise(pixels, "CIFAR-10", settings.dtype)), images.labels[rows])
            loss.backward()
            before = [p.detach().clone() for p in model.parameters()]
            optimizer.step()
            yield epoch, model, loss.item() * len(rows), before
        if settings.schedule == "cosine":
            schedule.step()


@torch.no_grad()
def evaluated(model: torch.nn.Module, images: Any) -> tuple[float, float]:
    """Cross-entropy and share of wrong labels."""
    logits = model.eval()(normalise(images.pixels, "CIFAR-10", torch.float64))
    return cross_entropy(logits, images.labels).item(), (logits.argmax(1) != images.labels).double().mean().item()


@pytest.mark.parametrize("flags", [
    [], ["--augment", "crop+flip", "--momentum", "0", "--init", "torch"],
    ["--augment", "none", "--schedule", "constant", "--weight_decay", "0", "--lr", "0.01"]])
def test_is_a_plain_torch_loop(cell: Any, flags: list[str]) -> None:
    settings = cell(*flags)
    result = trained(settings, 7)
    sums = [0.0, 0.0, 0.0]
    for epoch, model, loss, _ in by_hand(settings, 7, 3):  # noqa: B007
        sums[epoch] += loss
    saved = torch.load(settings.run(7).path / "model.pt", weights_only=True)["model"]
    for name, value in model.state_dict().items():
        torch.testing.assert_close(saved[name], value, rtol=1e-8, atol=1e-10)
    (loss, error), (test_loss, test_error) = (evaluated(model, images) for images in settings.load())
    assert result["train_loss"] == pytest.approx(loss, rel=1e-8) and result["test_error"] == test_error
    assert result["metrics"]["test_loss"] == pytest.approx(test_loss, rel=1e-8)
    assert result["metrics"]["train_error"] == error and result["iterations"] == 9
    first, *rows = result["history"]
    assert [float(row["train_loss"]) for row in rows] == pytest.approx([total / 30 for total in sums], rel=1e-8)
    start = evaluated(settings.build(7), settings.load()[0])
    assert (float(first["train_loss"]), float(first["train_error"])) == pytest.approx(start, rel=1e-8)
    rates = [settings.lr] * 3 if "constant" in flags else [settings.lr * f for f in (1, 0.75, 0.25)]
    assert [float(row["learning_rate"]) for row in rows] == pytest.approx(rates)


@pytest.mark.parametrize("recorded", [0, 6, 8])
@pytest.mark.usefixtures("quick")
def test_interrupted_after_any_step_it_ends_in_the_same_bits(cell: Any, recorded: int) -> None:
    """Three steps an epoch; a trajectory is recorded from the second epoch on, to the end of one or not."""
    flags = ["--precision", "float32", *(["--max_epochs", "1", "--steps", str(recorded)] if recorded else
                                         ["--augment", "crop+flip", "--hessian_every", "2"])]
    whole = trained(cell(*flags, trajectory=bool(recorded)), 3)
    assert [int(row["iteration"]) for row in whole["history"]] == [0, 3, 6, 9] + [11] * (recorded == 8)
    for steps in (1, 2, 3):
        assert trained(cell(*flags, "--force", trajectory=bool(recorded)), 3, steps) == whole


def test_killed_and_stopped_as_a_process_it_ends_in_the_same_bits(data: Path, tmp_path: Path) -> None:
    """SIGKILL, SIGTERM and SIGUSR1 within and at the end of epochs of three steps, checkpoints after every step."""
    command = [sys.executable, str(TESTS.parent / "run_exp.py"), "--model", "ResNet18_w8", "--data_dir", str(data),
               "--no-verify", "--batch_size", "20", "--epochs", "8", "--checkpoint_every", "0", "--save_path"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    assert subprocess.run([*command, "whole"], cwd=tmp_path, env=environment, capture_output=True).returncode == 0
    (path,) = (p.parent for p in (tmp_path / "whole").rglob("metrics.json"))
    broken = tmp_path / "broken" / path.relative_to(tmp_path / "whole")
    codes = []
    for number, wanted in ((signal.SIGKILL, 4), (signal.SIGTERM, 8), (signal.SIGUSR1, 3), (None, 0)):
        process = subprocess.Popen([*command, "broken"], cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
        written = {time.time_ns()}  # of the checkpoints of this process
        while number and process.poll() is None:
            with suppress(FileNotFoundError):  # between two of them
                written.add(max(min(written), (broken / "checkpoint.pt").stat().st_mtime_ns))
            if len(written) > wanted:
                process.send_signal(number)
                break
            time.sleep(0.002)
        codes.append(process.wait())
    assert codes == [-9, 75, 75, 0]
    assert outcome(broken) == outcome(path)


# ---- step lengths --------------------------------------------------------------------------------------------------


def test_recorded_are_the_steps_after_the_loss_is_reached(cell: Any) -> None:
    """Against the plain loop: where recording begins, lengths over all weights, losses before each step."""
    settings = cell(trajectory=True, recording=Recording(1.5, 10), epochs=40)
    result = trained(settings, 1)
    first, losses, expected = None, 0.0, []
    for number, (_, model, loss, before) in enumerate(by_hand(settings, 1, 40)):
        if first is not None:
            change = [(p.detach() - q).square().sum() for p, q in zip(model.parameters(), before, strict=True)]
            expected.append((torch.stack(change).sum().sqrt().item(), loss / (6 if number % 3 == 2 else 12)))
        losses += loss
        if number % 3 == 2:
            if first is None and losses / 30 <= 1.5:
                first = number + 1
            losses = 0.0
        if len(expected) == 10:
            break
    assert first and 3 < first < 120  # it is neither the first epoch nor the last
    assert result["metrics"]["first_step"] == first and result["metrics"]["reached"] is True
    assert result["iterations"] == first + 10 and result["stop_reason"] == "budget"
    lines = [line.split(",") for line in result["steps.csv"].splitlines()[1:]]
    assert [int(line[0]) for line in lines] == list(range(10))
    torch.testing.assert_close(torch.tensor([[float(x) for x in line[1:]] for line in lines]), torch.tensor(expected),
                               rtol=1e-6, atol=0)
    stages = {row["stage"]: int(row["iteration"]) for row in result["history"]}  # the last of each
    assert stages == {"sgd": first, "recording": first + 10}
    assert float(result["history"][-1]["train_loss"]) * 12 == pytest.approx(expected[-1][1] * 12, rel=1e-6)
    saved = torch.load(settings.run(1).path / "model.pt", weights_only=True)["model"]
    for name, value in model.state_dict().items():
        torch.testing.assert_close(saved[name], value, rtol=1e-8, atol=1e-10)
    about = json.loads(result["steps.json"])
    assert (about["loss"], about["iteration"], about["unit"], about["lr"]) == (1.5, first, "SGD step", 0.1)


def test_recorded_also_when_the_loss_is_not_reached(cell: Any) -> None:
    """As published, and said; a run that diverges before has nothing to record."""
    result = trained(cell("--max_epochs", "1", "--steps", "12", trajectory=True))
    assert result["metrics"]["reached"] is False and result["metrics"]["first_step"] == 3
    assert json.loads(result["steps.json"])["steps"] == 12
    diverged = trained(cell("--lr", "1e30", "--precision", "float32", trajectory=True))
    assert diverged["status"] == "diverged" and diverged["stop_reason"] == "non_finite"
    assert "steps.csv" not in diverged and diverged["train_loss"] is None and diverged["test_error"] is None


# ---- curvature -----------------------------------------------------------------------------------------------------


def test_highest_eigenvalue_is_pyhessians(tmp_path: Path) -> None:
    """On a trained narrow network, by power iteration; the logged one is that of the weights that are saved."""
    small.make_data(tmp_path / "data", 200, 20)
    args = arguments.parse(["--model", "ResNet18_w8", "--data_dir", str(tmp_path / "data"), "--no-verify", "--epochs",
                            "6", "--batch_size", "20", "--save_path", str(tmp_path), "--hessian_every", "6",
                            "--device", "cpu"], False)
    (settings,) = arguments.settings(args, False)
    result = trained(settings)
    assert result["train_loss"] < 0.5  # it is trained
    images, _ = settings.load()
    model = settings.build(0)
    model.load_state_dict(torch.load(settings.run(0).path / "model.pt", weights_only=True)["model"])
    assert images.labels[:PROBE].bincount().tolist() == [13] * 8 + [12] * 2
    batch = normalise(images.pixels[:PROBE], "CIFAR-10", torch.float32), images.labels[:PROBE]
    torch.manual_seed(0)
    theirs = pyhessian.hessian(model, cross_entropy, data=batch, cuda=False).eigenvalues(maxIter=200, tol=1e-6)[0][0]
    assert theirs > 0 and result["metrics"]["lambda_max"] == pytest.approx(theirs, rel=1e-3)
    column = [row["lambda_max"] for row in result["history"]]
    assert float(column[-1]) == result["metrics"]["lambda_max"] and column[1:-1] == [""] * 5 and float(column[0])


@pytest.mark.usefixtures("quick")
def test_the_eigenvalue_leaves_no_trace(cell: Any) -> None:
    """Weights, running statistics and what follows are the same with and without it."""
    plain, watched = trained(cell("--epochs", "1")), trained(cell("--epochs", "1", "--hessian_every", "1", "--force"))
    for row in watched["history"]:
        assert 0 < float(row.pop("lambda_max_residual")) <= 1e-3 * float(row.pop("lambda_max"))
    for name in ("lambda_max", "lambda_max_residual"):
        watched["metrics"].pop(name)
    assert plain == watched


# ---- failures ------------------------------------------------------------------------------------------------------


def test_a_run_that_raises_leaves_the_others_alone(cell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, build = cell(), Settings.build
    monkeypatch.setattr(Settings, "build", lambda self, seed: build(self, seed) if seed else 1 / 0)
    runs = settings.runs([0, 1])
    assert train(settings, runs) == 1
    assert json.loads((runs[0].path / "failed.json").read_text())["error"].startswith("ZeroDivisionError")
    assert runs[1].is_done() and not (runs[0].path / "metrics.json").exists()


def test_a_signal_after_the_last_step_begins_no_other_run(cell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a run is recorded; the next one is not even built."""
    settings, finish = cell("--epochs", "1"), Trainer.finish

    def stopped(self: Trainer) -> None:
        finish(self)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Trainer, "finish", stopped)
    runs = settings.runs([0, 1])
    assert train(settings, runs) == 75 and runs[0].is_done()
    assert {path.name for path in runs[1].path.iterdir()} == {"config.json"}


def test_a_result_that_cannot_be_written_costs_no_step(cell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk at the end: the next start only records."""
    settings = cell("--max_epochs", "1", "--steps", "4", trajectory=True)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "finish", lambda self: 1 / 0)
        assert train(settings, settings.runs([0])) == 1
    monkeypatch.setattr(Trainer, "step", lambda *_: pytest.fail("a step is made again"))
    assert train(settings, settings.runs([0])) == 0 and outcome(settings.run(0).path)["iterations"] == 7


@pytest.mark.usefixtures("quick")
def test_log_every_hides_no_eigenvalue(cell: Any) -> None:
    rows = trained(cell("--epochs", "3", "--log_every", "2", "--hessian_every", "3"))["history"]
    assert [(row["epoch"], bool(row["lambda_max"])) for row in rows] == [("0", True), ("2", False), ("3", True)]


def test_order_and_augmentation_are_of_their_own_for_every_epoch_and_seed(cell: Any) -> None:
    orders, draws = set(), set()
    for seed in (0, 1):
        trainer = Trainer(cell(), cell().run(seed))
        for trainer.epoch in (0, 1):
            order, draw = trainer.shuffle()
            generator = torch.Generator().manual_seed((seed + 1) * 1_000_003 + trainer.epoch)
            assert order.tolist() == torch.randperm(30, generator=generator).tolist()
            orders.add(tuple(order.tolist()))
            draws.add(tuple(draw.flatten().tolist()))
    assert len(orders) == len(draws) == 4
