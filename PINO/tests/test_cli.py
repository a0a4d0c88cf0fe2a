"""The command line: what runs leave, what each flag and variable changes, published commands, memory."""

from __future__ import annotations

import csv
import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import forked
import pytest
import small
import torch
from forked import Warm
from pino.arguments import parse
from pino.flags import make_parser
from pino.floors import floors
from pino.settings import mean_predictor_error

warm = pytest.fixture(scope="module")(forked.warm)

ONE = [*small.TINY, "--n_samples", "3", "--r", "4"]
KEYS = ("schema module model system strategy physical data seed train_loss test_error metrics status stop_reason "
        "iterations evaluations seconds config environment").split()
FILES = {"config.json", "history.csv", "metrics.json", "model.pt"}
CONTRASTS = (1, 4, 10)

#: Folder of a strategy -> its flags and the iterations that it has at this budget.
METHODS = {
    "adam": ("--steps 40 --lr 0.01", 40),
    "lbfgs": ("--optimizer lbfgs --lbfgs_max_iter 45", 45),
    "adam_lbfgs": ("--optimizer lbfgs --warm_start", 30),
    "alm": ("--optimizer alm --alm_adam_lr 0.005", 20),
    "alm_data": ("--optimizer alm --alm_cons_item data --alm_adam_lr 0.005", 20),
    "nncg": ("--optimizer nncg --steps 5 --nncg_rank 2", 17),
    "cl": ("--optimizer cl --lr 0.01", None),
}


def read_strict(path: Path) -> dict[str, Any]:
    """Parse JSON and refuse NaN and Infinity."""
    def refuse(text: str) -> None:
        raise AssertionError(text)
    return json.loads(path.read_text(), parse_constant=refuse)


def results(path: Path) -> list[dict[str, Any]]:
    """All results below a folder, in the order of their paths."""
    return [read_strict(p) for p in sorted(path.rglob("metrics.json"))]


def history(folder: Path) -> list[dict[str, str]]:
    """Lines of history.csv."""
    with open(folder / "history.csv", newline="") as file:
        return list(csv.DictReader(file))


def contents(path: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, warm: Warm) -> Path:
    """A folder with data of three contrasts."""
    path = tmp_path_factory.mktemp("data")
    done = warm.run(*ONE, "--r", *CONTRASTS, "--data_rows", "6", "--steps", "1", "--data_dir", path, "--outdir",
                    path / "out")
    assert done["rc"] == 0, done
    return path


# ---- what a run leaves -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_every_strategy(warm: Warm, data: Path, tmp_path: Path, name: str) -> None:
    """Results are complete, strict and those of the saved weights; every step has a line; the loss falls."""
    flags, iterations = METHODS[name]
    words = [*ONE, *flags.split(), "--data_dir", data, "--outdir", tmp_path, "--r", *CONTRASTS]
    done = warm.run(*words)
    assert done["rc"] == 0, done
    sweep = parse([str(word) for word in words])
    settings = sweep.settings[0]
    for r in CONTRASTS:
        folder = tmp_path / "darcy" / name / f"r_{r}" / "n_3" / "seed_0"
        found, lines = read_strict(folder / "metrics.json"), history(folder)
        assert list(found) == KEYS and {p.name for p in folder.iterdir()} == FILES
        assert [found[key] for key in ("module", "model", "system", "strategy", "seed", "status")] == [
            "PINO", "PINO", "darcy", name, 0, "finished"]
        assert found["physical"] == {"name": "r", "value": r} and found["data"] == {"name": "n", "value": 3}
        assert found["config"] == read_strict(folder / "config.json") and found["environment"]["device"]
        metrics = found["metrics"]
        d, p = metrics["data_loss"], metrics["pde_loss"]
        assert found["train_loss"] == pytest.approx(5 * d + p, rel=1e-6)
        assert found["train_loss"] >= metrics["floor"] - 1e-5 and metrics["least_above_floor"] >= -1e-5
        train, test = (settings.source.fields(split, float(r), n) for split, n in (("train", 3), ("test", 4)))
        assert metrics["mean_predictor_error"] == pytest.approx(mean_predictor_error(train, test), abs=1e-12)
        assert metrics["floor"] == pytest.approx(floors(train, "published", 4).loss.mean(), rel=1e-9)
        saved = torch.load(folder / "model.pt", weights_only=True)
        row = settings.plan([settings.key(name, float(r), 0)])
        params, strategy = settings.build(row)
        again = strategy.objective.columns([w[None] for w in saved["params"]], torch.tensor([0]))
        absolute = strategy.objective.results([w[None] for w in saved["params"]])["test_error_abs"]
        assert [*again["train_loss"], *again["test_error"], *absolute] == pytest.approx(
            [found["train_loss"], found["test_error"], metrics["test_error_abs"]], rel=1e-6)
        first = strategy.objective.columns(params, torch.tensor([0]))["train_loss"][0]
        if name != "cl":  # which begins at r = 1
            assert float(lines[0]["train_loss"]) == pytest.approx(first, rel=1e-6)
        assert found["train_loss"] < first
        assert lines[0]["iteration"] == "0" and int(lines[-1]["iteration"]) == found["iterations"]
        assert float(lines[-1]["train_loss"]) == pytest.approx(found["train_loss"], rel=1e-9)
        steps = [int(line["iteration"]) for line in lines]
        assert steps == sorted(set(steps)) and all(math.isfinite(float(line["objective"])) for line in lines[1:])
        mini = [line for line in lines[1:] if line["stage"] not in ("lbfgs", "nncg")]
        assert [int(line["iteration"]) for line in mini] == list(range(1, len(mini) + 1)), "a line an update"
        expected = iterations or 5 * math.ceil(1 + (r - 1) / 3)
        assert 0 < found["iterations"] <= expected if "lbfgs" in flags + name else found["iterations"] == expected
        for line in mini if name in ("adam", "cl") else []:  # all samples are one batch here
            assert float(line["objective"]) == pytest.approx(
                5 * float(line["batch_data_loss"]) + float(line["batch_pde_loss"]), rel=1e-5)


def test_better_than_the_mean_solution(warm: Warm, tmp_path: Path) -> None:
    """At r = 10 a network that is trained for real beats the mean of the training solutions on the test fields."""
    done = warm.run("--N", "31", "--sub", "3", "--preset", "tiny", "--r", "10", "--n_samples", "60", "--test_num", "30",
                    "--device", "cpu", "--budget", "laptop", "--steps", "400", "--lr", "0.02", "--data_dir",
                    tmp_path / "data", "--outdir", tmp_path)
    assert done["rc"] == 0, done
    found, = results(tmp_path)
    assert found["test_error"] < 0.9 * found["metrics"]["mean_predictor_error"], found


# ---- runs again, beside and after one another ----------------------------------------------------------------------


def test_again_with_force_and_with_other_arguments(warm: Warm, data: Path, tmp_path: Path) -> None:
    flags = [*ONE, "--steps", "3", "--data_dir", data, "--outdir", tmp_path, "--r", "1", "4", "--seeds", "0", "5"]
    assert warm.run(*flags)["rc"] == 0
    before = contents(tmp_path)
    assert len(results(tmp_path)) == 4 and len({r["train_loss"] for r in results(tmp_path)}) == 4
    done = warm.run(*flags)
    assert done["rc"] == 0 and contents(tmp_path) == before
    assert done["err"].count("already done, nothing to do") == 4
    for more, words in ((["--lr", "0.1"], "options.adam_lr 0.001 -> 0.1"), (["--f_loss", "2"], "f_loss 1.0 -> 2.0"),
                        (["--residual", "flux"], "residual published -> flux"),
                        (["--test_num", "3"], "data.test_num 4 -> 3"), (["--width", "4"], "network.width 3 -> 4"),
                        (["--precision", "float64"], "precision float32 -> float64")):
        done = warm.run(*flags, *more)
        assert done["rc"] == 2 and done["err"].count("error: ") == 1 and words in done["err"], done
        assert "use another --outdir or --force" in done["err"] and contents(tmp_path) == before
    assert warm.run(*flags, "--log_every", "1", "--block", "2", "--spectral", "fft")["rc"] == 0, "these may change"
    done = warm.run(*flags, "--force", "--steps", "4")
    assert done["rc"] == 0 and [r["iterations"] for r in results(tmp_path)] == [4] * 4


def test_adam_run_that_others_begin_with(warm: Warm, data: Path, tmp_path: Path) -> None:
    """They begin with its weights exactly, note it, and leave every byte of it alone."""
    flags = [*ONE, "--data_dir", data, "--outdir", tmp_path]
    assert warm.run(*flags, "--steps", "6", "--lr", "0.01")["rc"] == 0
    adam, before = tmp_path / "darcy" / "adam", contents(tmp_path / "darcy" / "adam")
    loss = read_strict(next(adam.rglob("metrics.json")))["train_loss"]
    for name in ("alm", "alm_data", "nncg", "adam_lbfgs"):
        words = [word for word in shlex.split(METHODS[name][0]) if word not in ("--steps", "5")]
        done = warm.run(*flags, *words, "--ckpt_dir", tmp_path)
        assert done["rc"] == 0, done
        folder = next((tmp_path / "darcy" / name).rglob("metrics.json")).parent
        lines = history(folder)
        assert float(lines[0]["train_loss"]) == loss and lines[0]["stage"] != "adam"
        assert not {"adam"} & {line["stage"] for line in lines}
        assert read_strict(folder / "config.json")["warm_start"]["strategy"] == "adam"
        assert contents(adam) == before
        done = warm.run(*flags, *words)
        assert done["rc"] == 2 and "warm_start" in done["err"], "from a stage of Adam it is another run"
    assert not list(tmp_path.rglob("failed.json"))


def test_two_processes_on_one_run(warm: Warm, data: Path, tmp_path: Path) -> None:
    """The second says so and leaves it; the first, interrupted, is taken up where it stood."""
    flags = [*ONE, "--data_dir", str(data), "--outdir", str(tmp_path), "--steps"]
    first = subprocess.Popen([sys.executable, str(forked.ENTRY), *flags, "100000"], cwd=tmp_path, text=True,
                             stderr=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"})
    end = time.monotonic() + 60
    while not list(tmp_path.rglob("history.csv")):
        assert first.poll() is None and time.monotonic() < end
        time.sleep(0.02)
    done = warm.run(*flags, "100000")
    assert done["rc"] == 3 and "left alone, another process is training it" in done["err"], done
    first.send_signal(signal.SIGTERM)
    error = first.communicate(timeout=60)[1]
    assert first.returncode == 75 and "stopped by SIGTERM and saved; the same command goes on" in error
    assert not results(tmp_path) and list(tmp_path.rglob("checkpoint.pt"))


def test_diverged_run(warm: Warm, data: Path, tmp_path: Path) -> None:
    """It is recorded; the others go on."""
    flags = [*ONE, "--data_dir", data, "--outdir", tmp_path, "--r", "1", "4", "--lr", "1e30"]
    done = warm.run(*flags)
    assert done["rc"] == 0, done
    assert [(r["status"], r["train_loss"], r["stop_reason"]) for r in results(tmp_path)] == [
        ("diverged", None, "non_finite")] * 2
    done = warm.run(*flags[:-2], "--optimizer", "alm", "--ckpt_dir", tmp_path)
    assert done["rc"] == 0 and [r["status"] for r in results(tmp_path)] == ["diverged"] * 4, done
    assert "already done" in warm.run(*flags)["err"]


# ---- environment, benchmark files, published commands --------------------------------------------------------------


def shell(words: list[object], cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A real process, from another working directory."""
    return subprocess.run([sys.executable, *map(str, words)], cwd=cwd, capture_output=True, text=True, timeout=120,
                          env=os.environ | {"OMP_NUM_THREADS": "1"} | environment)


def test_environment(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each variable acts where its flag is not given."""
    flags = [*ONE, "--optimizer", "nncg"]

    def nncg(*more: str) -> Any:
        return parse([*flags, *more]).settings[0]
    monkeypatch.setenv("PINO_DATA_DIR", str(data))
    assert nncg().source.folder == data and nncg("--data_dir", "x").source.folder == Path("x").absolute()
    for name, flag, value in (("NNCG_RANK", "--nncg_rank", "7"), ("NNCG_CHUNK_SIZE", "--nncg_chunk_size", "3")):
        key = flag.removeprefix("--nncg_")
        before = getattr(nncg().options.nncg, key)
        monkeypatch.setenv(name, value)
        assert before != getattr(nncg().options.nncg, key) == int(value)
        assert getattr(nncg(flag, "2").options.nncg, key) == 2
    monkeypatch.setenv("NNCG_SEQ_HVP", "1")
    assert nncg().options.nncg.chunk_size == 1 and nncg("--nncg_chunk_size", "2").options.nncg.chunk_size == 2
    monkeypatch.setenv("NNCG_SEQ_HVP", "0")
    assert nncg().options.nncg.chunk_size == 3
    for value, block in (("2", 2), ("0", None)):
        monkeypatch.setenv("NNCG_FB_CHUNK", value)
        assert nncg().graph_block == block and nncg("--full_block", "4").graph_block == 4
    done = shell([forked.ENTRY, *ONE, "--outdir", tmp_path, "--steps", "1000000"], tmp_path, SEGMENT_WALL_SECONDS="3")
    assert done.returncode == 75 and "SIGUSR1" in done.stderr, done
    assert not [path for path in tmp_path.rglob("*.h5")], "those of PINO_DATA_DIR"


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Benchmark files of three contrasts."""
    path = tmp_path_factory.mktemp("benchmark")
    done = shell([small.PINO / "scripts" / "generate_darcy.py", "--N", "37", "--n_samples", "8", "--n_test", "5", "--r",
                  *CONTRASTS, "--format", "mat", "--names", "piececonst", "--outdir", path], path)
    assert done.returncode == 0, done
    assert {p.name for p in path.iterdir()} == {f"piececonst_r{r}_N8_smooth{k}.mat" for r in CONTRASTS for k in (1, 2)}
    return path


def test_benchmark_files(warm: Warm, benchmark: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                         ) -> None:
    """The same fields in files of both kinds train the same weights; also a curriculum."""
    flags = [word for word in ONE if word not in ("--N", "37")]
    for name in ("adam", "cl"):
        for r in ("4", "10"):
            words = [*shlex.split(METHODS[name][0]), "--r", r]
            done = warm.run(*flags, *words, "--piececonst_dir", benchmark, "--outdir", tmp_path / "mat")
            assert done["rc"] == 0, done
            assert warm.run(*ONE, *words, "--data_dir", data, "--outdir", tmp_path / "h5")["rc"] == 0
    done = warm.run(*flags, *words, "4", "--piececonst_dir", benchmark, "--outdir", tmp_path / "both")
    assert done["rc"] == 2 and "--r: one contrast at a time with cl on benchmark files" in done["err"]
    mat, h5 = results(tmp_path / "mat"), results(tmp_path / "h5")
    assert len(mat) == len(h5) == 4
    for one, other in zip(mat, h5):
        for name in ("train_loss", "test_error"):
            assert one[name] == pytest.approx(other[name], rel=1e-4)
        assert one["metrics"]["floor"] == pytest.approx(other["metrics"]["floor"], rel=1e-4)
        file = one["config"]["data"]["train"]["file"]
        assert file == f"piececonst_r{one['physical']['value']:g}_N8_smooth1.mat"
    assert not list(benchmark.glob("*.h5")), "nothing is made there"
    done = warm.run(*flags, "--r", "10", "--piececonst_dir", benchmark, "--test_num", "6", "--outdir", tmp_path / "six")
    assert done["rc"] == 2 and "holds 5 samples, 6 are asked for" in done["err"]
    monkeypatch.setenv("PINO_PIECECONST_DIR", str(benchmark))
    assert parse([*flags, "--sub", "9"]).settings[0].source.stride == 9, "no divisor of 420"
    source = parse(flags).settings[0].source
    assert source.benchmark and source.folder == benchmark and source.size == 37


def test_published_commands(tmp_path: Path, data: Path) -> None:
    """As printed in the published README, in PINO/, less what makes them long."""
    module = tmp_path / "PINO"
    shutil.copytree(small.PINO, module, ignore=shutil.ignore_patterns("tests", "data", "__pycache__"))
    less = "--N 37 --n_samples 3 --sub 4 --n_test 4"
    made = {"--r 10 --N 421 --n_samples 1024 --seed 0 --outdir data/": "r10", "--r 4 --n_samples 1000 --seed 0": "r4"}
    for command, name in made.items():
        done = shell(["scripts/generate_darcy.py", *command.split(), *less.split()], module)
        assert done.returncode == 0, done
        assert (module / "data" / f"darcy_N37_n3_{name}_f1_sub4_seed0.h5").exists()
        assert (module / "data" / f"darcy_N37_n4_{name}_f1_sub4_test.h5").exists()
    before = contents(module / "data")
    for kind, steps, iterations in (("adam", 15000, 2), ("lbfgs", 1, 20)):
        command = (f"--optimizer {kind} --steps {steps} --r 4 --n_samples 1000 --seed 0 --gpu 0 --outdir "
                   f"{tmp_path}/output/{kind}")
        more = [word for word in ONE if word not in ("--device", "cpu")] + ["--steps", "2"] * (kind == "adam")
        done = shell(["scripts/darcy_sweep.py", *command.split(), *more], module)
        assert done.returncode == 0, done
        assert ("--gpu 0: there is no such GPU, the CPU is used\n" in done.stderr) == (not torch.cuda.device_count())
        found, = results(tmp_path / "output" / kind)
        assert found["strategy"] == kind and found["iterations"] <= iterations and found["status"] == "finished"
    after = contents(module / "data")
    assert before.items() <= after.items() and all(".floors_" in name for name in after.keys() - before.keys())


def test_help_shows_every_flag(tmp_path: Path) -> None:
    done = shell([forked.ENTRY, "--help"], tmp_path)
    flags = [text for action in make_parser()._actions for text in action.option_strings]
    assert done.returncode == 0 and len(flags) > 60 and not list(tmp_path.iterdir())
    assert [flag for flag in flags if flag not in done.stdout] == []
    for name in ("PINO_DATA_DIR PINO_CKPT_DIR PINO_PIECECONST_DIR NNCG_RANK NNCG_FB_CHUNK NNCG_CHUNK_SIZE NNCG_SEQ_HVP "
                 "SEGMENT_WALL_SECONDS").split():
        assert name in done.stdout


# ---- memory --------------------------------------------------------------------------------------------------------

#: Runs the entry point and prints its largest resident memory in bytes.
PEAK = """import resource, runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as leave:
    print(leave.code, 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.parametrize("flags", ["--optimizer lbfgs --lbfgs_max_iter 2 --lbfgs_history 2",
                                   "--optimizer nncg --full_block 4 --steps 0 --nncg_lbfgs_steps 0 --nncg_steps 1 "
                                   "--nncg_rank 1 --nncg_cg_max_iters 1"])
def test_memory_does_not_grow_with_the_samples(tmp_path: Path, flags: str) -> None:
    """From n = 8 to 96: less than the graph of 4 samples more; that of 88 would be 22 times as much."""
    peaks = []
    for n in (8, 96):
        done = shell(["-c", PEAK, forked.ENTRY, "--N", "33", "--sub", "1", "--modes", "2", "--width", "16", "--preset",
                      "tiny", "--test_num", "2", "--budget", "smoke", "--device", "cpu", "--log_every", "100",
                      "--block", "4", "--data_rows", "96", "--n_samples", n, "--r", "1",
                      "--residual", "corrected", *flags.split(), "--data_dir", tmp_path / "data", "--outdir", tmp_path],
                     tmp_path)
        assert done.returncode == 0 and done.stdout.split()[-2] == "0", done
        peaks.append(int(done.stdout.split()[-1]))
    activations = 4 * 33**2 * 16 * 4 * 8  # bytes: 4 samples, 4 layers of 16 channels, two tensors each
    assert peaks[1] - peaks[0] < activations + 16e6, peaks


def test_histories_that_do_not_fit(warm: Warm, tmp_path: Path) -> None:
    """Refused before any data are made."""
    done = warm.run("--preset", "small", "--optimizer", "lbfgs", "--lbfgs_history", 10**6, "--r", "4",
                    "--device", "cpu", "--data_dir", tmp_path / "data", "--outdir", tmp_path / "out")
    assert done["rc"] == 2 and done["err"].startswith("error: lbfgs: 20000") and "148,753 weights" in done["err"]
    assert done["err"].count("\n") == 1 and not list(tmp_path.iterdir())
