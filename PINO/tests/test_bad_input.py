"""Bad input: one line that names the flag and what is allowed, exit code 2, and nothing is written."""

from __future__ import annotations

import shlex
import shutil
import signal
import sys
from pathlib import Path

import forked
import h5py
import numpy as np
import pytest
import scipy.io
import small
import torch

sys.path[:0] = [str(small.PINO / "scripts")]

import darcy_sweep  # noqa: E402
from forked import Warm  # noqa: E402
from pino.arguments import GONE, parse  # noqa: E402
from pino.files import UsageError  # noqa: E402
from pino.settings import number_of_weights  # noqa: E402

warm = pytest.fixture(scope="module")(forked.warm)

TINY = [*small.TINY, "--n_samples", "3", "--r", "4"]
ALM, CL, LBFGS, NNCG = (f"--optimizer {name}" for name in ("alm", "cl", "lbfgs", "nncg"))
CL_F, ALM_LBFGS, WARM = f"{CL} --cl_ramp f", f"{ALM} --alm_inner lbfgs", f"{LBFGS} --warm_start"

#: Arguments, and what the one line of the answer must contain.
BAD = {
    "--optimizer sgd": "--optimizer: invalid choice: 'sgd' (choose from", "--optim adam": "--optim",
    "--bogus 3": "unrecognized arguments: --bogus 3", "more": "unrecognized arguments: more",
    "--steps": "expected one argument",
    **{f"{flag} 1": f"{flag} is gone: {advice}" for flag, advice in GONE.items()}, "--ckpt_every=3": "is gone",
    # the axes
    **{f"--r {value}": "--r must be from 1 to 1e4, got" for value in ("0", "0.5", "-1", "nan", "inf", "1e5")},
    "--r 4 1 4.0": "--r: 4 is given twice", "--r x": "--r: invalid float value: 'x'", "--r": "expected at least one",
    "--n_samples 0": "--n_samples must be a whole number from 1 to 1e6, got 0", "--n_samples 5 3 5": "5 is given twice",
    "--n_samples 1000001": "--n_samples must be", "--n_samples 2.5": "--n_samples: invalid int value: '2.5'",
    "--seed -1": "--seed must be a whole number from 0 to 2^63 - 1, got -1", f"--seeds {2**63}": "--seed must be",
    "--seed 0 1 0": "--seed: 0 is given twice", "--seeds a": "--seeds: invalid int value",
    # what goes with what
    "--warm_start": "--warm_start goes with --optimizer lbfgs, not with adam", f"{CL} --warm_start": "--warm_start",
    "--ckpt_dir x": "--ckpt_dir goes with --optimizer alm, nncg, or lbfgs --warm_start, not with adam",
    f"{CL} --ckpt_dir x": "not with cl", f"{LBFGS} --ckpt_dir x": "not with lbfgs",
    f"{LBFGS} --lr 0.1": "--lr is Adam's; it goes with --warm_start",
    f"{LBFGS} --batch_size 4": "--batch_size is Adam's", "--full_block 3": "--full_block goes with --optimizer nncg",
    f"{ALM} --alm_inner lbfgs --alm_lbfgs_chunks 2 --block 3": "--block and --alm_lbfgs_chunks are two ways",
    f"{NNCG} --nncg_lbfgs_steps 0 --lbfgs_history 3": "--lbfgs_history is of the stage of L-BFGS",
    "--lbfgs_history 5": "--lbfgs_history goes with --optimizer lbfgs, not with adam",
    f"{CL} --lbfgs_max_iter 5": "--lbfgs_max_iter goes with --optimizer lbfgs, not with cl",
    f"{ALM} --lbfgs_max_iter 5": "with alm use --alm_lbfgs_max_iter",
    f"{NNCG} --lbfgs_max_iter 5": "with nncg use --nncg_lbfgs_steps",
    "--alm_mu 1": "--alm_mu goes with --optimizer alm, not with adam", f"{NNCG} --alm_rho 1": "--alm_rho goes with",
    "--alm_save_best": "--alm_save_best goes with", f"{LBFGS} --alm_adam_no_cosine": "--alm_adam_no_cosine goes with",
    f"{LBFGS} --nncg_rank 3": "--nncg_rank goes with --optimizer nncg, not with lbfgs",
    f"{ALM} --cl_inner_step 3": "--cl_inner_step goes with --optimizer cl, not with alm",
    f"{ALM} --alm_data_eps_slack 0": "--alm_data_eps_slack goes with --alm_cons_item data, not with pde",
    f"{ALM} --alm_cons_item data --alm_pde_eps_slack 0": "--alm_pde_eps_slack goes with --alm_cons_item pde",
    **{f"{ALM} --{flag} 1": f"--{flag} does not go with --alm_inner adam"
       for flag in ("alm_lbfgs_max_iter", "alm_lbfgs_chunks", "lbfgs_history", "lbfgs_tolerance_grad")},
    **{f"{ALM_LBFGS} --{flag}": f"--{flag.split()[0]} does not go with --alm_inner lbfgs"
       for flag in ("alm_inner_step 3", "alm_adam_lr 1", "alm_adam_warmup_frac 0.1", "alm_adam_no_cosine")},
    f"{CL} --cl_init_f 2": "--cl_init_f goes with --cl_ramp f, not with r", f"{CL} --cl_target_f 2": "--cl_target_f",
    f"{CL_F} --cl_delta_r 1": "--cl_delta_r goes with --cl_ramp r, not with f",
    f"{CL} --cl_init_r 0.5": "--cl_init_r must be at least 1, got 0.5",
    f"{CL} --cl_delta_r 1e-9": "--cl_delta_r: steps of 1e-09 make 3000000000 stages up to 4, at most 10000",
    f"{CL_F} --f -1": "--f must be positive with --cl_ramp f", f"{CL_F} --cl_target_f 1e-99": "--cl_target_f must be",
    "--gpu 0 --device cpu": "--gpu and --device are two ways to say the same; give one",
    **{f"{kind} --ckpt_dir x --{flag} 1": f"--{flag} is of the stage of Adam that --ckpt_dir (or PINO_CKPT_DIR) leaves"
       for kind in (ALM, NNCG, WARM) for flag in ("steps", "lr")},
    # data, grids and networks
    "--N 4": "--N must be from 5 to 4097, got 4", "--N 4098": "--N must be from 5 to 4097", "--N 3.5": "--N: invalid",
    "--sub 5": "--sub must be a divisor of N - 1 = 36, at most 18, got 5", "--sub 0": "--sub must be a divisor",
    "--N 38": "--sub must be a divisor of N - 1 = 37", "--pde_sub 7": "--pde_sub must divide N - 1 = 36, got 7",
    "--pde_sub 18": "--pde_sub 18 leaves 3 x 3 nodes; 2 modes (--modes, --preset) and the residual need at least 5",
    "--modes 6": "--data_sub 4 leaves 10 x 10 nodes; 6 modes", "--preset paper --modes 20": "20 modes",
    "--modes 5 --pde_sub 6": "--pde_sub 6 leaves 7 x 7 nodes; 5 modes",
    "--pde_sub 2 --residual corrected": "--pde_sub must be a multiple of --data_sub 4 with --residual corrected",
    "--width 100000": "take a smaller network (--preset, --modes, --width)",
    f"{LBFGS} --lbfgs_history 1000000000": "lower --lbfgs_history", f"{NNCG} --nncg_rank 1000000000": "or --nncg_rank",
    **{f"--f {value}": "--f must be from -1e6 to 1e6 and not 0" for value in ("0",)},
    **{f"--f={value}": "--f must be from 1e-6 to 1e6 in size" for value in ("1e-30", "-2e6", "nan", "inf")},
    **{f"--{flag} {value}": f"--{flag} must be" for flag in ("tau", "alpha", "a_low")
       for value in ("0", "-1", "nan", "inf", "1e99")},
    "--grf gauss": "--grf: invalid choice", "--data_seed -1": "--data_seed must be a whole number from 0",
    "--data_rows 2": "--data_rows must be from 3, the largest --n_samples, to 1e6, got 2",
    "--n_samples 9 4 --data_rows 8": "--data_rows must be from 9", "--data_rows 1000001": "--data_rows must be",
    "--piececonst_dir none": "--N does not go with --piececonst_dir (or PINO_PIECECONST_DIR): its files have their own",
    "--N 421 --piececonst_dir none": "none: no piececonst_r4_N..._smooth1.mat and no piececonst_r421",
    # running
    **{f"{kind} --{flag} ''": f"--{flag} must name a folder, got an empty text" for kind in ("", ALM)
       for flag in ("outdir", "data_dir", "ckpt_dir", "piececonst_dir")},
    "--outdir /proc/none": "--outdir /proc/none: cannot write", "--data_dir /proc/none": "--data_dir /proc/none:",
    f"--outdir {small.__file__}": "cannot write", f"--data_dir {small.__file__}/data": "cannot write",
    "--xy_loss 0 --f_loss 0": "--xy_loss and --f_loss must not both be 0",
    "--device banana": "--device must be auto, cpu, cuda or cuda:k", "--device cuda:99": "there is no such GPU",
    "--device cuda:": "--device must be", "--hessian_every 0.5": "--hessian_every must be a whole number",
    **{f"--{flag} x": f"--{flag}: invalid choice: 'x'" for flag in
       ("budget", "preset", "residual", "precision", "spectral", "wandb", "grf")},
    f"{ALM} --alm_inner x": "--alm_inner: invalid", f"{ALM} --alm_cons_item x": "--alm_cons_item: invalid",
    f"{CL} --cl_ramp x": "--cl_ramp: invalid choice", "--n_samples 900000 --N 3601 --sub 1": "GB are free",
}

#: Plain numbers by what is allowed, whatever the strategy; whole numbers first.
COUNTS = {0: "steps alm_lbfgs_chunks nncg_lbfgs_steps full_block gpu",
          1: "batch_size lbfgs_max_iter lbfgs_history alm_outer_iters alm_inner_step alm_lbfgs_max_iter nncg_rank "
             "nncg_steps nncg_cg_max_iters nncg_chunk_size cl_inner_step test_num pde_sub modes width block log_every"}
FROM_0 = ("xy_loss f_loss lbfgs_tolerance_grad lbfgs_tolerance_change alm_uncon_weight alm_mu alm_pde_eps_slack "
          "alm_data_eps_slack nncg_cg_tol checkpoint_every").split()
POSITIVE = ("lr alm_rho alm_adam_lr nncg_mu nncg_lr cl_init_r cl_delta_r cl_init_f cl_delta_f cl_target_f").split()
RANGES = {
    **{f"--{flag} {least - 1}": f"--{flag} must be at least {least}, got {least - 1}"
       for least, flags in COUNTS.items() for flag in flags.split()},
    **{f"--{flag} {value}": f"--{flag}: invalid int value: '{value}'" for value in ("x", "1.5", "nan")
       for flag in " ".join(COUNTS.values()).split()},
    **{f"--{flag} {10**23}": f"--{flag} must be at most" for flag in " ".join(COUNTS.values()).split()},
    **{f"--{flag} {value}": f"--{flag} must be at least 0" for flag in FROM_0 for value in ("-1", "nan")},
    **{f"--{flag} inf": f"--{flag} must be at most" for flag in FROM_0},
    **{f"--{flag} {value}": f"--{flag} must be positive" for flag in POSITIVE for value in ("0", "-1", "nan", "inf")},
    **{f"--{flag} x": f"--{flag}{'/--alm_mu0' * (flag == 'alm_mu')}: invalid float value: 'x'"
       for flag in [*FROM_0, *POSITIVE, "f", "tau"]},
    **{f"--alm_adam_warmup_frac {value}": "must be from 0 to 1, got" for value in ("-0.1", "1.1", "nan")},
    "--nncg_mu 101": "--nncg_mu must be at most 100, got 101", "--alm_outer_iters 10001": "must be at most 10000",
}

#: Environment variables, and the same.
ENVIRONMENT = [
    *(({name: value}, NNCG, f"{name} (environment) must be a whole number from") for value in ("x", "-1", "1.5")
      for name in ("NNCG_RANK", "NNCG_CHUNK_SIZE", "NNCG_FB_CHUNK")),
    ({"NNCG_RANK": "0"}, NNCG, "NNCG_RANK (environment) must be a whole number from 1, got '0'"),
    ({"NNCG_CHUNK_SIZE": "0"}, NNCG, "NNCG_CHUNK_SIZE (environment) must be a whole number from 1, got '0'"),
    *(({"SEGMENT_WALL_SECONDS": value}, "", "SEGMENT_WALL_SECONDS (environment) must be a whole number of seconds")
      for value in ("0", "-5", "soon", "1.5")),
    ({"PINO_CKPT_DIR": "none"}, ALM, "--ckpt_dir none: no finished Adam run with weights in none/darcy/adam/r_4/n_3/"),
    ({"PINO_CKPT_DIR": "none"}, f"{NNCG} --steps 5", "--steps is of the stage of Adam that --ckpt_dir (or PINO_CKPT"),
    ({"PINO_PIECECONST_DIR": "none"}, "", "--N does not go with --piececonst_dir (or PINO_PIECECONST_DIR)"),
    ({"PINO_DATA_DIR": "/proc/none"}, "", "--data_dir /proc/none: cannot write"),
]


def refused(done: dict[str, object], words: str) -> bool:
    """Whether this is the answer to bad input."""
    lines = done["err"].splitlines()
    return done["rc"] == 2 and len(lines) == 1 and lines[0].startswith("error: ") and words in lines[0]


def files(path: Path) -> list[Path]:
    """Those below a folder."""
    return [file for file in path.rglob("*") if file.is_file()]


def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, object]:
    """The answer of the entry point, in this process: faster than a fork where no work is done."""
    stops = {number: signal.getsignal(number) for number in darcy_sweep.STOPS}
    try:
        monkeypatch.setattr(sys, "argv", ["darcy_sweep.py", *map(str, words)])
        return {"rc": darcy_sweep.main(), "err": capsys.readouterr().err}
    finally:
        for number, handler in stops.items():
            signal.signal(number, handler)


def test_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = {}
    monkeypatch.chdir(tmp_path)
    for arguments, words in BAD.items():
        done = here(monkeypatch, capsys, *TINY, "--data_dir", "data", "--outdir", "never", *shlex.split(arguments))
        if not refused(done, words):
            wrong[arguments] = done
    assert not wrong, "\n".join(f"{arguments}: {done}" for arguments, done in wrong.items())
    assert not files(tmp_path)


def test_numbers_out_of_range() -> None:
    """Each plain number has its range, whatever else is asked for."""
    wrong = {}
    for arguments, words in RANGES.items():
        try:
            parse([*TINY, *arguments.split()])
        except UsageError as error:
            if words not in str(error):
                wrong[arguments] = str(error)
        else:
            wrong[arguments] = "taken"
    assert not wrong
    assert number_of_weights(modes=20, width=64, head=(128, 64)) == 26_247_937


def test_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = {}
    for variables, flags, words in ENVIRONMENT:
        data = [] if "PINO_DATA_DIR" in variables else ["--data_dir", tmp_path / "data"]
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            done = here(patch, capsys, *TINY, *data, "--outdir", tmp_path / "never", *flags.split())
        if not refused(done, words):
            wrong[str(variables), flags] = done
    assert not wrong and not files(tmp_path)


def test_broken_data(warm: Warm, tmp_path: Path) -> None:
    """A file that is cut short, changed, none of ours, or of other arguments than its name says."""
    data, out = tmp_path / "data", tmp_path / "never"
    flags = [*TINY, "--steps", "1", "--data_dir", data, "--outdir"]
    assert warm.run(*flags, tmp_path / "whole")["rc"] == 0
    train, test = (data / f"darcy_N37_n{end}.h5" for end in ("3_r4_f1_sub4_seed0", "4_r4_f1_sub4_test"))
    whole, wrong = train.read_bytes(), {}
    changed = bytearray(whole)
    at = whole.rindex(np.float32(small.fields(3).u[2, 5, 5]).tobytes()[1:])
    changed[at] ^= 0x10
    for name, content in {"empty": b"", "cut": whole[:-400], "text": b"no HDF5", "other": test.read_bytes(),
                          "changed": bytes(changed)}.items():
        train.write_bytes(content)
        done = warm.run(*flags, out)
        lines = done["err"].splitlines()  # files that cannot be read are told of, too
        if done["rc"] != 2 or str(train) not in lines[-1] or not lines[-1].startswith("error: ") or files(out):
            wrong[name] = done
    train.write_bytes(whole)
    assert not wrong
    chain = ["--optimizer", "cl", "--cl_delta_r", "1.5"]
    assert warm.run(*flags, tmp_path / "cl", *chain)["rc"] == 0
    stage = data / "darcy_N37_n3_r2.5_f1_sub4_seed0.h5"
    content = bytearray(stage.read_bytes())
    with h5py.File(stage) as file:
        content[content.rindex(file["u"][2, 5, 5].tobytes()[1:])] ^= 0x10
    stage.write_bytes(content)
    done = warm.run(*flags, out, *chain)
    assert done["rc"] == 2 and f"{stage} is damaged" in done["err"] and not files(out)
    assert warm.run(*flags, out)["rc"] == 0


def test_benchmark_files(warm: Warm, tmp_path: Path) -> None:
    """Missing, of another contrast, of another form, broken."""
    fields = small.fields(3)
    u = np.zeros((3, 37, 37))
    u[:, 1:-1, 1:-1] = 0.01
    good = {"coeff": fields.coefficient(), "sol": u}
    holes = u.copy()
    holes[1, 4, 4] = np.nan
    three = good["coeff"].copy()
    three[0, 0, 0] = 7
    cases = {"coeff": ({"sol": u}, "there is no array `coeff`"), "sol": ({**good, "sol": u[:, 1:]}, "`sol` must be"),
             "nan": ({**good, "sol": holes}, "numbers that are not finite"),
             "three": ({**good, "coeff": three}, "`coeff` must have two values above 0, it goes from 3 to 12"),
             "few": ({name: x[:2] for name, x in good.items()}, "holds 2 samples, 3 are asked for"),
             "other": ({**good, "coeff": good["coeff"] ** 2}, "holds the contrast 16 (a = 9 and 144), not r = 4"),
             "flat": ({name: x[:, 0] for name, x in good.items()}, "`coeff` must be (n, N, N)"), "cut": ({}, "")}
    flags = [word for word in TINY if word not in ("--N", "37")]
    wrong = {}
    for name, (content, words) in cases.items():
        for split, number in (("train", 1), ("test", 2)):  # each in its turn, the other is good
            folder = tmp_path / f"{name}{number}"
            folder.mkdir()
            four = {key: np.concatenate([x, x[:1]]) for key, x in good.items()}  # four test fields
            scipy.io.savemat(folder / f"piececonst_r4_N4_smooth{3 - number}.mat", four)
            path = folder / f"piececonst_r4_N4_smooth{number}.mat"
            scipy.io.savemat(path, content if split == "train" else {
                key: np.concatenate([x, x[:1]]) if name != "few" else x for key, x in content.items()})
            if name == "cut":
                scipy.io.savemat(path, good)
                path.write_bytes(path.read_bytes()[:2000])
            expected = words if name != "few" or number == 1 else "holds 2 samples, 4 are asked for"
            done = warm.run(*flags, "--piececonst_dir", folder, "--outdir", tmp_path / "never")
            if not refused(done, expected) or str(path) not in done["err"]:
                wrong[folder.name] = done
    assert not wrong
    folder = tmp_path / "coeff1"
    for words, expected in ((["--r", "4", "8"], "no piececonst_r8_N"), (["--sub", "5"], "stride 5 must divide N - 1"),
                            (["--grf", "neumann"], "--grf does not go with --piececonst_dir"),
                            (["--f", "2"], "--f does not go with"), (["--data_rows", "9"], "--data_rows does not go")):
        scipy.io.savemat(folder / "piececonst_r4_N4_smooth1.mat", good)
        done = warm.run(*flags, "--piececonst_dir", folder, "--outdir", tmp_path / "never", *words)
        assert refused(done, expected), done
    assert not files(tmp_path / "never")


def test_checkpoints_that_do_not_fit(warm: Warm, tmp_path: Path) -> None:
    """No run, another network, another n, a file that is no checkpoint, a run without weights."""
    data, adam = ["--data_dir", tmp_path / "data"], tmp_path / "adam"
    assert warm.run(*TINY, *data, "--steps", "1", "--outdir", adam)["rc"] == 0
    model, = adam.rglob("model.pt")
    for flags in (ALM, NNCG, WARM):
        def ask(*words: object, flags: str = flags) -> dict[str, object]:
            return warm.run(*TINY, *data, "--outdir", tmp_path / "never", *flags.split(), *words)
        assert refused(ask("--ckpt_dir", tmp_path), f"--ckpt_dir {tmp_path}: no finished Adam run with weights in")
        for more in (["--n_samples", "2"], ["--r", "4", "5"], ["--seed", "0", "1"]):
            assert refused(ask("--ckpt_dir", adam, *more), f"--ckpt_dir {adam}: no finished Adam run with weights")
        assert refused(ask("--ckpt_dir", adam, "--width", "4"), f"--ckpt_dir: {model} is of another network: {{'modes'")
        for words in (["--residual", "flux"], ["--xy_loss", "4"], ["--f_loss", "2"], ["--pde_sub", "2"]):
            done = ask("--ckpt_dir", adam, *words)
            assert refused(done, f"--ckpt_dir: {model} minimised another loss: {words[0][2:]}")
        kept = shutil.copy(model, tmp_path / "kept.pt")
        torch.save([1.0], model)
        assert refused(ask("--ckpt_dir", adam), f"--ckpt_dir: {model} cannot be read (")
        model.write_bytes(b"nothing")
        assert refused(ask("--ckpt_dir", adam), f"--ckpt_dir: {model} cannot be read (")
        model.unlink()
        assert refused(ask("--ckpt_dir", adam), "no finished Adam run with weights")
        shutil.move(kept, model)
        assert not files(tmp_path / "never")
