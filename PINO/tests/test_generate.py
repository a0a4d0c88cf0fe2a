"""scripts/generate_darcy.py: files, kills, signals, bad input; what training calls."""

import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import torch
from pino import darcy, generate, matlab, store
from pino.files import UsageError
from pino.session import Signals
from pino.store import Recipe

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")  # the other thread sleeps
PINO = Path(__file__).resolve().parents[1]
SMALL = ["--N", "15", "--n_samples", "10", "--n_test", "3", "--device", "cpu"]
TRAIN, TEST = "darcy_N15_n{}_r4_f1_seed0.h5", "darcy_N15_n{}_r4_f1_test.h5"


def run(*flags: object, cwd: Path, **options) -> subprocess.CompletedProcess:
    words = [sys.executable, PINO / "scripts" / "generate_darcy.py", *map(str, flags)]
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=120, **options)


class Started:
    """The generator in a forked process, which is spared the imports. It saves after every block of 4 samples and takes
    its time over it, so that signals come between."""

    def __init__(self, folder: Path, rows: int, pause: float) -> None:
        self.folder, self.rows, self.pause = folder, rows, pause
        self.files = [Path(tempfile.mkstemp(dir=folder.parent, suffix=f".{name}")[1]) for name in ("out", "err")]
        self.process = multiprocessing.get_context("fork").Process(target=self._main)
        self.process.start()

    def _main(self) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        samples, generate.SAVE_SECONDS = generate._samples, 0.0
        generate._samples = lambda *words: (time.sleep(self.pause), samples(*words))[1]
        with open(self.files[0], "w") as out, open(self.files[1], "w") as error:
            with redirect_stdout(out), redirect_stderr(error):
                code = call(self.folder, "--n_samples", self.rows)
        os._exit(code)

    def wait(self) -> tuple[int, str, str]:
        """Exit code, stdout and stderr."""
        self.process.join(60)
        return self.process.exitcode, *(file.read_text() for file in self.files)


def call(folder: Path, *flags: object) -> int:
    return generate.main([*SMALL, "--outdir", str(folder), *map(str, flags)])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# ---- files -------------------------------------------------------------------------------------


def test_command_makes_what_the_solver_gives_from_any_folder(tmp_path):
    done = run(*SMALL, "--r", 1.5, 10, "--f", -2, "--seed", 3, "--outdir", "new/data", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "new/data"
    files = [f"darcy_N15_n{n}_r{r}_fm2_{split}.h5" for r in ("1.5", "10") for n, split in ((10, "seed3"), (3, "test"))]
    assert sorted(contents(folder)) == sorted(files)
    assert [line.split("/data/")[1].split(":")[0] for line in done.stdout.splitlines()[::2]] == files
    assert all("samples, about " in line for line in done.stdout.splitlines()[::2])
    for r, split, rows in ((1.5, "train", 10), (10, "test", 3)):
        recipe = Recipe(15, r, -2, seed=3, split=split)
        fields = store.read(folder / f"{recipe.stem(rows)}.h5", recipe, rows)
        signs = darcy.sign_fields(range(rows), 3 if split == "train" else 0, 15, split=split)
        found = darcy.solve(torch.from_numpy(np.where(signs, 3 * r, 3.0)), -2)
        assert (fields.signs() == signs).all() and (fields.u == found.u[:, ::7, ::7].numpy().astype(np.float32)).all()
        with h5py.File(fields.source) as file:
            assert file.attrs["residual"] == float(found.residual.max())


def test_geometry_is_the_same_for_every_contrast_and_test_fields_for_every_seed(tmp_path):
    assert call(tmp_path, "--r", 2, 10) == 0 and call(tmp_path, "--seed", 1, "--r", 2) == 0
    bits = {}
    for r, seed, split in ((2, 0, "train"), (10, 0, "train"), (2, 1, "train"), (2, 0, "test"), (10, 0, "test")):
        recipe = Recipe(15, r, seed=seed, split=split)
        bits[r, seed, split] = store.read(store.find(recipe, 3, tmp_path), recipe, 3).bits
    assert (bits[2, 0, "train"] == bits[10, 0, "train"]).all() and (bits[2, 0, "test"] == bits[10, 0, "test"]).all()
    assert (bits[2, 0, "train"] != bits[2, 1, "train"]).any(1).all()
    assert (bits[2, 0, "train"] != bits[2, 0, "test"]).any(1).all()
    assert len(contents(tmp_path)) == 5  # one test file for both seeds


def test_finished_files_stay_until_force(tmp_path, capsys):
    assert call(tmp_path) == 0
    files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    (tmp_path / (TEST.format(3) + ".part")).mkdir()
    (tmp_path / (TEST.format(3) + ".part/arguments.json")).write_text("{}")  # killed after the file was moved
    assert call(tmp_path, "--sigma-scale", 2) == 0
    assert capsys.readouterr().out.count("already there") == 2
    assert files == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert call(tmp_path, "--tol", 1e-6) == 2  # the tolerance is not in the name
    error = capsys.readouterr().err
    assert "tol 1e-08 -> 1e-06" in error and "--force" in error and error.count("\n") == 1
    assert call(tmp_path, "--tol", 1e-6, "--force") == 0
    with h5py.File(tmp_path / TRAIN.format(10)) as file:
        assert file.attrs["tol"] == 1e-6
    assert len(contents(tmp_path)) == 2


def test_larger_sets_take_over_the_smaller_and_end_in_the_same_bytes(tmp_path, capsys):
    assert call(tmp_path / "grown") == 0 and call(tmp_path / "grown", "--n_samples", 21) == 0
    assert f"{TRAIN.format(21)}: 11 samples in" in capsys.readouterr().out
    assert call(tmp_path / "whole", "--n_samples", 21) == 0
    assert contents(tmp_path / "whole").items() < contents(tmp_path / "grown").items()
    recipe = Recipe(15)
    small, large = (store.read(tmp_path / "grown" / TRAIN.format(n), recipe, 10) for n in (10, 21))
    assert (small.bits == large.bits).all() and (small.u == large.u).all()
    assert call(tmp_path / "grown", "--n_samples", 15) == 0 and "_n15_" in (out := capsys.readouterr().out)
    assert "15_r4_f1_seed0.h5: 5 samples in" in out, "a larger file may have the larger residual in other rows"
    assert call(tmp_path / "between", "--n_samples", 15) == 0
    assert contents(tmp_path / "between").items() < contents(tmp_path / "grown").items()
    os.truncate(tmp_path / "grown" / TRAIN.format(21), 3000)  # a broken one is no source
    assert call(tmp_path / "grown", "--n_samples", 22) == 0
    assert f"{TRAIN.format(22)}: 7 samples in" in capsys.readouterr().out


@pytest.mark.parametrize("names", ["darcy", "piececonst"])
def test_matlab_files(names, tmp_path, capsys):
    flags = ["--format", "mat", "--names", names, "--r", 10, "--sigma-scale", 0.5, "--seed", 2]
    assert call(tmp_path, *flags) == 0
    train, test = (("darcy_N15_n10_r10_f1_seed2.mat", "darcy_N15_n3_r10_f1_test.mat") if names == "darcy"
                   else ("piececonst_r10_N10_smooth1.mat", "piececonst_r10_N10_smooth2.mat"))
    assert sorted(contents(tmp_path)) == sorted([train, test])
    content = scipy.io.loadmat(tmp_path / train)
    found = darcy.solve(torch.from_numpy(content["coeff"].copy()))
    assert content["sol"].shape == (10, 15, 15) and (content["sol"] == found.u.numpy()).all()
    assert (content["coeff"] == np.where(darcy.sign_fields(range(10), 2, 15), 30, 3)).all()
    assert content["sigma_scale"].item() == 0.5
    if names == "piececonst":
        assert len(matlab.read_benchmark(tmp_path, 3, "test", 10, 7)) == 3
    assert call(tmp_path, *flags) == 0 and capsys.readouterr().out.count("already there") == 2
    assert call(tmp_path, *flags, "--alpha", 3) == (2 if names == "piececonst" else 0)


def test_a_solution_that_misses_its_tolerance_stops_the_generator(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(generate, "solve", lambda a, f, tol: darcy.solve(a, f, 1e-18))
    assert call(tmp_path) == 1
    assert "error: " in (error := capsys.readouterr().err) and "relative residual" in error
    assert not contents(tmp_path)


# ---- interruptions -----------------------------------------------------------------------------


def test_killed_at_random_moments_it_ends_in_the_same_bytes(tmp_path):
    assert Started(tmp_path / "whole", 60, pause=0.0).wait()[0] == 0
    chance, kills, part = random.Random(0), 0, tmp_path / "killed" / (TRAIN.format(60) + ".part")
    while True:
        before = len(list(part.glob("rows_*.npz")))
        started = Started(tmp_path / "killed", 60, pause=0.03)
        while started.process.is_alive() and len(list(part.glob("rows_*.npz"))) <= before:
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.2))
        if not started.process.is_alive():
            break
        started.process.kill()
        started.wait()
        kills += 1
    code, out, error = started.wait()
    assert code == 0 and kills >= 2 and "anew" not in error, (kills, out, error)
    assert contents(tmp_path / "whole") == contents(tmp_path / "killed")


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGINT])
def test_asked_to_stop_it_saves_and_a_second_process_takes_over(number, tmp_path):
    folder = tmp_path / "data"
    first, part = Started(folder, 80, pause=0.1), folder / (TRAIN.format(80) + ".part")
    while not list(part.glob("rows_*.npz")):
        assert first.process.is_alive()
        time.sleep(0.01)
    second = Started(folder, 80, pause=0.0)
    while "makes it, waiting" not in second.files[1].read_text():
        assert second.process.is_alive()
        time.sleep(0.01)
    os.kill(first.process.pid, number)
    code, _, error = first.wait()
    assert code == 75 and f"{number.name}: stopped after" in error and "the same command goes on" in error
    code, out, error = second.wait()
    assert code == 0, error
    made = int(out.partition(f"{TRAIN.format(80)}: ")[2].split()[0])
    assert 0 < made < 80 and sorted(contents(folder)) == sorted([TRAIN.format(80), TEST.format(3)])
    store.read(folder / TRAIN.format(80), Recipe(15), 80)


def test_two_processes_make_a_file_once(tmp_path):
    both = [Started(tmp_path / "data", 20, pause=0.05) for _ in range(2)]
    results = [started.wait() for started in both]
    out = results[0][1] + results[1][1]
    assert [code for code, *_ in results] == [0, 0] and out.count("20 samples in") == 1, results
    assert out.count(f"{TRAIN.format(20)}: already there") == 1


@pytest.mark.parametrize("spoil", ["nothing", "truncate", "note", "arguments"])
def test_pieces_that_cannot_be_used_are_made_anew(spoil, tmp_path, capsys, monkeypatch):
    def interrupted(*words):
        if words[1].start >= 8:
            raise KeyboardInterrupt
        return samples(*words)

    samples = generate._samples
    with monkeypatch.context() as patch:
        patch.setattr(generate, "SAVE_SECONDS", 0.0)
        patch.setattr(generate, "_samples", interrupted)
        assert call(tmp_path) == 130
    part = tmp_path / (TRAIN.format(10) + ".part")
    assert sorted(path.name for path in part.iterdir()) == ["arguments.json", "rows_0000000.npz", "rows_0000004.npz"]
    if spoil == "truncate":
        os.truncate(part / "rows_0000004.npz", 500)
    elif spoil == "note":
        (part / "arguments.json").write_text("{")
    tol = ["--tol", "1e-6"] if spoil == "arguments" else []
    assert call(tmp_path, *tol) == 0
    shown = capsys.readouterr()
    assert ("anew" in shown.err) == (spoil != "nothing")
    made = {"nothing": 2, "truncate": 6}.get(spoil, 10)
    assert f"{TRAIN.format(10)}: {made} samples in" in shown.out and not part.exists()
    before = contents(tmp_path)
    assert call(tmp_path, "--force", *tol) == 0 and contents(tmp_path) == before


# ---- what training calls -----------------------------------------------------------------------


def test_make_gives_a_file_that_suffices(tmp_path, capsys):
    recipe, cpu = Recipe(15), torch.device("cpu")
    with Signals() as signals:
        path = generate.make(recipe, 6, tmp_path, cpu, signals)
        assert path.name == TRAIN.format(6) and f"making {path}: 6 samples, about 1 s" in capsys.readouterr().out
        assert generate.make(recipe, 4, tmp_path, cpu, signals) == path and capsys.readouterr().out == ""
        assert generate.make(recipe, 7, tmp_path, cpu, signals).name == TRAIN.format(7)
        path.unlink()
        (tmp_path / TRAIN.format(9)).write_text("no data")
        with pytest.raises(UsageError, match="n9_r4_f1_seed0.h5 cannot be read"):
            generate.make(recipe, 9, tmp_path, cpu, signals)
        with pytest.raises(UsageError, match="--sub"):
            generate.make(Recipe(16), 9, tmp_path, cpu, signals)
        (tmp_path / "file").write_text("")
        with pytest.raises(UsageError, match="--data_dir .*file: cannot write"):
            generate.make(recipe, 5, tmp_path / "file", cpu, signals)
        signals.requested = "SIGUSR1"
        with pytest.raises(generate.Stopped, match="stopped after 4 of 12") as caught:
            generate.make(Recipe(15, r=2), 12, tmp_path, cpu, signals)
    assert caught.value.code == 75


def test_resolve_keeps_the_geometry(tmp_path):
    assert call(tmp_path, "--r", 10, 3, "--f", 2) == 0
    ten, three = (store.read(tmp_path / f"darcy_N15_n10_r{r}_f2_seed0.h5", Recipe(15, r, 2), 10) for r in (10, 3))
    found = generate.resolve(ten, 3, torch.device("cpu"))
    assert (found.u == three.u).all() and found.u.dtype == np.float32 and (found.bits == ten.bits).all()
    assert (found.low, found.high, found.contrast, found.f) == (3, 9, 3, 2) and found.identity == three.identity


# ---- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("flags", "expected"), [
    ("--N 16", "--sub must be a divisor of N - 1 = 15, at most 7, got 7"),
    ("--N 4", "--N must be from 5 to 4097, got 4"),
    ("--N 15.5", "--N: invalid int value"), ("--n_samples 0", "--n_samples must be from 1 to 1e6, got 0"),
    ("--n_test -1", "--n_test must be from 0"), ("--r 0.5", "--r must be from 1 to 1e4, got 0.5"),
    ("--r nan", "--r must be"), ("--r 2 2.0", "--r: 2 is given twice"), ("--r two", "--r: invalid float"),
    ("--sigma-scale 0", "--sigma-scale must be above 0"), ("--f 0", "--f must be"), ("--tau 0", "--tau must be"),
    ("--a_low -3", "--a_low must be"), ("--seed -1", "--seed must be from 0"), ("--grf white", "--grf: invalid choice"),
    ("--tol 1e-14", "--tol must be from 2.0e-12"), ("--device tpu", "--device must be auto, cpu, cuda"),
    ("--names piececonst", "--names piececonst needs --format mat"), ("--n 5", "unrecognized"),
    ("--format mat --sub 7", "--sub must be 1 with --format mat, got 7"), ("--format npz", "--format: invalid choice"),
    ("--format mat --N 421 --n_samples 1515", "--n_samples must be at most 1514"),
    ("--format mat --N 421 --n_test 1515", "--n_test must be at most 1514"),
    ("--N 4096 --sub 1 --n_samples 1000000", "GB are free"),
])
def test_bad_input_is_one_line_and_leaves_nothing(flags, expected, tmp_path, capsys):
    assert call(tmp_path / "data", *flags.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and expected in error
    assert not list(tmp_path.rglob("*.*"))


def test_folders_that_cannot_be_written_and_a_full_disk(tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    assert call(tmp_path / "file") == 2
    assert "--outdir" in (error := capsys.readouterr().err) and error.count("\n") == 1
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        code = call(tmp_path / "full", "--sub", 1, "--n_samples", 40)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 2 and capsys.readouterr().err.splitlines()[-1].startswith("error: --outdir")
    assert not list((tmp_path / "full").glob("*.h5"))
    assert call(tmp_path / "full") == 0
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 50, 50))
    assert call(tmp_path / "small") == 2 and "5e-08 GB are free" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["cut", "text", "foreign"])
def test_files_of_others_are_named_and_left_alone(kind, tmp_path, capsys):
    assert call(tmp_path) == 0
    path = tmp_path / TRAIN.format(10)
    if kind == "cut":
        os.truncate(path, path.stat().st_size // 2)
    elif kind == "text":
        path.write_text("no data")
    else:
        with h5py.File(path, "w") as file:
            file["u"] = np.zeros(3)
    before = path.read_bytes()
    capsys.readouterr()
    assert call(tmp_path) == 2
    error = capsys.readouterr().err
    assert str(path) in error and "--force" in error and error.count("\n") == 1 and path.read_bytes() == before
    assert call(tmp_path, "--force") == 0 and len(store.read(path, Recipe(15), 10)) == 10


def test_help_names_the_flags_and_the_published_commands_run(tmp_path, monkeypatch):
    shown = generate.make_parser().format_help()
    for word in "--N --n_samples --r --a_low --tau --alpha --sigma-scale --f --seed --outdir --n_test --grf".split():
        assert word in shown
    monkeypatch.chdir(tmp_path)
    assert generate.main("--r 10 --N 15 --n_samples 6 --seed 0 --outdir data/".split()) == 0
    assert sorted(contents(tmp_path / "data")) == ["darcy_N15_n200_r10_f1_test.h5", "darcy_N15_n6_r10_f1_seed0.h5"]
