"""The generator commands: files, kills, bad input, damaged files, scales."""

import hashlib
import os
import random
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from fno import datafile, generate
from fno.samples import Recipe, Sampler
from fno.systems import SYSTEMS

FNO = Path(__file__).resolve().parents[1]
SMALL = ["--n", "16", "--ntrain", "22", "--nval", "8", "--ntest", "3", "--device", "cpu"]
# saves after every chunk of 4 samples, and takes its time over it, so that signals come between
SLOW = """
import sys, time
sys.path.insert(0, {fno!r})
from fno import datafile, generate, samples
datafile.SAVE_SECONDS, samples.CHUNK = 0.0, {{"cpu": (1 << 18, 4)}}
append = datafile.Part.append
datafile.Part.append = lambda part, chunk: (time.sleep({pause}), append(part, chunk))
sys.exit(generate.main("advdiff", sys.argv[1:]))
"""


def run(system: str, *flags: object, cwd: Path, **options) -> subprocess.CompletedProcess:
    words = [sys.executable, FNO / "utils" / f"gen_data_{system}.py", *map(str, flags)]
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=120, **options)


def start(folder: Path, rows: int, pause: float) -> subprocess.Popen:
    words = [sys.executable, "-c", SLOW.format(fno=str(FNO), pause=pause), "--n", "64", "--ntrain", str(rows), "--nval",
             "4", "--ntest", "4", "--device", "cpu", "--datapath", str(folder)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def call(system: str, *flags: object) -> int:
    return generate.main(system, [*SMALL, *map(str, flags)])


def contents(path: Path) -> dict[str, str]:
    with h5py.File(path) as file:
        return {name: hashlib.sha256(file[name][:].tobytes()).hexdigest() for name in file}


@pytest.mark.parametrize(("system", "stem", "coefficients"), [
    ("poisson", "k1.0_2.5", 3), ("advdiff", "adr0.2_1.0", 5), ("helmholtz", "o1_10", 2)])
def test_command_writes_the_published_layout_from_any_folder(system, stem, coefficients, tmp_path):
    done = run(system, *SMALL, "--datapath", "new/data", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "new/data"
    names = {f"_train_{stem}_32k.h5": 22, f"_val_{stem}_4k.h5": 8, f"_test_{stem}_4k.h5": 3}
    assert {path.name for path in folder.iterdir()} == {*names, f"_train_{stem}_32k_scales.npy"}
    for name, rows in names.items():
        with h5py.File(folder / name) as file:
            shapes = {"fields": (rows, 2, 16, 16), "tensor": (rows, coefficients), "other": (rows, 1)}
            assert {key: x.shape for key, x in file.items()} == {
                key: shape for key, shape in shapes.items() if key != "other" or system == "advdiff"}
            for key, x in file.items():
                assert x.dtype == np.float32 and x.chunks is None and x.compression is None
                assert zlib.crc32(x[:].tobytes()) == file.attrs[f"crc32_{key}"]
            attrs = dict(file.attrs)
            f, u = file["fields"][:, 0].astype(np.float64), file["fields"][:, 1].astype(np.float64)
        expected = {"n": 16, "ng": 144, "sparse": True, "ntrain": 22, "nval": 8, "ntest": 3, "seed": 0,
                    "dtype": "float64", "device": "cpu", "system": system}
        assert {key: attrs[key] for key in expected} == expected
        assert attrs["split"] == name.split("_")[1] and attrs["generator"] == "fno 1" and attrs["complete"]
        assert list(attrs["range"]) == list(SYSTEMS[system].defaults) == [attrs[k] for k in SYSTEMS[system].flags]
        assert 0 < attrs["residual"] < 1e-10 and attrs.get("psi") == ("table" if system == "advdiff" else None)
        if system != "helmholtz":
            assert abs(f.mean((1, 2))).max() < 1e-7 and abs(u.mean((1, 2))).max() < 1e-6
    direct = Sampler(Recipe(SYSTEMS[system], SYSTEMS[system].defaults, n=16)).compute("val", 1, np.arange(2))[0]
    with h5py.File(folder / f"_val_{stem}_4k.h5") as file:  # rows 2 and 3: the second block
        assert (file["fields"][2:4] == direct["fields"]).all() and (file["tensor"][2:4] == direct["tensor"]).all()


def test_finished_files_stay_and_other_arguments_need_force(tmp_path, capsys):
    assert call("poisson", "--datapath", tmp_path) == 0
    files = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.iterdir()}
    (tmp_path / "_val_k1.0_2.5_4k.h5.part").mkdir()
    (tmp_path / "_val_k1.0_2.5_4k.h5.part/progress.json").write_text("{}")  # killed after the move
    assert call("poisson", "--datapath", tmp_path) == 0
    assert capsys.readouterr().out.count("already there") == 3
    assert files == {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.iterdir()}
    assert call("poisson", "--datapath", tmp_path, "--seed", 1, "--no-sparse") == 2
    error = capsys.readouterr().err
    assert "sparse True -> False, seed 0 -> 1" in error and "--force" in error and error.count("\n") == 1
    assert call("poisson", "--datapath", tmp_path, "--nval", 9) == 2  # concerns one file alone
    assert "_val_" in (error := capsys.readouterr().err) and "nval 8 -> 9" in error
    before = {path: contents(path) for path in tmp_path.glob("*.h5")}
    scales = np.load(tmp_path / "_train_k1.0_2.5_32k_scales.npy")
    assert call("poisson", "--datapath", tmp_path, "--seed", 1, "--no-sparse", "--force") == 0
    assert all(contents(path)["fields"] != old["fields"] for path, old in before.items())
    assert (np.load(tmp_path / "_train_k1.0_2.5_32k_scales.npy") != scales).any()
    with h5py.File(tmp_path / "_train_k1.0_2.5_32k.h5") as file:
        assert not file.attrs["sparse"] and file.attrs["seed"] == 1


def test_killed_at_random_moments_it_ends_in_the_same_bytes(tmp_path):
    assert start(tmp_path / "whole", 400, pause=0.0).wait(timeout=60) == 0
    chance, starts, kills = random.Random(0), 0, 0
    progress = tmp_path / "killed/_train_adr0.2_1.0_32k.h5.part/progress.json"
    while True:
        before = progress.read_text() if progress.exists() else ""
        process = start(tmp_path / "killed", 400, pause=0.02)
        starts += 1
        if starts > 1:  # the first is killed at once, perhaps before it has saved anything
            while process.poll() is None and (not progress.exists() or progress.read_text() == before):
                time.sleep(0.005)
            time.sleep(chance.uniform(0, 1))
        else:
            while process.poll() is None and not progress.parent.exists():
                time.sleep(0.001)
        if process.poll() is not None:
            break
        process.kill()
        process.wait()
        kills += 1
    out, error = process.communicate()
    assert process.returncode == 0 and kills >= 3 and "begun anew" not in error, (kills, out, error)
    assert not list((tmp_path / "killed").glob("*.part"))
    for path in (tmp_path / "whole").glob("*.h5"):
        assert contents(path) == contents(tmp_path / "killed" / path.name)
        with h5py.File(path) as one, h5py.File(tmp_path / "killed" / path.name) as two:
            for key in ("residual", "crc32_fields", "crc32_tensor", "crc32_other"):
                assert one.attrs[key] == two.attrs[key]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_it_saves_and_a_second_process_takes_over(number, tmp_path):
    process = start(tmp_path, 400, pause=0.2)
    progress = tmp_path / "_train_adr0.2_1.0_32k.h5.part/progress.json"
    while not progress.exists():
        assert process.poll() is None
        time.sleep(0.01)
    second = start(tmp_path, 400, pause=0.0)
    while "makes it, waiting" not in (line := second.stderr.readline()):
        assert line
    process.send_signal(number)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 75 and f"{number.name}: stopped after" in error and "the same command goes on" in error
    out, error = second.communicate(timeout=60)
    assert second.returncode == 0, error
    made = int(out.partition("_32k.h5: ")[2].split()[0])
    assert 0 < made < 400 and not list(tmp_path.glob("*.part"))
    assert all(datafile.damage(path) is None for path in tmp_path.glob("*.h5"))


def test_two_processes_make_a_file_once(tmp_path):
    both = [start(tmp_path, 60, pause=0.1) for _ in range(2)]
    results = [(*process.communicate(timeout=100), process.returncode) for process in both]
    assert [code for *_, code in results] == [0, 0], results
    out = results[0][0] + results[1][0]
    assert out.count("60 samples in") == 1 and out.count("_train_adr0.2_1.0_32k.h5: already there") == 1


@pytest.mark.parametrize("spoil", ["nothing", "truncate", "flip", "progress", "arguments", "form"])
def test_a_part_that_cannot_be_used_is_begun_anew(spoil, tmp_path, capsys, monkeypatch):
    append = datafile.Part.append

    def interrupted(part, chunk):
        append(part, chunk)
        if part.rows >= 10:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(datafile, "SAVE_SECONDS", 0.0)
        patch.setattr(datafile.Part, "append", interrupted)
        assert call("advdiff", "--datapath", tmp_path) == 130
    part = tmp_path / "_train_adr0.2_1.0_32k.h5.part"
    if spoil == "truncate":
        os.truncate(part / "data.h5", 5000)
    elif spoil == "flip":
        with h5py.File(part / "data.h5", "r+") as file:
            file["fields"][3, 1, 5, 5] += 1
    elif spoil == "progress":
        (part / "progress.json").write_text('{"rows": ')
    elif spoil == "form":
        with h5py.File(part / "data.h5", "r+") as file:
            del file["other"]
    assert call("advdiff", "--datapath", tmp_path, *(["--seed", "5"] if spoil == "arguments" else [])) == 0
    shown = capsys.readouterr()
    assert ("is begun anew" in shown.err) == (spoil != "nothing")
    assert f"{tmp_path}/_train_adr0.2_1.0_32k.h5: {12 if spoil == 'nothing' else 22} samples in" in shown.out
    assert datafile.damage(tmp_path / "_train_adr0.2_1.0_32k.h5") is None


@pytest.mark.parametrize(("system", "flags", "expected"), [
    ("poisson", "--n 15", "--n must be an even number from 4 to 4096, got 15"),
    ("poisson", "--n 2", "--n must be"), ("poisson", "--n 16.5", "--n: invalid int value"),
    ("poisson", "--ng 143", "--ng must be a square number from 1 to 256, got 143"),
    ("poisson", "--ng 289", "--ng must be"),
    ("poisson", "--e1 3", "--e1 must be at most --e2 (2.5), got 3.0"),
    ("poisson", "--e1 0", "--e1 must be above 0"), ("poisson", "--e2 nan", "--e2 must be above 0"),
    ("poisson", "--e2 inf", "--e2 must be"), ("poisson", "--ntrain 0", "--ntrain must be at least 1, got 0"),
    ("poisson", "--ntest -1", "--ntest must be"), ("poisson", "--seed -1", "--seed must be from 0 to"),
    ("poisson", "--psi exact", "unrecognized arguments: --psi"), ("poisson", "--adr1 1", "unrecognized"),
    ("poisson", "--nt 3", "unrecognized"), ("poisson", "--dtype float16", "--dtype: invalid choice"),
    ("poisson", "--device tpu", "--device must be auto, cpu, cuda"), ("poisson", "--device cuda:99", "no such GPU"),
    ("advdiff", "--adr1 2 --adr2 1", "--adr1 must be at most --adr2 (1.0)"),
    ("advdiff", "--psi best", "--psi: invalid"),
    ("helmholtz", "--o1 1.5", "--o1: invalid int value: '1.5'"), ("helmholtz", "--o1 11", "--o1 must be at most"),
    ("poisson", "--ntrain 2000000000", "GB, "),
])
def test_bad_input_is_one_line_and_leaves_nothing(system, flags, expected, tmp_path, capsys):
    assert generate.main(system, ["--datapath", str(tmp_path / "data"), *flags.split()]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and expected in error
    assert not list(tmp_path.rglob("*.*"))


def test_bad_input_ends_the_command_with_2(tmp_path):
    done = run("helmholtz", "--n", 7, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, "error: --n must be an even number from 4 to 4096, got 7\n")
    shown = run("advdiff", "--help", cwd=tmp_path).stdout
    for word in "--adr1 --adr2 --sparse --no-sparse --datapath --psi --verify --force 32768 5.4".split():
        assert word in shown


def test_folders_that_cannot_be_written_and_a_full_disk(tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    assert call("poisson", "--datapath", tmp_path / "file") == 2
    assert "--datapath" in (error := capsys.readouterr().err) and error.count("\n") == 1
    done = run("poisson", *SMALL, "--datapath", tmp_path / "full", cwd=tmp_path, preexec_fn=lambda: resource.setrlimit(
        resource.RLIMIT_FSIZE, (30_000, 30_000)))
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("error: --datapath"), done.stderr
    assert "Traceback" not in done.stderr and not list((tmp_path / "full").glob("*.h5"))
    assert call("poisson", "--datapath", tmp_path / "full") == 0
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 50, 50))
    assert call("poisson", "--datapath", tmp_path / "small") == 2 and "5e-08 GB are free" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["truncated", "text", "published"])
def test_files_of_others_are_named_and_left_alone(kind, tmp_path, capsys):
    assert call("poisson", "--datapath", tmp_path) == 0
    path = tmp_path / "_val_k1.0_2.5_4k.h5"
    if kind == "truncated":
        os.truncate(path, path.stat().st_size // 2)
    elif kind == "text":
        path.write_text("no data")
    else:
        with h5py.File(path, "w") as file:
            file["fields"], file["tensor"] = np.zeros((8, 2, 16, 16), "f4"), np.zeros((8, 3), "f4")
    before = path.read_bytes()
    capsys.readouterr()
    assert call("poisson", "--datapath", tmp_path) == 2
    error = capsys.readouterr().err
    assert str(path) in error and "--force" in error and error.count("\n") == 1 and path.read_bytes() == before
    assert call("poisson", "--datapath", tmp_path, "--verify") == 1
    assert call("poisson", "--datapath", tmp_path, "--force") == 0
    assert call("poisson", "--datapath", tmp_path, "--verify") == 0


def test_verify_finds_a_flipped_bit_and_a_missing_file(tmp_path, capsys):
    assert call("advdiff", "--datapath", tmp_path) == 0 and call("advdiff", "--datapath", tmp_path, "--verify") == 0
    assert capsys.readouterr().out.count("as its checksums say") == 3
    with h5py.File(tmp_path / "_test_adr0.2_1.0_4k.h5", "r+") as file:
        offset = file["other"].id.get_offset()
    with open(tmp_path / "_test_adr0.2_1.0_4k.h5", "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))
    (tmp_path / "_val_adr0.2_1.0_4k.h5").unlink()
    assert call("advdiff", "--datapath", tmp_path, "--verify") == 1
    shown = capsys.readouterr()
    assert "the checksum of `other` does not fit" in shown.out and "_val_adr0.2_1.0_4k.h5 is not there" in shown.out
    assert shown.err == "error: 2 of 3 files failed: val, test\n"


def test_a_residual_above_the_limit_stops_the_generator(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(generate, "RESIDUAL", 1e-18)
    assert call("poisson", "--datapath", tmp_path) == 1
    assert "relative residual" in (error := capsys.readouterr().err) and error.splitlines()[-1].startswith("error: ")
    assert not list(tmp_path.iterdir())


def test_scales_follow_their_definition_and_are_mended(tmp_path, capsys):
    assert call("advdiff", "--datapath", tmp_path, "--psi", "exact") == 0
    with h5py.File(tmp_path / "_train_adr0.2_1.0_32k.h5") as file:
        f, u = np.moveaxis(file["fields"][:].astype(np.float64), 1, 0)
        tensor, psi = file["tensor"][:].astype(np.float64), file["other"][:, 0]
        assert file.attrs["psi"] == "exact" and (psi > 0.2).all() and (psi < 1).all()
    path = tmp_path / "_train_adr0.2_1.0_32k_scales.npy"
    expected = [np.median([np.linalg.norm(x) / 256 for x in f]), *np.median(abs(tensor), 0),
                np.median(abs(u).max((1, 2))), 1, 1]
    assert np.load(path).dtype == np.float64 and np.allclose(np.load(path), expected, rtol=1e-12)
    good = path.read_bytes()
    for spoil in (path.unlink, lambda: path.write_bytes(b"no scales"), lambda: np.save(path, np.ones(7)),
                  lambda: np.save(path, np.full(9, np.nan)), lambda: os.utime(path, (1, 1))):
        spoil()
        assert call("advdiff", "--datapath", tmp_path, "--psi", "exact") == 0 and path.read_bytes() == good
        assert "_scales.npy: written" in capsys.readouterr().out


@pytest.mark.parametrize(("system", "bounds", "expected"), [
    ("poisson", (1.0, 2.5), (0.0123, 0.0125, 0.0019, 0.469)),
    ("poisson", (10.0, 20.0), (0.0741, 0.0789, 0.0458, 0.150)),
    ("poisson", (100.0, 200.0), (0.700, 0.747, 0.493, 0.036)),
    ("advdiff", (2.0, 2.5), (0.0052496, 0.0052742, 0.0016477, 0.478469, 0.483195, 0.178436))])
def test_medians_are_near_the_published_ones(system, bounds, expected):
    chunks = list(Sampler(Recipe(SYSTEMS[system], bounds)).chunks("train", 1024))
    tensor = np.concatenate([chunk.arrays["tensor"] for chunk in chunks])
    fields = np.concatenate([chunk.arrays["fields"] for chunk in chunks])
    found = [np.median(np.linalg.norm(fields[:, 0], axis=(1, 2))) / 128**2, *np.median(abs(tensor), 0),
             np.median(abs(fields[:, 1]).max((1, 2)))]
    assert np.allclose(found, [0.00173, *expected], rtol=0.12)  # of 1024 samples


def test_command_is_the_line_that_makes_the_files(tmp_path):
    line = generate.command("helmholtz", 2, 5.0, tmp_path / "a b", "--n 16 --ntrain 4 --nval 4 --ntest 4")
    assert line.endswith("--n 16 --ntrain 4 --nval 4 --ntest 4") and "--o1 2 --o2 5 --datapath " in line
    words = shlex.split(line)
    assert words[0] == "python" and Path(words[1]).is_absolute()
    subprocess.run([sys.executable, *words[1:]], check=True, capture_output=True, cwd="/")
    assert (tmp_path / "a b" / "_train_o2_5_32k.h5").exists()


def test_threads_of_the_caller_are_left_as_they_were(tmp_path):
    torch.set_num_threads(2)
    try:
        assert call("poisson", "--datapath", tmp_path) == 0 and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
