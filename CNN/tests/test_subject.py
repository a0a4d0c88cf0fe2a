"""Finished ResNets under the landscape tools: loss, Hessian, probe and statistics against plain ones; the commands."""

from __future__ import annotations

import argparse
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
from pathlib import Path
from typing import Any

import pyhessian
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import small  # noqa: E402
from cnn import diagnosis_flags, diagnosis_tools, objective, subject, train  # noqa: E402
from cnn.data import balanced_order, load, normalise  # noqa: E402
from cnn.files import UsageError  # noqa: E402
from cnn.hessian import Top, flatten, hessian_product, unflatten  # noqa: E402
from cnn.model import ResNet18  # noqa: E402
from cnn.spectrum import of_one  # noqa: E402

DOUBLE, ROW = torch.float64, torch.arange(1)
RUN = "results/resnet18_w8/cifar10/sgd/lr_0.01"  # below the folder of `home`


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data and three runs on them: n = 40 (two seeds) and 20."""
    folder = tmp_path_factory.mktemp("home")
    small.make_data(folder / "data", 60, 20)
    for flags in ("--seed 0 1 --epochs 4", "--n_samples 20"):
        done = small.call(*small.tiny(folder / "data", f"--lr 0.01 {flags}"), cwd=folder)
        assert done.returncode == 0, done
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are not painted: PINN's test_drawing.py and test_command do."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda self, file, **_: file.write(b"a picture"))
    monkeypatch.setattr(diagnosis_tools, "interactive_surface", lambda *_: "a page")


def opened(home: Path, run: str = "n_40/seed_0", dtype: torch.dtype | None = None, **flags: Any) -> subject.CNNSubject:
    """A run."""
    args = {"device": torch.device("cpu"), "data_dir": str(home / "data"), "verify": False, "bn": "running"} | flags
    return subject.open_subject(home / RUN / run, Namespace(**args), dtype)


def saved(found: subject.CNNSubject) -> ResNet18:
    """The network of model.pt, evaluating."""
    model = found.settings.build(5)
    model.load_state_dict(torch.load(found.run.path / "model.pt", weights_only=True)["model"])
    return model.eval()


def leaves(params: Sequence[Tensor]) -> list[Tensor]:
    """To differentiate by."""
    return [p.detach().requires_grad_() for p in params]


def first_images(home: Path, count: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Training images in balanced order, normalised, and labels."""
    train, _ = load("CIFAR-10", home / "data", verify=False)
    images = train.select(balanced_order(train.labels)[:count])
    return normalise(images.pixels, "CIFAR-10", dtype), images.labels


# ---- loss and Hessian ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bn", subject.STATISTICS)
def test_hessian_is_pyhessians(home: Path, bn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products with a vector, in blocks where the statistics are the running ones, in float64."""
    monkeypatch.setitem(objective.GRAPH, "cpu", 2 * 8)  # two images at a time
    found = opened(home, dtype=DOUBLE, probe=3, bn=bn)
    params = leaves(found.weights("final"))
    model = saved(found).train(bn == "batch")
    pixels, labels = first_images(home, 3, DOUBLE)
    loss = cross_entropy(model(pixels), labels)
    gradient = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
    v = torch.randn(1, sum(p.numel() for p in params), generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    theirs = pyhessian.utils.hessian_vector_product(gradient, list(model.parameters()),
                                                    [x[0] for x in unflatten(v, params)])
    before = {name: value.clone() for name, value in found.buffers.items()}
    ours = of_one(hessian_product(found.gradients(params), params, ROW))(v)
    expected = flatten([x[None] for x in theirs], params)
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-10 * expected.abs().max().item())
    assert found.losses(params).item() == pytest.approx(loss.item(), rel=1e-12)
    assert all(torch.equal(value, before[name]) for name, value in found.buffers.items())
    assert found.data.endswith({"running": "the running statistics", "batch": "their own statistics"}[bn])


def test_what_training_recorded(home: Path) -> None:
    """Loss and error as in metrics.json and of the untrained network as in history.csv, to the last digit."""
    found = opened(home, probe=40)
    result, rows = (small.read_strict(found.run.path / "metrics.json"), small.table(found.run.path / "history.csv"))
    initial = found.weights("initial")
    assert found.losses(initial).item() == float(rows[0]["train_loss"])
    final = found.weights("final")
    assert found.losses(final).item() == result["train_loss"] and found.errors(final).item() == result["test_error"]
    both = [torch.cat([p, p]) for p in final]
    assert found.losses(both).tolist() == [result["train_loss"]] * 2
    assert found.task["mixed_precision"] == "none"


def test_curvature_along_training_is_that_of_the_probe(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images that the run was not trained on too, where it has fewer than the probe; parts of the graph at a time."""
    found, given = opened(home, "n_20/seed_0"), []
    trainer = train.Trainer(found.settings, found.run)
    trainer.model.load_state_dict(saved(found).state_dict())
    one = torch.ones(1)
    monkeypatch.setattr(train, "lambda_max", lambda loss, *_: given.append(loss) or Top(one, one, one))
    trainer.curvature()
    monkeypatch.setitem(objective.GRAPH, "cpu", 25 * 8)
    trainer.curvature()
    expected = found.losses(found.weights("final")).item()
    assert len(found.train) == 60 and given[0].item() == pytest.approx(expected, rel=1e-6)
    assert [x.shape for x in given[1]] == [(1,)] * 3 and sum(given[1]).item() == pytest.approx(expected, rel=1e-6)


def test_probe(home: Path) -> None:
    """The same balanced images for every n; those that a run has not seen are counted."""
    more, fewer = opened(home, probe=30), opened(home, "n_20/seed_0", probe=30)
    assert torch.equal(more.train.pixels, fewer.train.pixels) and more.train.labels.bincount().tolist() == [3] * 10
    assert "among" not in more.data and "10 of them are not among the 20 that the run was trained on" in fewer.data
    assert len(opened(home).train) == 60  # all where there are fewer than 128


def test_statistics_along_a_path(home: Path) -> None:
    """Those that torch estimates from the training images, at every network; nearly the recorded loss at an end."""
    found = opened(home)
    params, path = found.weights("final"), found.along_path()
    assert not {"train", "test", "training"} & {*vars(found), *vars(path)}, "loaded where they are needed"
    pixels, labels = first_images(home, 40, torch.float32)
    expected = []
    for factor in (1.0, 1.1):
        model = saved(found)
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(factor)
            torch.optim.swa_utils.update_bn([pixels], model)
            expected.append(cross_entropy(model.eval()(pixels), labels).item())
    both = [torch.cat([p, 1.1 * p]) for p in params]
    before = {name: value.clone() for name, value in path.buffers.items()}
    torch.testing.assert_close(path.losses(both), torch.tensor(expected, dtype=DOUBLE), rtol=1e-5, atol=0)
    assert (path.errors(both) < 0.9).all() and len(path.test) == 20
    assert all(torch.equal(value, before[name]) for name, value in path.buffers.items())
    assert "40 of the 40 training images and 20 test images" in path.data and "anew" in path.data


def test_mini_batches(home: Path) -> None:
    """Loss and gradient of a network that trains, on each image of the run once an epoch."""
    found = opened(home)
    params, seen = found.weights("final"), []
    inputs = found._inputs
    found._inputs = lambda images: seen.append(images) or inputs(images)
    both = [torch.cat([p, 0.9 * p]) for p in params]
    steps = [found.loss_and_gradients(both, k) for k in range(4)]
    assert [len(images) for images in seen] == [20] * 4
    pixels = [torch.cat([images.pixels for images in seen[a:a + 2]]).flatten(1).sum(1) for a in (0, 2)]
    assert torch.equal(*[x.sort().values for x in pixels]) and not torch.equal(*pixels)
    model = saved(found).train()
    losses = cross_entropy(model(inputs(seen[1])[0]), seen[1].labels)
    losses.backward()
    assert steps[1][0][0].item() == pytest.approx(losses.item(), rel=1e-5) and steps[1][0][1] != steps[1][0][0]
    for p, gradient in zip(model.parameters(), steps[1][1], strict=True):
        torch.testing.assert_close(gradient[0], p.grad, rtol=1e-3, atol=1e-4)


def test_features(home: Path) -> None:
    """Stages, averaged to 4 x 4 pixels, and logits of balanced test images; none of the hooks stays."""
    found = opened(home)
    features = found.features(found.weights("final"), 10)
    assert {name: tuple(x.shape) for name, x in features.items()} == {
        "stem": (10, 128), "stage 1": (10, 128), "stage 2": (10, 256), "stage 3": (10, 512), "stage 4": (10, 1024),
        "output": (10, 10)}
    images = found.test.select(balanced_order(found.test.labels)[:10])
    logits = saved(found)(normalise(images.pixels, "CIFAR-10", torch.float32))
    torch.testing.assert_close(features["output"], logits, rtol=1e-5, atol=1e-5)
    assert not any(layer._forward_hooks for layer in found.model.modules())


# ---- bad input -----------------------------------------------------------------------------------------------------


def test_refused(home: Path, tmp_path: Path) -> None:
    """One line that names what is wrong."""
    small.make_data(tmp_path / "other", 60, 20, seed=1)
    for flags, words in [
            ({"probe": 0}, "--probe must be from 1 to 60, the training images of"), ({"probe": 61}, "--probe must be"),
            ({"data_dir": str(tmp_path / "other")}, "holds other images than"),
            ({"data_dir": str(tmp_path)}, "--data_dir: neither"),
            ({"verify": True}, "--no-verify takes data of one's")]:
        with pytest.raises(UsageError, match=re.escape(words)):
            opened(home, **flags)
    config, result = ((home / RUN / f"n_40/seed_0/{name}.json").read_text() for name in ("config", "metrics"))
    folder = tmp_path / RUN / "n_40/seed_0"
    folder.mkdir(parents=True)
    for changed, finished, words in [
            (config, None, "has no metrics.json"), (config, result.replace('"CNN"', '"PINN"', 1), "must hold a run of"),
            (config.replace('"batch_size": 20', '"batch_size": 50'), result, "than this version writes: batch_size"),
            (config.replace("ResNet18_w8", "ResNet18_w7"), result, "must end with what its config.json says"),
            (config.replace('"CIFAR-10"', '"CIFAR-11"'), result, "is damaged: KeyError: 'CIFAR-11'")]:
        (folder / "config.json").write_text(changed)
        (folder / "metrics.json").unlink(missing_ok=True)
        if finished:
            (folder / "metrics.json").write_text(finished)
        with pytest.raises(UsageError, match=re.escape(words)):
            opened(tmp_path, data_dir=str(home / "data"))
    (folder / "config.json").write_text(config)
    found = opened(tmp_path, data_dir=str(home / "data"))
    with pytest.raises(UsageError, match="has no model.pt: trained with --no-save_model"):
        found.weights("final")
    torch.save({"model": {"fc.weight": torch.zeros(2)}}, folder / "model.pt")
    with pytest.raises(UsageError, match="another network"):
        found.weights("final")


# ---- the commands --------------------------------------------------------------------------------------------------


def diagnose(*argv: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`python diagnose.py *argv` in this process, on the CPU."""
    words = [*map(str, argv), "--device", "cpu"]
    signals = (signal.SIGUSR1, signal.SIGTERM)
    handlers, old = [signal.getsignal(number) for number in signals], sys.argv
    spec = importlib.util.spec_from_file_location("cnn_diagnose", small.CNN / "diagnose.py")
    entry, out, err = importlib.util.module_from_spec(spec), io.StringIO(), io.StringIO()
    try:
        spec.loader.exec_module(entry)
        sys.argv = [str(small.CNN / "diagnose.py"), *words]
        with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = entry.main()
    finally:
        sys.argv = old
        for number, handler in zip(signals, handlers, strict=True):
            signal.signal(number, handler)
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def test_commands(home: Path, tmp_path: Path) -> None:
    """The four tools on real runs from another folder, a process that finds no run; the runs stay as they are."""
    first, second = home / RUN / "n_40/seed_0", home / RUN / "n_40/seed_1"
    before = {path: path.read_bytes() for run in (first, second) for path in run.iterdir()}
    data = ["--data_dir", str(home / "data"), "--no-verify"]
    done = subprocess.run([sys.executable, str(small.CNN / "diagnose.py"), "hessian", "nowhere"], cwd=tmp_path,
                          capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=120)
    assert (done.returncode, done.stderr) == (2, f"error: RUN_FOLDER {tmp_path}/nowhere: there is no such folder\n")
    done = diagnose("hessian", first, *data, "--iterations", 3, "--probes", 1, "--trace_samples", 1, "--top", 1,
                    "--precision", "float32", "--probe", 10, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.count("lambda_max") == 2 and "nan" not in done.stdout, done
    found = small.read_strict(first / "hessian.json")
    assert found["parameters"] == sum(p.numel() for p in saved(opened(home)).parameters())
    assert found["data"].startswith("a probe of 10 training images")
    assert found["loss_name"] == "training loss (cross-entropy)"
    done = diagnose("landscape", first, *data, "--grid", 3, "--line_points", 3, "--probe", 10, "--bn", "batch",
                    "--directions", "random", cwd=tmp_path)
    assert done.returncode == 0, done
    reference = opened(home, probe=10, bn="batch")
    assert small.read_strict(first / "landscape.json")["loss"] == reference.losses(reference.weights("final")).item()
    done = diagnose("connectivity", first, second, *data, "--steps", 2, "--points", 3, "--curves", "bezier",
                    cwd=tmp_path)
    assert done.returncode == 0, done
    path = opened(home).along_path()
    ends = small.read_strict(first / "connectivity_sgd-lr_0.01-n_40-seed_1.json")["ends"]
    assert ends["loss"][0] == pytest.approx(path.losses(opened(home).weights("final")).item(), rel=1e-6)
    done = diagnose("similarity", first, second, *data, "--samples", 10, cwd=tmp_path)
    assert done.returncode == 0, done
    assert small.read_strict(first / "similarity.json")["samples"] == 10
    done = diagnose("connectivity", first, home / RUN / "n_20/seed_0", *data, cwd=tmp_path)
    assert done.returncode == 2 and "differ in: n_samples 40 and 20" in done.stderr
    done = diagnose("similarity", first, second, *data, "--bn", "batch", cwd=tmp_path)
    assert done.returncode == 2 and "unrecognized arguments: --bn" in done.stderr
    assert {path: path.read_bytes() for path in before} == before


def test_visualize(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """run_exp.py --visualize draws the landscapes of the runs that are finished, by default as diagnose.py does."""
    given: list[argparse.ArgumentParser] = []
    flags = diagnosis_flags.FLAGS["landscape"]

    def fewer(parser: argparse.ArgumentParser) -> list[argparse.Action]:
        given.append(parser)
        actions = flags(parser)
        parser.set_defaults(grid=3, line_points=3, directions="random")
        return actions

    monkeypatch.setitem(diagnosis_flags.FLAGS, "landscape", fewer)
    data = small.make_data(tmp_path / "data", 20, 20)
    words = small.tiny(data, "--n_samples 20 --visualize --type 3D --epochs 1")
    done = small.call(*words, "--lr", "0.01", "1e30", cwd=tmp_path)
    assert done.returncode == 0 and len(given) == 1, done
    good, bad = (tmp_path / f"results/resnet18_w8/cifar10/sgd/lr_{lr}/n_20/seed_0" for lr in ("0.01", "1e+30"))
    assert {p.suffix for p in good.glob("landscape.*")} == {".json", ".npz", ".png", ".html"}
    assert not list(bad.glob("landscape*")) and f"no landscape of {bad}: it diverged" in done.stderr
    before = (good / "landscape.png").stat().st_mtime_ns
    done = small.call(*words, "--lr", "0.01", cwd=tmp_path)
    assert done.returncode == 0 and "already there" in done.stderr
    assert (good / "landscape.png").stat().st_mtime_ns == before
    done = small.call(*words, "--no-save_model", cwd=tmp_path)
    assert done.returncode == 2 and "--visualize needs the weights" in done.stderr
