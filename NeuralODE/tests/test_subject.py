"""A finished run as the landscape tools see it: the numbers of its metrics.json, derivatives, layers; the command."""

from __future__ import annotations

import argparse
import csv
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import diagnose  # noqa: E402
from node import diagnosis_tools  # noqa: E402
from node import train as training  # noqa: E402
from node.arguments import parse  # noqa: E402
from node.data import make_pairs  # noqa: E402
from node.files import UsageError, write_json  # noqa: E402
from node.hessian import hessian_product  # noqa: E402
from node.objective import Objective  # noqa: E402
from node.pendulum import TEST_START, trajectory  # noqa: E402
from node.subject import NodeSubject, open_subject  # noqa: E402

for number in diagnose.STOPS:  # taken as it is imported, and not meant for the tests
    signal.signal(number, signal.SIG_DFL)

DOUBLE, CPU = torch.float64, argparse.Namespace(device=torch.device("cpu"))
TINY = "--budget smoke --hidden 4 --test-horizon 1 --horizon-values 0.5 --inv-b-values 4 --device cpu"
LBFGS = "--optimizer LBFGS --lbfgs-max-iter 8"

#: Problems, and strategies that minimise something else than the reported loss.
RUNS = {
    "pinn": f"{LBFGS} --physics-mode pinn --lamb 0.5", "none": "--optimizer Adam --physics-mode none --epochs 2",
    "sphere": "--physics-mode sphere --constraint-method alm --alm-outer-iters 2 --lbfgs-max-iter 4",
    "rollout": "--optimizer LBFGS --lbfgs-max-iter 2 --physics-mode pinn --integrator rk4 --training rollout",
    "dopri5": "--optimizer LBFGS --lbfgs-max-iter 2 --physics-mode none --state raw --integrator dopri5",
    "region": f"{LBFGS} --physics-mode pinn_region --loss-scale paper",
    "chain": "--cl-warmup --cl-inv-delta 2 --alm-outer-iters 2 --lbfgs-max-iter 4",
    "double": f"{LBFGS} --physics-mode pinn --precision float64",
}


def train(arguments: str, path: Path) -> list[Path]:
    """Train tiny runs side by side; gives their folders."""
    sweep = parse([*shlex.split(f"{TINY} {arguments}"), "--out-dir", str(path)])
    assert training.train(sweep.settings, [sweep.settings.run(*cell) for cell in sweep.cells]) == 0
    return sorted(file.parent for file in path.rglob("metrics.json"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each kind."""
    path = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Objective, "results", lambda *_: {})  # numbers that nobody asks for here
        return {name: train(f"{arguments} --seeds 0", path / name)[0] for name, arguments in RUNS.items()}


@pytest.fixture
def folder(trained: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the run `pinn`, at the same place below another output folder."""
    return Path(shutil.copytree(trained["pinn"], tmp_path.joinpath(*trained["pinn"].parts[-6:])))


def subject(folder: Path, dtype: torch.dtype | None = DOUBLE) -> NodeSubject:
    """The run, in float64."""
    return open_subject(folder, CPU, dtype)


def networks(like: NodeSubject, count: int, seed: int = 0) -> list[Tensor]:
    """Networks in the neighbourhood of the final weights, (count, ...) each."""
    generator = torch.Generator().manual_seed(seed)
    return [p + 0.1 * torch.randn(count, *p.shape[1:], generator=generator, dtype=DOUBLE).to(p)
            for p in like.weights("final")]


def edit(path: Path, **changes: Any) -> None:
    """Change entries of a JSON file."""
    write_json(path, json.loads(path.read_text()) | changes)


# ---- loss and error ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", RUNS)
def test_loss_and_error_of_the_training(trained: dict[str, Path], name: str) -> None:
    """Exactly L and the rollout error of metrics.json, in the training's precision, and those that it began with."""
    one, result = subject(trained[name], None), json.loads((trained[name] / "metrics.json").read_text())
    final = one.weights("final")
    assert one.losses(final).tolist() == [result["metrics"]["loss_total"]]
    assert one.errors(final).tolist() == [result["test_error"]]
    assert (one.losses(final) > 0).all() and one.losses(final).dtype == one.errors(final).dtype == DOUBLE
    with open(trained[name] / "history.csv", newline="") as file:
        first = next(csv.DictReader(file))
    if name != "chain":  # which begins at another 1/b
        initial = one.weights("initial")
        assert [one.losses(initial).item(), one.errors(initial).item()] == [
            float(first["loss_total"]), float(first["test_error"])]


@pytest.mark.parametrize("name", ["pinn", "sphere", "rollout", "dopri5"])
def test_networks_side_by_side(trained: dict[str, Path], name: str) -> None:
    """Losses, errors and gradients of five networks, in blocks of two, are those of each alone."""
    one = subject(trained[name])
    params = networks(one, 5)
    assert one.batch == (1 if name == "dopri5" else 2**15 // 9)
    one.batch = min(one.batch, 2)
    losses, errors, (values, gradients) = one.losses(params), one.errors(params), one.loss_and_gradients(params, 0)
    assert len(set(losses.tolist())) == 5 and torch.equal(values, losses)
    for k in range(5):
        alone = [p[k:k + 1] for p in params]
        torch.testing.assert_close(losses[k:k + 1], one.losses(alone), rtol=1e-12, atol=0)
        torch.testing.assert_close(errors[k:k + 1], one.errors(alone), rtol=1e-12, atol=0)
        for g, own in zip(gradients, one.loss_and_gradients(alone, 7)[1], strict=True):
            torch.testing.assert_close(g[k:k + 1], own, rtol=1e-9, atol=1e-12)


# ---- derivatives -------------------------------------------------------------------------------


def test_loss_gradient_and_hessian_against_the_formula(trained: dict[str, Path]) -> None:
    """float64: L written out for one network, with torch.func's derivatives; all columns of H by batches of vectors."""
    one = subject(trained["pinn"])
    pairs = make_pairs(4.0, 0.5, 0.05)
    x, target, field = (torch.tensor(array) for array in (pairs.x, pairs.target, pairs.field))
    weights = one.weights("final")
    sizes, shapes = [p.numel() for p in weights], [p.shape[1:] for p in weights]

    def loss(flat: Tensor) -> Tensor:
        w = [part.view(shape) for part, shape in zip(flat.split(sizes), shapes, strict=True)]
        f = x
        for k in range(4):
            f = f @ w[k] + w[4 + k]
            f = f.tanh() if k < 3 else f
        return (x + 0.05 * f - target).square().mean() + 0.5 * 0.05**2 * (f - field).square().mean()

    flat = torch.cat([p.flatten() for p in weights])
    torch.testing.assert_close(one.losses(weights), loss(flat)[None], rtol=1e-12, atol=0)
    gradient = torch.cat([g.flatten() for g in one.loss_and_gradients(weights, 0)[1]])
    torch.testing.assert_close(gradient, torch.func.grad(loss)(flat), rtol=1e-10, atol=1e-15)
    leaves = [p.requires_grad_() for p in weights]
    product = hessian_product(one.gradients(leaves), leaves, torch.arange(1))
    expected, eye = torch.func.hessian(loss)(flat), torch.eye(len(flat), dtype=DOUBLE)
    found = torch.cat([product(part[:, None])[:, 0] for part in eye.split(one.chunk)])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(product(eye[:1]), expected[:1], rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("name", ["sphere", "rollout", "dopri5"])
def test_hessian_against_differences(trained: dict[str, Path], name: str) -> None:
    """float64: products, one vector or several at a time, are central differences of the gradients."""
    one = subject(trained[name])
    weights, steps = [p.requires_grad_() for p in one.weights("final")], networks(one, 3, seed=1)
    directions = [s - w.detach() for s, w in zip(steps, weights, strict=True)]
    ends = [one.loss_and_gradients([w.detach() + h * d for w, d in zip(weights, directions, strict=True)], 0)[1]
            for h in (1e-4, -1e-4)]
    expected = torch.cat([(a - b).flatten(1) / 2e-4 for a, b in zip(*ends, strict=True)], 1)
    product = hessian_product(one.gradients(weights), weights, torch.arange(1))
    v = torch.cat([d.flatten(1) for d in directions], 1)
    found = product(v[:, None])[:, 0]
    assert (found - expected).norm() < 1e-5 * expected.norm()
    torch.testing.assert_close(product(v[:1]), found[:1], rtol=1e-9, atol=1e-12)


# ---- layers and descriptions -------------------------------------------------------------------


def test_features(trained: dict[str, Path]) -> None:
    """tanh layers and output at states of the test trajectory, all of them or evenly spaced."""
    one = subject(trained["pinn"])
    weights, states = one.weights("final"), torch.tensor(trajectory(4.0, 1.0, 0.05, TEST_START, "paper"))
    found = one.features(weights, 1000)
    assert list(found) == ["hidden 1", "hidden 2", "hidden 3", "output"]
    assert [tuple(x.shape) for x in found.values()] == [(20, 4)] * 3 + [(20, 2)]
    torch.testing.assert_close(found["hidden 1"], (states @ weights[0][0] + weights[4][0]).tanh())
    torch.testing.assert_close(found["output"], found["hidden 3"] @ weights[3][0] + weights[7][0])
    few = one.features(weights, 3)
    rows = np.array([0, 10, 19])
    assert all(torch.equal(few[layer], found[layer][rows]) for layer in found)


def test_description(trained: dict[str, Path]) -> None:
    """Filters number the neurons of a layer; runs of one loss share their task, others say in what they differ."""
    one = subject(trained["pinn"])
    assert one.title == "PINODE, pendulum, 1/b = 4, T = 0.5, n = 10, lbfgs, seed 0"
    assert one.data == "all 9 pairs of the training trajectory"
    weights = one.weights("final")
    for p, axis, bias in zip(weights[:4], one.filters, weights[4:], strict=False):
        assert p.shape[1:][axis] == bias.numel()
    assert one.filters[4:] == [None] * 4 and len(one.names) == len(one.filters) == 8
    tasks = {name: subject(path).task for name, path in trained.items()}
    differ = {name: {key for key in task if task[key] != tasks["region"][key]} for name, task in tasks.items()}
    assert differ == {
        "pinn": {"lamb"}, "none": {"physics_mode", "state"}, "sphere": {"physics_mode", "state"},
        "rollout": {"integrator", "training"}, "dopri5": {"physics_mode", "integrator"}, "region": set(),
        "chain": set(), "double": {"precision"}}


# ---- what cannot be opened ---------------------------------------------------------------------


def test_folders_that_cannot_be_opened(folder: Path) -> None:
    """One line that says what is wanted."""
    metrics, config = folder / "metrics.json", folder / "config.json"
    kept = {path: path.read_text() for path in (metrics, config)}
    for path, changes, words in [
            (metrics, {"module": "PINN"}, "must hold a run of NeuralODE, but it is one of PINN"),
            (config, {"hidden": None}, "config.json is damaged: TypeError"),
            (config, {"optimizer": "Nadam"}, "config.json is damaged: KeyError: 'Nadam'"),
            (config, {"options": {"lbfgs_speed": 3}}, "unknown option 'lbfgs_speed'"),
            (config, {"more": 1}, "has other arguments than this version writes: more"),
            (config, {"inv_b": 5.0}, "must end with what its config.json says: pendulum/lbfgs/inv_b_5/n_10/seed_0")]:
        edit(path, **changes)
        with pytest.raises(UsageError, match=words):
            subject(folder)
        path.write_text(kept[path])
    edit(config, hidden=[5, 4, 4])
    with pytest.raises(UsageError, match="model.pt holds the weights of another network than config.json describes"):
        subject(folder).weights("final")
    config.write_text(kept[config])
    (folder / "model.pt").unlink()
    assert len(subject(folder).weights("initial")) == 8
    with pytest.raises(UsageError, match="has no model.pt"):
        subject(folder).weights("final")
    metrics.unlink()
    with pytest.raises(UsageError, match="must hold a finished run, but has no metrics.json"):
        subject(folder)


def test_weights_that_the_training_began_with(folder: Path, tmp_path: Path) -> None:
    """Those of --alm-init-ckpt; once they are gone that is said, and the final ones are still there."""
    other, = train(f"--physics-mode pinn_alm --alm-outer-iters 1 --lbfgs-max-iter 2 --seeds 0 --alm-init-ckpt "
                   f"{tmp_path / folder.parts[-6]}", tmp_path / "from")
    began, there = subject(other, None).weights("initial"), subject(folder, None).weights("final")
    assert all(torch.equal(a, b) for a, b in zip(began, there, strict=True))
    (folder / "model.pt").unlink()
    with pytest.raises(UsageError, match=f"{other}: the weights that it began with are gone .--alm-init-ckpt"):
        subject(other).weights("initial")
    assert len(subject(other).weights("final")) == 8


# ---- the command -------------------------------------------------------------------------------


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """All four tools on two seeds, by relative paths from another directory; a process that finds no run."""
    a, b = train(f"{LBFGS} --physics-mode pinn --seeds 0 1", tmp_path / "runs")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    kept = {path: path.read_bytes() for path in (*a.iterdir(), *b.iterdir())}
    paths = [os.path.relpath(folder) for folder in (a, b)]

    # pictures are half of the time: PINN's test_drawing.py and test_command paint them
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, file, **_: file.write(b"a picture"))
    monkeypatch.setattr(diagnosis_tools, "interactive_surface", lambda *_: "a page")

    def command(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["diagnose.py", *words])
        code = diagnose.main()
        for number in diagnose.STOPS:
            signal.signal(number, signal.SIG_DFL)
        return code

    done = subprocess.run([sys.executable, str(TESTS.parent / "diagnose.py"), "hessian", "nowhere"], text=True,
                          capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert (done.returncode, done.stderr) == (2, f"error: RUN_FOLDER {elsewhere}/nowhere: there is no such folder\n")
    assert command("hessian", paths[0], "--device", "cpu") == 0 and "final: loss" in capsys.readouterr().out
    assert command("landscape", paths[0], "--grid", "5", "--line_points", "11", "--device", "cpu") == 0
    assert command("connectivity", *paths, "--steps", "5", "--points", "5", "--curves", "bezier", "--device",
                   "cpu") == 0
    assert command("similarity", *paths, "--device", "cpu") == 0
    found = {path.stem: json.loads(path.read_text()) for path in a.glob("*.json")}
    result = found["metrics"]
    final = found["hessian"]["states"]["final"]
    assert final["method"] == "dense"
    assert final["loss"] == pytest.approx(result["metrics"]["loss_total"], rel=1e-5)
    one = subject(a)
    weights = [p.requires_grad_() for p in one.weights("final")]
    columns = hessian_product(one.gradients(weights), weights, torch.arange(1))(torch.eye(62, dtype=DOUBLE)[:, None])
    assert final["lambda_max"] == pytest.approx(torch.linalg.eigvalsh(columns[:, 0])[-1].item(), rel=1e-9)
    assert found["landscape"]["loss"] == result["metrics"]["loss_total"]
    path = found["connectivity_lbfgs-inv_b_4-n_10-seed_1"]
    others = json.loads((b / "metrics.json").read_text())
    assert path["ends"]["loss"] == pytest.approx([r["metrics"]["loss_total"] for r in (result, others)], rel=1e-6)
    assert path["ends"]["error"] == pytest.approx([r["test_error"] for r in (result, others)], rel=1e-5)
    assert found["similarity"]["layers"] == ["hidden 1", "hidden 2", "hidden 3", "output"]
    assert kept == {path: path.read_bytes() for path in kept}, "nothing of the runs has changed"
    assert command("landscape", paths[0], "--at", "best") == 2
