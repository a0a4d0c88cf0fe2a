"""Hessian, landscape, connectivity and similarity of tiny trained PINNs: numbers, files, refusals, interruptions."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import diagnose  # noqa: E402
from pinn import diagnosis, diagnosis_tools  # noqa: E402
from pinn.files import UsageError, write_json  # noqa: E402
from pinn.landscape import moved  # noqa: E402
from pinn.subject import PINNSubject, open_subject  # noqa: E402
from run_folders import read_strict  # noqa: E402
from trained import BETA, train  # noqa: E402

for number in diagnose.STOPS:  # taken as it is imported, and not meant for the tests
    signal.signal(number, signal.SIG_DFL)

PLANE = ("--grid", 5, "--line_points", 7, "--batch", 4)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seeds 0 and 1 by L-BFGS in float64, seed 0 by a few Adam steps, below one save path."""
    path = tmp_path_factory.mktemp("trained")
    train(f"{BETA} --precision float64 --iterations 60 --initial_seed 0", path)
    train(f"{BETA} --precision float64 --iterations 60 --initial_seed 1", path)
    train(f"{BETA} --precision float64 --opt adam --iterations 5 --initial_seed 0", path)
    return path / "convection"


@pytest.fixture
def runs(trained: Path, tmp_path: Path) -> list[Path]:
    """Copies of them."""
    copy = Path(shutil.copytree(trained, tmp_path / "convection"))
    cells = [("lbfgs", 0), ("lbfgs", 1), ("adam", 0)]
    return [copy / strategy / "beta_2/n_30" / f"seed_{seed}" for strategy, seed in cells]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are laid out but not painted: test_drawing.py and test_command do."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda self, file, **_: file.write(b"a picture"))
    monkeypatch.setattr(diagnosis_tools, "interactive_surface", lambda *_: "a page")


def call(*arguments: object) -> int:
    """A subcommand, in this process."""
    args = diagnose.make_parser().parse_args([*map(str, arguments)])
    return args.tool(args)


def opened(folder: Path) -> PINNSubject:
    """The subject, in float64 on the CPU."""
    return PINNSubject(folder, torch.device("cpu"), torch.float64)


def files(folder: Path) -> dict[str, bytes]:
    """What lies in a run folder."""
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def exact_hessian(subject: PINNSubject, state: str) -> np.ndarray:
    """The Hessian (p, p) by autograd on the plain loss."""
    params = subject.weights(state)
    shapes = [p.shape for p in params]

    def loss(x: torch.Tensor) -> torch.Tensor:
        pieces = x.split([s.numel() for s in shapes])
        return subject._objective(1).losses([p.view(s) for p, s in zip(pieces, shapes, strict=True)],
                                            torch.arange(1)).sum()
    return torch.autograd.functional.hessian(loss, torch.cat([p.flatten() for p in params])).numpy()


# ---- hessian -----------------------------------------------------------------------------------


def test_errors_of_a_single_sample_are_left_out() -> None:
    """They are NaN."""
    assert diagnosis_tools.give_or_take(0.25, "+-", ".1f") == " +- 0.2"
    assert diagnosis_tools.share({"below": 0.1, "below_error": np.nan, "below_bounds": [0.1, 0.1]}, "below") == "10.0 %"


def test_hessian_is_that_of_the_training_loss(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    """All eigenvalues of a small network exactly, before and after; by Lanczos its ends, trace and masses."""
    folder, kept = runs[0], files(runs[0])
    assert call("hessian", folder, "--top", 3) == 0
    assert call("hessian", folder, "--top", 3, "--method", "lanczos", "--iterations", 30, "--name", "other",
                "--at", "final", "--chunk", 4) == 0
    found, arrays = read_strict(folder / "hessian.json"), np.load(folder / "hessian.npz")
    for state in ("initial", "final"):
        exact, s = np.linalg.eigvalsh(exact_hessian(opened(folder), state)), found["states"][state]
        np.testing.assert_allclose(arrays[f"{state}_eigenvalues"], exact, rtol=1e-8, atol=1e-9)
        assert (s["highest"], s["lowest"]) == (pytest.approx(exact[:-4:-1]), pytest.approx(exact[:3]))
        assert (s["lambda_max"], s["lambda_min"]) == (pytest.approx(exact[-1]), pytest.approx(exact[0]))
        assert s["trace"] == pytest.approx(exact.sum()) and s["products"] == found["parameters"] == len(exact)
        zero = 1e-6 * abs(exact).max()
        assert s["mass"]["threshold"] == pytest.approx(zero)
        assert (s["mass"]["below"], s["mass"]["within"]) == (pytest.approx((exact < -zero).mean()),
                                                             pytest.approx((abs(exact) <= zero).mean()))
        assert arrays[f"{state}_weights"].sum() == pytest.approx(1)
    lanczos = read_strict(folder / "other.json")["states"]["final"]
    assert lanczos["highest"] == pytest.approx(s["highest"], rel=1e-6) and lanczos["method"] == "lanczos"
    assert abs(lanczos["trace"] - s["trace"]) < 3 * lanczos["trace_error"] + 1e-9
    assert abs(lanczos["mass"]["within"] - s["mass"]["within"]) < 0.2
    assert s["loss"] == pytest.approx(read_strict(folder / "metrics.json")["train_loss"], rel=1e-12)
    assert found["loss_name"] == "training loss"
    new = {f"{name}.{ending}" for name in ("hessian", "other") for ending in ("json", "npz", "png")}
    assert {name: data for name, data in files(folder).items() if name not in new} == kept
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and lines[1].startswith(f"{folder}: final: loss ") and " mass below -eps " in lines[1]


def test_hessian_of_some_parameters(runs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A subject's restrictions are blocks of the matrix; its lower bound is divided by."""
    subject = opened(runs[0])
    some = [filters is not None for filters in subject.filters]
    monkeypatch.setattr(PINNSubject, "restrictions", {"without_biases": some})
    monkeypatch.setattr(PINNSubject, "floor", 2.0)
    assert call("hessian", runs[0], "--at", "final") == 0
    found = read_strict(runs[0] / "hessian.json")["states"]["final"]
    kept = np.repeat(some, [p.numel() for p in subject.weights("final")])
    block = exact_hessian(subject, "final")[np.ix_(kept, kept)]
    assert found["restricted"]["without_biases"]["lambda_max"] == pytest.approx(np.linalg.eigvalsh(block)[-1], rel=1e-5)
    assert found["lambda_max_over_floor"] == found["lambda_max"] / 2


def test_a_diverged_run(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    """The initial spectrum is there, the final one is said to be missing; the other tools refuse the run."""
    model = torch.load(runs[0] / "model.pt", weights_only=True)
    model["params"][0].fill_(torch.nan)
    torch.save(model, runs[0] / "model.pt")
    assert call("hessian", runs[0]) == 0
    states = read_strict(runs[0] / "hessian.json")["states"]
    assert states["final"] == {"finite": False, "loss": None} and states["initial"]["lambda_max"] > 0
    assert f"{runs[0]}: final: weights, loss or Hessian are not finite" in capsys.readouterr().err
    assert call("hessian", runs[0], "--at", "final", "--name", "final") == 0, "a picture of nothing"
    for arguments in (["landscape", runs[0]], ["connectivity", runs[1], runs[0]], ["similarity", *runs]):
        with pytest.raises(UsageError, match=f"RUN_FOLDER {runs[0]}: its final weights are not finite"):
            call(*arguments)


# ---- landscape ---------------------------------------------------------------------------------


def test_landscape(runs: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The recorded loss at the centre, to the last digit; curvatures along the unit directions are the eigenvalues,
    whose vectors do not depend on the seed.
    """
    folder, kept, count = runs[0], files(runs[0]), []
    monkeypatch.setattr(diagnose.subject, "open_subject", lambda *words: count.append(words) or open_subject(*words))
    assert call("landscape", folder, *PLANE) == 0
    found, arrays = read_strict(folder / "landscape.json"), np.load(folder / "landscape.npz")
    assert len(count) == 2, "looked at, then worked on: the Hessian is of the same precision"
    assert " eigenvalues " in capsys.readouterr().out and found["loss_name"] == "training loss"
    loss = read_strict(folder / "metrics.json")["train_loss"]
    assert found["loss"] == arrays["loss"][2, 2] == arrays["line_1"][3] == arrays["line_2"][3] == loss
    assert arrays["loss"].shape == (5, 5) and arrays["a"].tolist() == arrays["b"].tolist() == [-.5, -.25, 0, .25, .5]
    assert arrays["line"][0] == -0.5 and arrays["line_1"][0] == pytest.approx(arrays["loss"][0, 2], rel=1e-12)
    new = {f"landscape.{ending}" for ending in ("json", "npz", "png", "html")}
    assert {name: data for name, data in files(folder).items() if name not in new} == kept

    assert call("landscape", folder, *PLANE, "--normalise", "none", "--radius", 1e-3, "--name", "near") == 0
    near, exact = np.load(folder / "near.npz"), np.linalg.eigvalsh(exact_hessian(opened(folder), "final"))
    values = read_strict(folder / "near.json")["eigenvalues"]
    assert values == pytest.approx(exact[:-3:-1], rel=1e-6)
    for line, value in zip((near["line_1"], near["line_2"]), values, strict=True):
        assert (line[0] + line[-1] - 2 * line[3]) / 1e-6 == pytest.approx(value, rel=1e-2)
    for seed in (1, 2):
        assert call("landscape", folder, *PLANE, "--seed", seed, "--name", f"seed_{seed}") == 0
        with np.load(folder / f"seed_{seed}.npz") as other:
            np.testing.assert_allclose(other["loss"], arrays["loss"], rtol=1e-6)
    assert abs(arrays["line_1"][0] / arrays["line_1"][-1] - 1) > 1e-3, "the sign matters"


def test_random_directions_of_the_initial_weights(runs: list[Path], monkeypatch: pytest.MonkeyPatch,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    """Filters of the directions are as long as those of the weights, biases do not move; no page without plotly."""
    monkeypatch.setattr(diagnosis_tools, "find_spec", lambda name: None)
    assert call("landscape", runs[2], *PLANE, "--directions", "random", "--seed", 3, "--at", "initial") == 0
    assert "plotly is not installed: no landscape.html" in capsys.readouterr().err
    assert not (runs[2] / "landscape.html").exists()
    found, subject = read_strict(runs[2] / "landscape.json"), opened(runs[2])
    assert found["eigenvalues"] == [] and found["loss"] == subject.losses(subject.weights("initial")).item()
    params, generator = subject.weights("initial"), torch.Generator().manual_seed(3)
    d1, d2 = ([torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in params] for _ in range(2))
    for d in (d1, d2):
        for p, axis, x in zip(params, subject.filters, d, strict=True):
            x *= 0 if axis is None else p.norm(dim=1, keepdim=True) / x.norm(dim=1, keepdim=True)
    corner = subject.losses(moved(params, d1, d2, np.array([[-0.5, 0.5]]))).item()
    assert np.load(runs[2] / "landscape.npz")["loss"][0, -1] == pytest.approx(corner, rel=1e-9)


@pytest.mark.parametrize("at", [3, 10])
def test_interrupted_landscape_goes_on(runs: list[Path], monkeypatch: pytest.MonkeyPatch, at: int,
                                       capsys: pytest.CaptureFixture[str]) -> None:
    """75, and then only what was not evaluated: the same numbers. Other weights or arguments begin anew."""
    folder = runs[0]
    plain = "landscape", folder, *PLANE, "--directions", "random"
    assert call(*plain, "--name", "whole") == 0
    counter, losses = itertools.count(1), PINNSubject.losses
    calls = []

    def counting(self: PINNSubject, params: Any) -> torch.Tensor:
        calls.append(len(params[0]))
        if next(counter) == at:
            os.kill(os.getpid(), signal.SIGUSR1)
        return losses(self, params)
    monkeypatch.setattr(PINNSubject, "losses", counting)
    assert call(*plain) == 75 and "stopped by SIGUSR1" in capsys.readouterr().err
    finished = at == 10  # of 1 + ceil((25 + 14 - 3) / 4) calls
    assert (folder / "landscape.json").exists() is finished and (folder / "landscape.part.npz").exists() is not finished
    if finished:
        assert call(*plain) == 0 and "already there" in capsys.readouterr().err
        return
    assert call(*plain, "--radius", 0.1, "--name", "x") == 0, "another name has a part of its own"
    del calls[:]
    assert call(*plain) == 0 and len(calls) == 10 - at
    assert f"goes on after {3 + 4 * (at - 1)} of 39 points" in capsys.readouterr().err
    with np.load(folder / "landscape.npz") as one, np.load(folder / "whole.npz") as other:
        assert all(np.array_equal(one[name], other[name]) for name in other)
    assert not (folder / "landscape.part.npz").exists()


def test_a_part_of_something_else_is_not_taken_up(runs: list[Path], monkeypatch: pytest.MonkeyPatch,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    """Other arguments, or a damaged file."""
    plain = "landscape", runs[0], *PLANE, "--directions", "random"
    with monkeypatch.context() as patch:
        patch.setattr(diagnosis_tools, "SAVE_SECONDS", 0)
        patch.setattr(PINNSubject, "losses", lambda *_: (_ for _ in ()).throw(OSError("the GPU is gone")))
        assert call(*plain) == 1 and (runs[0] / "landscape.part.npz").exists()
    assert capsys.readouterr().err.endswith(f"failed: {runs[0]}: the GPU is gone\n")
    assert call(*plain, "--radius", 2) == 0 and "goes on" not in capsys.readouterr().err
    (runs[0] / "landscape.part.npz").write_bytes(b"PK\x03\x04")
    assert call(*plain, "--radius", 3, "--force") == 0
    assert "landscape.part.npz cannot be read" in capsys.readouterr().err
    assert np.load(runs[0] / "landscape.npz")["a"][-1] == 3


# ---- connectivity and similarity ---------------------------------------------------------------


def test_connectivity(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    """The ends have the recorded losses and errors; trained bends lie lower than the chord, whose middle is known."""
    a, b, _ = runs
    assert call("connectivity", a, b, "--steps", 150, "--lr", 1e-2, "--points", 11, "--bends", 2) == 0
    name = "connectivity_lbfgs-beta_2-n_30-seed_1"
    found, arrays = read_strict(a / f"{name}.json"), np.load(a / f"{name}.npz")
    for key, metric in [("loss", "train_loss"), ("error", "test_error")]:
        ends = [read_strict(folder / "metrics.json")[metric] for folder in (a, b)]
        assert found["ends"][key] == [arrays[f"bezier_{key}"][0], arrays[f"polygonal_{key}"][-1]] == ends
    one, two = opened(a), opened(b)
    middle = [(p + q) / 2 for p, q in zip(one.weights("final"), two.weights("final"), strict=True)]
    assert arrays["chord_loss"][5] == pytest.approx(one.losses(middle).item(), rel=1e-9)
    assert arrays["chord_error"][5] == pytest.approx(one.errors(middle).item(), rel=1e-9)
    barriers = {path: numbers["barrier"] for path, numbers in found["paths"].items()}
    assert max(barriers["bezier"], barriers["polygonal"]) < barriers["chord"] / 2
    assert arrays["bezier_bends"].shape == (2, found["parameters"]) and arrays["t"][[0, -1]].tolist() == [0, 1]
    assert found["training"]["bezier"]["last"] < found["training"]["bezier"]["first"]
    assert (found["a"], found["b"]) == tuple(f"convection/lbfgs/beta_2/n_30/seed_{seed}" for seed in (0, 1))
    assert f"{a} to seed_1: chord: barrier " in capsys.readouterr().out
    assert not list(b.glob("connectivity*"))


def test_runs_of_different_tasks_are_not_compared(runs: list[Path], tmp_path: Path) -> None:
    """What differs is named; strategy and seed may."""
    other = train("--pde_params '{\"beta\": 3}' --precision float64 --iterations 5", tmp_path / "other")
    with pytest.raises(UsageError, match=r"must share their task, but differ in: pde_params \{'beta': 2.*3.0\}$"):
        call("connectivity", runs[0], other)
    with pytest.raises(UsageError, match="pde_params"):
        call("similarity", *runs, other)


def test_similarity(runs: list[Path]) -> None:
    """Symmetric matrices, 1 on the diagonal, of the layers; means over pairs beside them."""
    assert call("similarity", *runs, "--samples", 50) == 0
    found, arrays = read_strict(runs[0] / "similarity.json"), np.load(runs[0] / "similarity.npz")
    assert found["layers"] == ["hidden 1", "hidden 2", "output"] and found["samples"] == 50
    assert found["runs"][2] == "convection/adam/beta_2/n_30/seed_0"
    for kernel in ("linear", "rbf"):
        values = arrays[kernel]
        assert values.shape == (3, 3, 3) and np.allclose(values, values.swapaxes(1, 2))
        assert np.allclose(values.diagonal(axis1=1, axis2=2), 1)
        assert found[kernel]["output"]["mean"] == pytest.approx(values[2][np.triu_indices(3, 1)].mean())
    subjects = [opened(folder) for folder in runs[:2]]
    x, y = (s.features(s.weights("final"), 50)["hidden 1"] for s in subjects)
    x, y = x - x.mean(0), y - y.mean(0)
    cka = (x.T @ y).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm())
    assert arrays["linear"][0, 0, 1] == pytest.approx(cka.item(), rel=1e-6)
    assert call("similarity", *runs, "--samples", 50, "--sigma", 1, "--name", "wide") == 0
    assert read_strict(runs[0] / "wide.json")["arguments"] == {"bandwidth": None, "sigma": 1, "samples": 50}
    assert not np.allclose(np.load(runs[0] / "wide.npz")["rbf"], arrays["rbf"])


# ---- what is there, what is refused ------------------------------------------------------------


def test_again(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing to do; other arguments or weights: refused, --name keeps both, --force replaces."""
    plain = "hessian", runs[0], "--at", "final"
    assert call(*plain) == 0
    before = files(runs[0])
    assert call(*plain, "final") == 0 and "already there, nothing to do" in capsys.readouterr().err
    with pytest.raises(UsageError, match="made with other arguments: --top 5 -> 2, --seed 0 -> 4; --force replaces"):
        call(*plain, "--top", 2, "--seed", 4)
    assert call(*plain, "initial", "--name", "order") == 0
    assert call("hessian", runs[0], "--name", "order") == 0 and "already there" in capsys.readouterr().err
    assert call(*plain, "--top", 2, "--name", "two") == 0 and before.items() <= files(runs[0]).items()
    model = torch.load(runs[0] / "model.pt", weights_only=True)
    model["params"][0][0] += 1
    torch.save(model, runs[0] / "model.pt")
    with pytest.raises(UsageError, match="hessian.json was made with other arguments: weights"):
        call(*plain)
    assert call(*plain, "--force") == 0 and call(*plain) == 0
    with pytest.raises(UsageError, match="two.json was made with other arguments: .*tool hessian -> landscape"):
        call("landscape", runs[0], "--name", "two")
    (runs[0] / "hessian.json").write_text("{")
    with pytest.raises(UsageError, match=r"hessian.json is damaged: .*; --force replaces it, --name keeps both"):
        call(*plain)


@pytest.mark.parametrize(("arguments", "words"), [
    ("hessian A --top 0", "--top must be at least 1"), ("hessian A --eps nan", "--eps must be a positive number"),
    ("hessian A --at last", "--at: invalid choice"),
    ("hessian A --at best", "--at must be of initial, final for .*, got best"), ("hessian A --probes 0", "--probes"),
    ("hessian A --trace_samples 0", "--trace_samples"), ("hessian A --chunk 0", "--chunk"),
    ("hessian A --method exact", "--method: invalid choice"), ("hessian A --seed -1", "--seed must be at least 0"),
    ("hessian A --device tpu", "--device must be auto"), ("hessian A --name ../x", "--name must be of"),
    ("hessian A --name metrics", "--name metrics: files of that name"), ("hessian A --name x.part", "--name"),
    ("hessian A --name landscape", "--name landscape: files of that name"), ("hessian nowhere", "no such folder"),
    ("hessian A --name checkpoint.prev", "--name checkpoint.prev"),
    ("landscape A --grid 10", "--grid must be odd"), ("landscape A --grid 1", "--grid must be at least 3"),
    ("landscape A --line_points 4", "--line_points must be odd"), ("landscape A --radius 0", "--radius must be a pos"),
    ("landscape A --batch 0", "--batch"), ("landscape A --normalise layer", "--normalise"),
    ("connectivity A", "required: B"), ("connectivity A A", "B must be another run than A"),
    ("connectivity A B --bends 0", "--bends"), ("connectivity A B --points 2", "--points must be at least 3"),
    ("connectivity A B --lr inf", "--lr must be a positive"), ("connectivity A B --curves line", "--curves"),
    ("similarity A", "similarity takes two runs or more"), ("similarity A B --sigma 0", "--sigma must be a positive"),
    ("similarity A B --sigma 1 --bandwidth 1", "not allowed with"), ("similarity A B --samples 1", "--samples"),
    ("similarity A B --samples 10001", "--samples must be at most 10000, got 10001"),
])
def test_bad_arguments(runs: list[Path], arguments: str, words: str) -> None:
    """One line that names the flag, before any work."""
    kept = [files(folder) for folder in runs]
    places = {"A": runs[0], "B": runs[1]}
    with pytest.raises(UsageError, match=words):
        call(*(places.get(word, word) for word in arguments.split()))
    assert [files(folder) for folder in runs] == kept


@pytest.mark.parametrize(("damage", "words"), [
    (lambda f: (f / "model.pt").unlink(), "has no model.pt: trained with --no-save_model"),
    (lambda f: (f / "model.pt").write_bytes(b"PK"), "model.pt is damaged"),
    (lambda f: (f / "metrics.json").unlink(), "has no metrics.json: it is still at work"),
    (lambda f: (f / "config.json").unlink(), "has no config.json"),
    (lambda f: write_json(f / "metrics.json", {"module": "CNN"}), "must hold a run of PINN, but it is one of CNN"),
])
def test_what_is_no_run_to_look_at(runs: list[Path], damage: Any, words: str) -> None:
    """Named by every tool, and nothing is done to the run that is in order."""
    damage(runs[1])
    kept = files(runs[0])
    for tool in ("hessian", "landscape", "connectivity", "similarity"):
        with pytest.raises(UsageError) as error:
            call(tool, runs[0], runs[1])
        assert words in str(error.value) and str(runs[1]) in str(error.value)
    assert files(runs[0]) == kept


def test_one_run_does_not_stop_another(runs: list[Path], monkeypatch: pytest.MonkeyPatch,
                                       capsys: pytest.CaptureFixture[str]) -> None:
    """One is claimed, on one the disk is full: 1 at the end, a line each, and the third is done."""
    other, write = opened(runs[0]).run, diagnosis.atomic_write
    assert other.claim()
    few = ("hessian", *runs, *"--at final --method lanczos --iterations 2 --probes 1 --trace_samples 1 --top 1".split())

    def full(path: Path, writer: Any) -> None:
        if runs[1] in path.parents:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(path, writer)
    with monkeypatch.context() as patch:
        patch.setattr(diagnosis, "atomic_write", full)
        assert call(*few) == 1
    errors = capsys.readouterr().err
    assert f"left alone, another process works on it (process {os.getpid()} on " in errors
    assert f"failed: [Errno 28] No space left on device: '{runs[1]}/hessian.npz'\n" in errors
    assert (runs[2] / "hessian.json").exists() and not (runs[1] / "hessian.json").exists()
    assert call("hessian", runs[0]) == 3 and not (runs[0] / "hessian.json").exists()
    other.release()
    assert call(*few) == 0
    assert read_strict(runs[0] / "hessian.json")["states"]["final"]["trace_error"] is None
    assert "nan" not in capsys.readouterr().out


@pytest.mark.parametrize(("tool", "number"), [("hessian", signal.SIGTERM), ("connectivity", signal.SIGINT)])
def test_interrupted(runs: list[Path], monkeypatch: pytest.MonkeyPatch, tool: str, number: int,
                     capsys: pytest.CaptureFixture[str]) -> None:
    """75, nothing written, the claim given back."""
    kept, watch, calls = files(runs[0]), diagnosis.Job.watch, itertools.count(1)

    def watching(self: diagnosis.Job, *args: Any, **info: Any) -> None:
        if next(calls) == 5:
            os.kill(os.getpid(), number)
        watch(self, *args, **info)
    monkeypatch.setattr(diagnosis.Job, "watch", watching)
    assert call(tool, runs[0], runs[1]) == 75
    assert f"stopped by {signal.Signals(number).name}" in capsys.readouterr().err and files(runs[0]) == kept


def test_command(runs: list[Path], tmp_path: Path) -> None:
    """As a process, from another folder: a run by its relative path."""
    folder = runs[2].relative_to(tmp_path)
    done = subprocess.run(
        [sys.executable, str(TESTS.parent / "diagnose.py"), "landscape", folder, "--directions", "random",
         *map(str, PLANE)], text=True, capture_output=True, cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0 and done.stdout.startswith(f"{runs[2]}: final: loss "), done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert (runs[2] / "landscape.png").read_bytes()[:4] == b"\x89PNG"
    assert (runs[2] / "landscape.html").read_text().count("Plotly.newPlot(") > 0
