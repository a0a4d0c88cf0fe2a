"""Finished FNOs under the landscape tools: loss, Hessian, probe and paths against plain ones, and the commands."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import re
import signal
import subprocess
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import functional_call

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import small  # noqa: E402
from fno import diagnosis_tools, subject  # noqa: E402
from fno.files import UsageError  # noqa: E402
from fno.hessian import flatten, gradients_of, hessian_product, unflatten  # noqa: E402
from fno.objective import Parts  # noqa: E402
from fno.spectrum import dense, of_one  # noqa: E402

DOUBLE, ROW = torch.float64, torch.arange(1)
RUN = "runs/fno_tiny/poisson/adam/k_1-2.5"  # below the folder of `home`


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data of 16 x 16 points and three runs of 115 weights on them, n = 24 (two seeds) and 12."""
    folder = tmp_path_factory.mktemp("home")
    small.make_data(folder / "data", ntrain=48, nval=16, ntest=8)
    yaml = small.write_yaml(folder / "tiny.yaml", mode_cut=1, embed_cut=2, max_epochs=3)
    for flags in (["--subsample", 2, "--seed", 0, 1, "--hessian_every", 2], ["--subsample", 4, "--seed", 0]):
        done = small.call("--yaml_config", yaml, "--config", "tiny", "--data_dir", folder / "data", "--root_dir",
                          folder / "runs", *flags, cwd=folder)
        assert done.returncode == 0, done
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are not painted: PINN's test_drawing.py and test_command do."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda self, file, **_: file.write(b"a picture"))
    monkeypatch.setattr(diagnosis_tools, "interactive_surface", lambda *_: "a page")


def opened(home: Path, run: str = "n_24/seed_0", dtype: torch.dtype | None = None, style: str = "sum",
           **flags: Any) -> subject.FNOSubject:
    """A run, as if it had been trained with this loss."""
    args = Namespace(**{"device": torch.device("cpu"), "data_dir": str(home / "data"), "yaml_config": None} | flags)
    found = subject.open_subject(home / RUN / run, args, dtype)
    settings = replace(found.settings, config=replace(found.settings.config, loss_style=style))
    return subject.FNOSubject(settings, found.run, len(found.samples))


def leaves(params: Sequence[Tensor]) -> list[Tensor]:
    """To differentiate by."""
    return [p.detach().requires_grad_() for p in params]


def plain_loss(found: subject.FNOSubject, weights: Tensor, style: str = "sum") -> Tensor:
    """The loss on the probe of flat weights (p,), a sample at a time."""
    shapes = [p[None] for p in found.model.parameters()]
    params = {name: p[0] for name, p in zip(found.names, unflatten(weights[None], shapes), strict=True)}
    total = weights.new_zeros(())
    for f, c, u in zip(found.samples.f, found.samples.coefficients, found.samples.u, strict=True):
        off = functional_call(found.model, params, (f[None], c[None]))[0] - u
        total = total + {"sum": off.square().sum(), "mean": off.square().mean(), "relative": off.norm() / u.norm()}[
            style]
    return total / len(found.samples)


# ---- loss and Hessian ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style, floor", [("sum", 2 * 16**2), ("mean", 2), ("relative", None)])
def test_hessian_and_its_floor(home: Path, style: str, floor: float | None) -> None:
    """Products are those of a dense Hessian of the plain loss; the output bias has the curvature 2 N^2, or 2."""
    found = opened(home, dtype=DOUBLE, style=style, probe=3)
    params = leaves(found.weights("final"))
    flat = flatten(params, params)[0].detach()
    assert found.floor == floor and len(flat) == 115
    assert found.losses(params).item() == pytest.approx(plain_loss(found, flat, style).item(), rel=1e-13)
    plain = torch.func.hessian(lambda w: plain_loss(found, w, style))(flat)
    bias = torch.cat([torch.full((p.numel(),), name == "output.bias") for name, p in zip(found.names, params)])
    vectors = torch.cat([bias[None], torch.randn(3, 115, generator=torch.Generator().manual_seed(0))]).to(DOUBLE)
    parts = Parts(found.model, params, found.samples, style, 2)  # blocks of 2 and 1
    for gradients in (found.gradients(params), gradients_of(parts, params)):
        products = of_one(hessian_product(gradients, params, ROW))(vectors)
        torch.testing.assert_close(products, vectors @ plain, rtol=1e-10, atol=1e-11 * plain.abs().max().item())
    if floor:
        kept = torch.cat([torch.full((p.numel(),), keep) for keep, p in zip(
            found.restrictions["without_output_bias"], params, strict=True)])
        assert products[0][bias].item() == pytest.approx(floor, rel=1e-12) and torch.equal(kept, ~bias)
        top, without = (torch.linalg.eigvalsh(h)[-1].item() for h in (plain, plain[kept][:, kept]))
        assert without < top and floor <= top


def test_what_training_recorded(home: Path) -> None:
    """Loss and error as in metrics.json to the last digit, also of networks side by side."""
    found = opened(home, probe=48)
    result = small.read_strict(found.run.path / "metrics.json")
    found.samples = found.training
    final, best, initial = (found.weights(state) for state in ("final", "best", "initial"))
    assert found.losses(final).item() == result["metrics"]["train_objective"]
    assert found.errors(final).item() == result["metrics"]["test_error_last"]
    assert found.errors(best).item() == result["test_error"]
    both = [torch.cat(pair) for pair in zip(initial, final, strict=True)]
    assert found.losses(both).tolist() == [found.losses(initial).item(), found.losses(final).item()]
    probed = opened(home, dtype=DOUBLE, probe=48)
    weights = leaves(probed.weights("final"))
    matrix = dense(of_one(hessian_product(probed.gradients(weights), weights, ROW)), 115, weights[0].detach(), chunk=23)
    assert result["metrics"]["lambda_max"] == pytest.approx(torch.linalg.eigvalsh(matrix)[-1].item(), rel=1e-3)
    path = found.along_path()
    assert not {"samples", "test", "training"} & vars(path).keys(), "loaded where they are needed"
    assert path.losses(final).item() == result["metrics"]["train_objective"] and "24 of the 24" in path.data
    assert path.errors(final).item() == result["metrics"]["test_error_last"] and len(path.test) == 8


def test_mini_batches_are_the_training_set(home: Path) -> None:
    """Over an epoch their gradients, by size, are the gradient of all samples; the next epoch has another order."""
    found = opened(home, dtype=DOUBLE)
    params, n, batch = leaves(found.weights("initial")), 24, 8
    steps = [found.loss_and_gradients([torch.cat([p, 2 * p]) for p in params], k) for k in range(6)]
    found.samples = found.training
    weights = torch.cat([flatten(params, params), 2 * flatten(params, params)]).detach()
    expected = [torch.autograd.functional.jacobian(lambda w: plain_loss(found, w), w) for w in weights]
    for epoch in (steps[:3], steps[3:]):
        mean = sum(flatten(gradient, gradient) for _, gradient in epoch) * batch / n
        torch.testing.assert_close(mean, torch.stack(expected), rtol=1e-10, atol=1e-10 * expected[1].abs().max().item())
        assert sum(losses[0] for losses, _ in epoch).item() * batch / n == pytest.approx(
            plain_loss(found, weights[0]).item(), rel=1e-12)
    assert steps[0][0][0] != steps[3][0][0]


# ---- samples -------------------------------------------------------------------------------------------------------


def test_probe(home: Path) -> None:
    """Evenly spaced rows of the file, so balanced and the same for every n; what a run has not seen is said."""
    more, fewer = (opened(home, f"n_{n}/seed_0", probe=16) for n in (24, 12))
    with h5py.File(home / "data" / small.names()["train"]) as file:
        u = file["fields"][:, 1]  # 48 rows, 12 of each sparsity
    assert np.array_equal(more.samples.u, u[::3]) and torch.equal(more.samples.f, fewer.samples.f)
    uneven = [0, 2, 4, 6, 8, 12, 14, 16, 18, 20, 24, 26, 28, 30, 32, 36, 38, 40, 42, 44]  # 5 of each
    assert np.array_equal(opened(home, probe=20).samples.u, u[uneven])
    assert "8 of them are not among the 24" in more.data and "12 of them are not among the 12" in fewer.data
    assert "among" not in opened(home, probe=12).data and "among" not in opened(home, probe=24).data


def test_features(home: Path) -> None:
    """Layers at test samples, averaged, and the output; none of the hooks stays."""
    found = opened(home)
    params = found.weights("final")
    features = found.features(params, 6)
    assert {name: tuple(x.shape) for name, x in features.items()} == {
        **{f"fourier {k}": (6, 2 * 16 * 16) for k in range(1, 5)}, "hidden": (6, 4 * 16 * 16), "output": (6, 256)}
    u = subject.predict(found.model, params, found.test.f[[0, 1]], found.test.coefficients[[0, 1]])
    torch.testing.assert_close(features["output"][:2], u.flatten(1), rtol=1e-5, atol=1e-6)
    assert len(found.features(params, 1000)["output"]) == 8
    assert not any(layer._forward_hooks for layer in found.model.modules())


# ---- bad input -----------------------------------------------------------------------------------------------------


def test_refused(home: Path, tmp_path: Path) -> None:
    """One line that names what is wrong."""
    other = small.make_data(tmp_path / "other", ntrain=48, nval=16, ntest=8, seed=1)
    folder = tmp_path / "runs/fno_tiny/poisson/adam/k_1-2.5/n_24/seed_0"
    folder.mkdir(parents=True)
    for flags, words in [
            ({"probe": 0}, "--probe must be from 1 to 48, the rows of"), ({"probe": 49}, "--probe must be from"),
            ({"data_dir": str(other)}, "holds other data than the run was trained on: seed 0 -> 1"),
            ({"data_dir": str(tmp_path)}, "no such data file (--data_dir and --yaml_config say"),
            ({"data_dir": None}, "FNO/data/poisson/_train_k1.0_2.5_32k.h5"),
            ({"yaml_config": "nowhere.yaml"}, "--yaml_config nowhere.yaml: no such file")]:
        with pytest.raises(UsageError, match=re.escape(words)):
            opened(home, **flags)
    config, result = ((home / RUN / "n_24/seed_0" / f"{name}.json").read_text() for name in ("config", "metrics"))
    args = Namespace(device=torch.device("cpu"), data_dir=str(home / "data"), yaml_config=None)
    for changed, finished, words in [
            (config, None, "has no metrics.json"), (config, result.replace('"FNO"', '"PINN"', 1), "must hold a run of"),
            (config.replace('"embed_cut": 2', '"embed_cut": 0'), result, "embed_cut must be a whole number from 1"),
            (config.replace('"n": 24', '"n": 23', 1), result, "other arguments than this version writes: n"),
            ("{}", result, "has no config.json"), ('{"system": "poisson"}', result, "is damaged: KeyError")]:
        (folder / "config.json").write_text(changed)
        (folder / "metrics.json").unlink(missing_ok=True)
        if finished:
            (folder / "metrics.json").write_text(finished)
        with pytest.raises(UsageError, match=re.escape(words)):
            subject.open_subject(folder, args)
    (folder / "config.json").write_text(config)
    found = subject.open_subject(folder, args)
    with pytest.raises(UsageError, match="has no model_best.pt: trained with --no-save_model"):
        found.weights("best")
    torch.save({"model": {"weight": torch.zeros(2)}}, folder / "model.pt")
    with pytest.raises(UsageError, match="another network"):
        found.weights("final")


# ---- the commands --------------------------------------------------------------------------------------------------


def diagnose(*argv: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`python diagnose.py *argv` in this process, on the CPU."""
    words = [*map(str, argv), "--device", "cpu"]
    signals = (signal.SIGUSR1, signal.SIGTERM)
    handlers, old = [signal.getsignal(number) for number in signals], sys.argv
    spec = importlib.util.spec_from_file_location("fno_diagnose", small.FNO / "diagnose.py")
    entry, out, err = importlib.util.module_from_spec(spec), io.StringIO(), io.StringIO()
    try:
        spec.loader.exec_module(entry)
        sys.argv = [str(small.FNO / "diagnose.py"), *words]
        with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = entry.main()
    finally:
        sys.argv = old
        for number, handler in zip(signals, handlers, strict=True):
            signal.signal(number, handler)
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def test_hessian_command_from_elsewhere(home: Path, tmp_path: Path) -> None:
    """All 115 eigenvalues at two states, lambda_max over 2 N^2, and without the output bias; a process without data."""
    run = home / RUN / "n_24/seed_1"
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    words = ["hessian", str(run), "--data_dir", str(home / "data"), "--at", "initial", "best", "--probe", "4",
             "--chunk", "23"]
    done = subprocess.run([sys.executable, str(small.FNO / "diagnose.py"), *words[:2], "--data_dir", "nowhere"],
                          cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
                          timeout=120)
    assert done.returncode == 2 and "/nowhere/_train_k1.0_2.5_32k.h5: no such data file" in done.stderr, done
    done = diagnose(*words, cwd=tmp_path)
    assert done.returncode == 0 and "times its floor" in done.stdout, done
    found = small.read_strict(run / "hessian.json")
    assert found["data"].startswith("a probe of 4 samples") and found["parameters"] == 115
    assert found["loss_name"] == "training loss (sum of squares over the grid, mean over samples)"
    for state in found["states"].values():
        assert state["method"] == "dense" and state["floor"] == 512
        assert 1 <= state["lambda_max_over_floor"] == state["lambda_max"] / 512
        without = state["restricted"]["without_output_bias"]
        assert without["lambda_max"] < state["lambda_max"] and without["residual"] <= 1e-3 * without["lambda_max"]
    assert {name: (run / name).read_bytes() for name in before} == before
    again = diagnose(*words, cwd=tmp_path)
    assert again.returncode == 0 and "already there" in again.stderr


def test_other_commands(home: Path) -> None:
    """Landscape, connectivity and similarity of the same runs, whose weights stay as they are."""
    first, second, data = home / RUN / "n_24/seed_0", home / RUN / "n_24/seed_1", ["--data_dir", "data"]
    before = {path: path.read_bytes() for run in (first, second) for path in run.glob("model*.pt")}
    done = diagnose("landscape", first, *data, "--grid", 3, "--line_points", 3, "--probe", 8, cwd=home)
    assert done.returncode == 0, done
    found = small.read_strict(first / "landscape.json")
    reference = opened(home, probe=8)
    assert found["loss"] == reference.losses(reference.weights("final")).item()
    assert found["eigenvalues"][0] >= 512 and found["eigenvalue_residuals"][0] <= 1e-6 * found["eigenvalues"][0]
    assert np.load(first / "landscape.npz")["loss"][1, 1] == found["loss"]
    done = diagnose("connectivity", first, second, *data, "--steps", 4, "--points", 5, cwd=home)
    assert done.returncode == 0, done
    found = small.read_strict(first / "connectivity_adam-k_1-2.5-n_24-seed_1.json")
    for side, run in enumerate((first, second)):
        metrics = small.read_strict(run / "metrics.json")["metrics"]
        assert found["ends"]["loss"][side] == metrics["train_objective"]
        assert found["ends"]["error"][side] == metrics["test_error_last"]
    done = diagnose("similarity", first, second, *data, cwd=home)
    assert done.returncode == 0, done
    found = small.read_strict(first / "similarity.json")
    assert found["samples"] == 8 and found["layers"][-2:] == ["hidden", "output"]
    done = diagnose("connectivity", first, home / RUN / "n_12/seed_0", *data, cwd=home)
    assert done.returncode == 2 and "differ in: n 24 and 12" in done.stderr
    done = diagnose("similarity", first, second, *data, "--probe", 8, cwd=home)
    assert done.returncode == 2 and "unrecognized arguments: --probe" in done.stderr
    assert {path: path.read_bytes() for path in before} == before
