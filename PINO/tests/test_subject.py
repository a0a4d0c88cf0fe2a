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

import pytest
import small
import torch
from torch import Tensor
from torch.func import functional_call

sys.path[:0] = [str(small.PINO), str(small.PINO / "scripts")]

import darcy_sweep  # noqa: E402
import diagnose  # noqa: E402
from pino import diagnosis_tools, generate, subject  # noqa: E402
from pino.arguments import parse  # noqa: E402
from pino.files import UsageError, write_json  # noqa: E402
from pino.hessian import hessian_product  # noqa: E402
from pino.model import FNO2d  # noqa: E402
from pino.subject import PINOSubject, open_subject  # noqa: E402

for number in diagnose.STOPS:  # taken as it is imported, and not meant for the tests
    signal.signal(number, signal.SIG_DFL)

DOUBLE = torch.float64
TINY = "--N 19 --sub 2 --modes 1 --width 2 --preset tiny --test_num 3 --budget smoke --device cpu --n_samples 4 --r 4"

#: Strategies, some of which minimise something else than 5 d + p or on other data, and grids of the residual.
RUNS = {
    "adam": "--steps 3", "blocks": "--optimizer lbfgs --lbfgs_max_iter 3 --block 2 --residual corrected",
    "cl": "--optimizer cl --cl_inner_step 2 --cl_delta_r 3 --pde_sub 3 --f_loss 2",
    "alm": "--optimizer alm --alm_cons_item data --steps 1 --alm_outer_iters 2 --alm_inner_step 2 --residual flux",
}


def train(arguments: str, path: Path, data: Path | None = None) -> list[Path]:
    """Train tiny runs; gives their folders."""
    words = [*shlex.split(f"{TINY} {arguments}"), "--outdir", str(path)]
    assert darcy_sweep.run(parse([*words, *(["--data_dir", str(data)] if data else [])])) == 0
    return sorted(file.parent for file in path.rglob("metrics.json"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data files of all runs."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, data: Path) -> dict[str, Path]:
    """A run of each kind."""
    path = tmp_path_factory.mktemp("trained")
    return {name: train(arguments, path / name, data)[0] for name, arguments in RUNS.items()}


@pytest.fixture
def folder(trained: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the run `adam`, at the same place below another output folder."""
    return Path(shutil.copytree(trained["adam"], tmp_path.joinpath(*trained["adam"].parts[-5:])))


def opened(folder: Path, data: Path | None, dtype: torch.dtype | None = DOUBLE,
           benchmark: Path | None = None) -> PINOSubject:
    """The run, in float64."""
    return open_subject(folder, argparse.Namespace(device=torch.device("cpu"), data_dir=data and str(data),
                                                   piececonst_dir=benchmark and str(benchmark)), dtype)


def edit(path: Path, **changes: Any) -> None:
    """Change entries of a JSON file."""
    write_json(path, json.loads(path.read_text()) | changes)


def directions(like: list[Tensor], count: int) -> list[Tensor]:
    """Random directions (count, ...) in the space of the weights, as long as these."""
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(count, *p.shape[1:], generator=generator, dtype=DOUBLE) for p in like]
    return [d * p.norm() / d[0].norm() for d, p in zip(drawn, like, strict=True)]


def moved(weights: list[Tensor], by: list[Tensor], step: float) -> list[Tensor]:
    """Weights with a multiple of directions added."""
    return [w.detach() + step * d for w, d in zip(weights, by, strict=True)]


# ---- loss and error ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", RUNS)
def test_loss_and_error_of_the_training(trained: dict[str, Path], data: Path, name: str) -> None:
    """Exactly those of metrics.json, in the training's precision, and those that it began with."""
    one, result = opened(trained[name], data, None), json.loads((trained[name] / "metrics.json").read_text())
    final = one.weights("final")
    assert one.losses(final).tolist() == [result["train_loss"]]
    assert one.errors(final).tolist() == [result["test_error"]]
    with open(trained[name] / "history.csv", newline="") as file:
        first = next(csv.DictReader(file))
    if name != "cl":  # which begins at another r
        initial = one.weights("initial")
        assert [one.losses(initial).item(), one.errors(initial).item()] == [
            float(first["train_loss"]), float(first["test_error"])]


def test_networks_one_after_another(trained: dict[str, Path], data: Path) -> None:
    """Losses, errors and gradients of three networks are those of each alone."""
    one = opened(trained["blocks"], data)
    params = moved(one.weights("final"), directions(one.weights("final"), 3), 0.1)
    losses, errors, (values, gradients) = one.losses(params), one.errors(params), one.loss_and_gradients(params, 0)
    assert len(set(losses.tolist())) == 3 and losses.dtype == errors.dtype == DOUBLE
    torch.testing.assert_close(values, losses, rtol=1e-12, atol=0)
    for k in range(3):
        alone = [p[k:k + 1] for p in params]
        assert [losses[k], errors[k]] == [one.losses(alone), one.errors(alone)]
        assert all(torch.equal(g[k:k + 1], own)
                   for g, own in zip(gradients, one.loss_and_gradients(alone, 7)[1], strict=True))


# ---- derivatives -------------------------------------------------------------------------------


def test_loss_gradient_and_hessian_against_the_formula(trained: dict[str, Path], data: Path) -> None:
    """float64: 5 d + p written out, with torch.func's derivatives, forward over reverse; all columns of H."""
    one = opened(trained["adam"], data)
    weights, train = one.weights("final"), one.objective.train
    sizes, shapes = [p.numel() for p in weights], [p.shape[1:] for p in weights]
    model, a, u = FNO2d(modes=1, width=2, head=(8, 8), dtype=DOUBLE), train.a, train.u
    distance = 2 / (a.shape[1] - 1)

    def loss(flat: Tensor) -> Tensor:
        parts = [part.view(shape) for part, shape in zip(flat.split(sizes), shapes, strict=True)]
        v = functional_call(model, dict(zip(one.names, parts, strict=True)), (a,))
        x = a[:, 1:-1] * (v[:, 2:] - v[:, :-2]) / distance
        y = a[:, :, 1:-1] * (v[:, :, 2:] - v[:, :, :-2]) / distance
        residual = -((x[:, 2:] - x[:, :-2])[:, :, 2:-2] + (y[:, :, 2:] - y[:, :, :-2])[:, 2:-2]) / distance - 1
        p = residual.square().mean((1, 2)).sqrt()
        d = ((v - u).square().sum((1, 2)) / u.square().sum((1, 2))).sqrt()
        return (5 * d + p).mean()

    flat = torch.cat([p.flatten() for p in weights])
    torch.testing.assert_close(one.losses(weights), loss(flat)[None], rtol=1e-12, atol=0)
    gradient = torch.cat([g.flatten() for g in one.loss_and_gradients(weights, 0)[1]])
    torch.testing.assert_close(gradient, torch.func.grad(loss)(flat), rtol=1e-9, atol=1e-13)
    leaves = [p.requires_grad_() for p in weights]
    product = hessian_product(one.gradients(leaves), leaves, torch.arange(1))
    v = torch.cat([d.flatten(1) for d in directions(weights, 5)], 1)
    expected = torch.stack([torch.func.jvp(torch.func.grad(loss), (flat,), (row,))[1] for row in v])
    assert one.chunk == 16
    torch.testing.assert_close(product(v[:, None])[:, 0], expected, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(product(v[:1]), expected[:1], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("name", ["blocks", "cl", "alm"])
def test_hessian_against_differences(trained: dict[str, Path], data: Path, name: str) -> None:
    """float64: products, in parts where the samples do not fit into a block, are differences of the gradients."""
    one = opened(trained[name], data)
    weights = [p.requires_grad_() for p in one.weights("final")]
    gradients = one.gradients(weights)
    assert len(list(gradients())) == (2 if name == "blocks" else 1)
    along = directions(weights, 1)
    ends = [one.loss_and_gradients(moved(weights, along, h), 0)[1] for h in (1e-5, -1e-5)]
    expected = torch.cat([(a - b).flatten(1) / 2e-5 for a, b in zip(*ends, strict=True)], 1)
    found = hessian_product(gradients, weights, torch.arange(1))(torch.cat([d.flatten(1) for d in along], 1))
    assert (found - expected).norm() < 1e-6 * expected.norm()


# ---- layers and descriptions -------------------------------------------------------------------


def test_features(trained: dict[str, Path], data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four fields and the output: lift, layers and head lead from one to the next; large fields are thinned out."""
    one = opened(trained["blocks"], data)
    weights = one.weights("final")
    found = one.features(weights, 1000)
    assert list(found) == [f"Fourier layer {k}" for k in range(1, 5)] + ["output"]
    assert [tuple(x.shape) for x in found.values()] == [(3, 200)] * 4 + [(3, 100)]
    torch.testing.assert_close(found["output"], one.objective.network(weights)(one.objective.test.a).flatten(1))
    model = FNO2d(modes=1, width=2, head=(8, 8), dtype=DOUBLE)
    model.load_state_dict({name: w[0] for name, w in zip(one.names, weights, strict=True)})
    fields = [found[f"Fourier layer {k}"].view(3, 10, 10, 2).permute(1, 2, 0, 3) for k in (3, 4)]
    points, factor, transform = model.grid(one.objective.test.a)
    with torch.no_grad():
        torch.testing.assert_close(model.spectral_layers[3](fields[0], model.skips[3](fields[0]), transform), fields[1])
        u = fields[1]
        for k, layer in enumerate(model.head):
            u = layer(u) if k == 0 else layer(torch.nn.functional.gelu(u))
    torch.testing.assert_close((u.squeeze(3).permute(2, 0, 1) * factor).flatten(1), found["output"])
    monkeypatch.setattr(subject, "FIELD_NUMBERS", 60)  # 5 x 5 nodes of 2 channels
    few = one.features(weights, 2)
    assert torch.equal(few["Fourier layer 4"], found["Fourier layer 4"][:2].view(2, 10, 10, 2)[:, ::2, ::2].flatten(1))
    assert torch.equal(few["output"], found["output"][:2])


def test_description(trained: dict[str, Path], data: Path) -> None:
    """Filters number the output channels; what runs of different losses or data do not share."""
    one = opened(trained["adam"], data)
    assert one.title == "PINO, Darcy flow, r = 4, n = 4, adam, seed 0" and one.data == "all 4 training samples"
    widths = dict(zip(one.names, (p.shape[1:] for p in one.weights("final")), strict=True))
    for name, axis in zip(one.names, one.filters, strict=True):
        bias = widths.get(name.replace("weight", "bias"), widths["spectral_layers.0.weight"][-1:])
        assert axis is None if name.endswith("bias") else widths[name][axis] == bias[0], name
    tasks = {name: opened(path, data).task for name, path in trained.items()}
    differ = {name: {key for key in task if task[key] != tasks["adam"][key]} for name, task in tasks.items()}
    assert differ == {"adam": set(), "blocks": {"residual"}, "cl": {"pde_sub", "f_loss"}, "alm": {"residual"}}


# ---- what cannot be opened ---------------------------------------------------------------------


def test_folders_that_cannot_be_opened(folder: Path, data: Path) -> None:
    """One line that says what is wanted."""
    metrics, config = folder / "metrics.json", folder / "config.json"
    kept = {path: path.read_text() for path in (metrics, config)}
    for path, changes, words in [
            (metrics, {"module": "FNO"}, "must hold a run of PINO, but it is one of FNO"),
            (config, {"data": None}, "config.json is damaged: TypeError"),
            (config, {"options": {"adam_speed": 3}}, "unknown option 'adam_speed'"),
            (config, {"more": 1}, "has other arguments than this version writes: more"),
            (config, {"seed": 5}, "must end with what its config.json says: darcy/adam/r_4/n_4/seed_5")]:
        edit(path, **changes)
        with pytest.raises(UsageError, match=words):
            opened(folder, data)
        path.write_text(kept[path])
    edit(config, network=json.loads(kept[config])["network"] | {"width": 3})
    with pytest.raises(UsageError, match="model.pt holds the weights of another network than config.json describes"):
        opened(folder, data).weights("final")
    config.write_text(kept[config])
    (folder / "model.pt").unlink()
    assert opened(folder, data).weights("initial")
    with pytest.raises(UsageError, match="has no model.pt"):
        opened(folder, data).weights("final")
    metrics.unlink()
    with pytest.raises(UsageError, match="must hold a finished run, but has no metrics.json"):
        opened(folder, data)


def test_data_that_are_not_there(folder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By flag or environment; missing, with too few samples, or damaged: one line that names the flag."""
    monkeypatch.setenv("PINO_DATA_DIR", str(data))
    assert opened(folder, None).losses(opened(folder, None).weights("final")).isfinite()
    there = tmp_path / "there"
    there.mkdir()
    with pytest.raises(UsageError, match=rf"--data_dir {there} must hold the data .* darcy_N19_n\*_r4_f1_sub2_seed0.h5 "
                                         "there has its arguments and 4 samples"):
        opened(folder, there)
    shutil.copytree(data, there, dirs_exist_ok=True)
    test, = there.glob("*_r4_*_test.h5")
    content = bytearray(test.read_bytes())
    content[content.index(b"darcy 1")] += 1  # the generator's name
    test.write_bytes(content)
    with pytest.raises(UsageError, match=rf"--data_dir {there} must hold .*_test.h5 there has its arguments and 3"):
        opened(folder, there)
    shutil.copy(data / test.name, test)
    monkeypatch.setattr("pino.store.zlib.crc32", lambda block, crc=0: 1)
    with pytest.raises(UsageError, match=rf"--data_dir {there}: .* is damaged"):
        opened(folder, there)


def test_benchmark_files(tmp_path: Path) -> None:
    """Read from --piececonst_dir: it must be given, and hold what the run was trained with."""
    files = tmp_path / "files"
    make = "--N 19 --n_samples 4 --r 4 --format mat --names piececonst --outdir"
    assert generate.main([*make.split(), str(files)]) == 0
    flags = TINY.replace("--N 19 --sub 2", "--sub 2").split()
    assert darcy_sweep.run(parse([*flags, "--steps", "2", "--piececonst_dir", str(files), "--outdir",
                                  str(tmp_path / "out")])) == 0
    folder = next((tmp_path / "out").rglob("metrics.json")).parent
    one, result = opened(folder, None, None, files), json.loads((folder / "metrics.json").read_text())
    assert one.losses(one.weights("final")).tolist() == [result["train_loss"]]
    for benchmark, words in [(None, "--piececonst_dir must name the folder of the benchmark file piececonst_r4_N4_"),
                             (tmp_path, f"--piececonst_dir {tmp_path}: ")]:
        with pytest.raises(UsageError, match=words):
            opened(folder, None, None, benchmark)
    noted = result["config"]["data"]
    edit(folder / "config.json", data=noted | {"train": noted["train"] | {"crc32": 1}})
    with pytest.raises(UsageError, match=f"{files} holds other train fields than the run was trained with"):
        opened(folder, None, None, files)


def test_weights_that_the_training_began_with(tmp_path: Path, data: Path) -> None:
    """Those of the Adam run of --ckpt_dir; changed or gone: that is said, and the final ones are still there."""
    out = tmp_path / "out"
    adam, = train("--steps 2 --lr 0.01", out, data)
    warm = "--optimizer lbfgs --warm_start --lbfgs_max_iter 2"
    other = train(f"{warm} --ckpt_dir {out}", tmp_path / "warm", data)[0]
    began, there = opened(other, data).weights("initial"), opened(adam, data).weights("final")
    assert all(torch.equal(a, b) for a, b in zip(began, there, strict=True))
    words = f"the weights of the Adam run below {out} that it began with are gone or have changed"
    train("--steps 2 --lr 0.02 --force", out, data)
    with pytest.raises(UsageError, match=words):
        opened(other, data).weights("initial")
    shutil.rmtree(out)
    with pytest.raises(UsageError, match=words):
        opened(other, data).weights("initial")
    assert len(opened(other, data).weights("final")) == len(began)


# ---- the command -------------------------------------------------------------------------------


def test_command(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch,
                 capsys: pytest.CaptureFixture[str]) -> None:
    """All four tools on two seeds, by relative paths from another directory; a process that finds no data."""
    a, b = train("--steps 3 --seeds 0 1", tmp_path / "runs", data)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    kept = {path: path.read_bytes() for path in (*a.iterdir(), *b.iterdir())}
    paths, there = [os.path.relpath(folder) for folder in (a, b)], os.path.relpath(data)

    # pictures are half of the time: PINN's test_drawing.py and test_command paint them
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, file, **_: file.write(b"a picture"))
    monkeypatch.setattr(diagnosis_tools, "interactive_surface", lambda *_: "a page")

    def command(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["diagnose.py", *words, "--data_dir", there, "--device", "cpu"])
        code = diagnose.main()
        for number in diagnose.STOPS:
            signal.signal(number, signal.SIG_DFL)
        return code

    done = subprocess.run([sys.executable, str(small.PINO / "diagnose.py"), "hessian", *paths], text=True,
                          capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1", "PINO_DATA_DIR": "nowhere"})
    assert done.returncode == 2 and done.stderr.startswith("error: --data_dir nowhere must hold the data"), done.stderr
    assert command("similarity", *paths) == 0 and "Fourier layer 4" in capsys.readouterr().out
    assert command("hessian", paths[0], "--at", "final") == 0
    assert command("landscape", paths[0], "--grid", "5", "--line_points", "5", "--directions", "random") == 0
    assert command("connectivity", *paths, "--steps", "5", "--points", "5", "--curves", "bezier") == 0
    found = {path.stem: json.loads(path.read_text()) for path in a.glob("*.json")}
    result, others = found["metrics"], json.loads((b / "metrics.json").read_text())
    final = found["hessian"]["states"]["final"]
    assert final["method"] == "dense" and final["loss"] == pytest.approx(result["train_loss"], rel=1e-5)
    assert len(final["highest"]) == 5 and final["lambda_max"] > 0 > final["lambda_min"]
    assert found["landscape"]["loss"] == result["train_loss"]
    path = found["connectivity_adam-r_4-n_4-seed_1"]
    assert path["ends"] == {"loss": [r["train_loss"] for r in (result, others)],
                            "error": [r["test_error"] for r in (result, others)]}
    assert found["similarity"]["layers"] == [f"Fourier layer {k}" for k in range(1, 5)] + ["output"]
    assert kept == {path: path.read_bytes() for path in kept}, "nothing of the runs has changed"
