"""Bad input: one line that names the flag and what is allowed, exit code 2, and nothing is written."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest
import torch

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import forked  # noqa: E402
from forked import Warm  # noqa: E402
from node.arguments import GONE, parse  # noqa: E402
from node.files import UsageError  # noqa: E402

warm = pytest.fixture(scope="module")(forked.warm)

TINY = "--budget smoke --hidden 6 --horizon-values 0.5 --test-horizon 1 --physics-mode pinn"
ALM = "--physics-mode pinn_alm"
CL = "--cl-warmup"
TINY_DT = "must be above --fixed-dt 0.05, to hold two samples, got"

#: Arguments, and what the one line of the answer must contain.
BAD = {
    "--optimizer adam": "--optimizer: invalid choice: 'adam' (choose from",
    "--physics-mode heat": "--physics-mode: invalid choice: 'heat' (choose from",
    "--bogus 3": "--bogus", "--optim Adam": "--optim", "Adam": "Adam",
    **{f"--{flag} 1": f"--{flag} is gone: {advice}" for flag, advice in GONE.items()},
    "--boundary_percentile=75": "--boundary-percentile is gone",
    # the grid
    "--horizon-values 0.05": f"--horizon-values {TINY_DT} 0.05",
    "--horizon-values 2 0": f"--horizon-values {TINY_DT} 0",
    "--horizon-values -3": f"--horizon-values {TINY_DT} -3", "--horizon-values 1e9": "at most 1000000 are allowed",
    "--horizon-values 1e308": "--horizon-values", "--fixed-dt 1e-310": "--horizon-values",
    "--horizon-values 1 x": "--horizon-values must be numbers, got 'x'", "--horizon-values nan": "got 'nan'",
    "--horizon-values inf": "--horizon-values must be numbers, got 'inf'", "--horizon-values 1e999": "got '1e999'",
    "--horizon-values 1,2,1.0": "--horizon-values: 1 is given twice",
    "--horizon-values 1 1.01 0.98": "are both 20 samples, which name the run",
    "--horizon-values": "expected at least one argument",
    "--inv-b-values 0": "--inv-b-values must be positive, got 0", "--inv-b -4": "--inv-b-values must be positive",
    "--inv-b-values 8 4 8.0": "--inv-b-values: 8 is given twice", "--inv-b-values 1;2": "must be numbers, got '1;2'",
    "--inv-b-values 1e-300": "--inv-b-values", "--b-values 1e6": "--b-values",
    "--b-values 0": "--b-values must be positive, got 0", "--b-values 0.5 0.5": "--b-values: 0.5 is given twice",
    "--inv-b-values 4 --b-values 1": "--inv-b-values and --b-values exclude each other",
    "--seeds 1 2 1": "--seeds: 1 is given twice", "--seeds -1": "--seeds must be whole numbers from 0",
    "--seeds 1.5": "--seeds must be whole", "--seeds 4294967296": "--seeds must be whole",
    "--seeds one": "--seeds must be numbers, got 'one'", "--seed -1": "--seed must be whole numbers from 0",
    "--seed 1.5": "--seed: invalid int value: '1.5'", "--seed 1 --seeds 2": "--seed and --seeds exclude each other",
    "--only-inv-b-values 5": "--only-inv-b-values: 5 is no column of the grid; allowed: 1, 2, 4",
    "--only-inv-b-values x": "--only-inv-b-values must be numbers, got 'x'",
    "--shard-index 0": "--shard-index and --shard-count go together",
    "--shard-count 2": "--shard-index and --shard-count go together",
    "--shard-index 2 --shard-count 2": "--shard-index must be from 0 to --shard-count - 1, got 2 of 2",
    "--shard-index -1 --shard-count 2": "--shard-index must be from 0", "--shard-index 0 --shard-count 0": "--shard-",
    "--test-horizon 0.05": "--test-horizon must be above --fixed-test-dt 0.05, got 0.05",
    "--test-horizon 1e9": "--test-horizon", "--fixed-test-dt 1e-9": "--fixed-test-dt",
    "--rollout-report-test-dt 1e-9": "--rollout-report-test-dt",
    "--rollout-report-t-span-lo 10": "--rollout-report-t-span-hi must be above --rollout-report-t-span-lo",
    "--rollout-report-t-span-hi 0.05": "--rollout-report-t-span-hi must be above --rollout-report-t-span-lo",
    "--rollout-report-t-span-hi nan": "--rollout-report-t-span-hi",
    "--rollout-report-t-span-hi inf": "--rollout-report-t-span-hi",
    "--data-tolerance loose": "--data-tolerance: invalid choice",
    # what goes with what
    "--state embedded": "--state embedded goes with --physics-mode none or sphere, not with pinn",
    "--physics-mode sphere --state raw": "--state raw goes with --physics-mode none, pinn",
    "--training rollout --batch-size 8 --optimizer Adam": "--batch-size goes with --training onestep",
    "--training rollout --updates-per-epoch own --optimizer Adam": "--updates-per-epoch own goes with --training one",
    "--constraint-method alm": "--constraint-method alm goes with --physics-mode sphere, not with pinn",
    "--physics-mode sphere --alm-outer-iters 3": "--alm-outer-iters goes with",
    "--physics-mode sphere --alm-target data": "--alm-target goes with",
    "--alm-penalty 2": "--alm-penalty goes with --physics-mode pinn_alm", "--no-alm-bootstrap": "--no-alm-boot",
    "--alm-warmup-epochs 0": "--alm-warmup-epochs goes with", "--alm-penalty 0": "--alm-penalty goes with",
    "--alm-init-ckpt x.pt": "--alm-init-ckpt goes with", "--no-alm-init-ckpt": "--no-alm-init-ckpt goes with",
    f"{ALM} --epochs 3": "--epochs: an augmented Lagrangian counts solves", f"{ALM} --epochs 0": "--epochs: an augm",
    f"{ALM} --optimizer NNCG": "--optimizer must be LBFGS, Adam or SGD for an augmented Lagrangian, got NNCG",
    f"{ALM} --optimizer Adam_LBFGS_NNCG": "--optimizer must be LBFGS, Adam or SGD for an augmented Lagrangian",
    f"{ALM} --no-alm-bootstrap --alm-bootstrap-lbfgs-max-iter 3": "exclude each other",
    f"{ALM} --alm-target energy": "--alm-target: invalid choice",
    "--cl-inner-epochs 2": "--cl-inner-epochs goes with --cl-warmup", "--cl-inv-init 1": "--cl-inv-init goes with",
    "--cl-schedule-space b": "--cl-schedule-space goes with --cl-warmup",
    f"{CL} --optimizer NNCG": "--optimizer must be LBFGS, Adam or SGD with --cl-warmup, got NNCG",
    f"{CL} --cl-init-coeff 1": "--cl-schedule-space b needs --cl-init-coeff and --cl-delta-coeff",
    f"{CL} --cl-schedule-space b": "--cl-schedule-space b needs --cl-init-coeff and --cl-delta-coeff",
    f"{CL} --cl-init-coeff 1 --cl-delta-coeff 0.1 --cl-inv-delta 1": "--cl-inv-delta goes with --cl-schedule-space inv",
    f"{CL} --cl-schedule-space inv_b --cl-init-coeff 1": "--cl-init-coeff goes with --cl-schedule-space b, not",
    f"{CL} --cl-inv-delta 1e-6": "--cl-inv-delta: steps of 1e-06 make",
    f"{CL} --cl-init-coeff 1 --cl-delta-coeff 1e-6": "--cl-delta-coeff: steps of 1e-06 make",
    f"{CL} --epochs 2 --cl-inner-epochs 3": "--epochs and --cl-inner-epochs exclude each other",
    f"{CL} --epochs 0 --cl-inner-epochs 3": "--epochs and --cl-inner-epochs exclude each other",
    "--nncg-rank 3": "--nncg-rank goes with --optimizer NNCG", "--nncg-switch-epoch 0": "--nncg-switch-epoch goes with",
    "--optimizer NNCG --nncg-switch-epoch 2": "--nncg-switch-epoch goes with --optimizer Adam_NNCG",
    "--optimizer Adam_NNCG --nncg-epochs 2": "--nncg-epochs goes with --optimizer NNCG or Adam_LBFGS_NNCG",
    "--optimizer NNCG --epochs 2 --nncg-epochs 2": "--epochs and --nncg-epochs exclude each other",
    "--rho 1": "--rho goes with --physics-mode pinn_region", "--region-samples 2": "--region-samples goes with",
    "--rho 0": "--rho goes with --physics-mode pinn_region", "--region-max-radius 0": "--region-max-radius goes with",
    "--learning-rate 0.1": "--learning-rate goes with --optimizer Adam or SGD, not with LBFGS",
    "--batch-size 8": "--batch-size goes with --optimizer", "--log-loss-every 2": "--log-loss-every goes with",
    "--optimizer Adam --lbfgs-max-iter 3": "--lbfgs-max-iter goes with --optimizer LBFGS or Adam_LBFGS_NNCG",
    "--optimizer Adam --lbfgs-tolerance-grad 0": "--lbfgs-tolerance-grad goes with --optimizer LBFGS",
    "--optimizer Adam --log-every 2 --log-loss-every 2": "--log-every and --log-loss-every exclude each other",
    "--updates-per-epoch 7": "--updates-per-epoch goes with --optimizer Adam or SGD, not with LBFGS",
    "--optimizer Adam --updates-per-epoch many": "--updates-per-epoch must be a whole number, auto, own or grid",
    "--optimizer Adam --updates-per-epoch -3": "--updates-per-epoch", "--updates-per-epoch 1.5": "--updates-per-epoch",
    "--force --skip-existing-cases": "--force and --skip-existing-cases exclude each other",
    # weights to start from
    f"{ALM} --alm-init-ckpt nowhere": "--alm-init-ckpt nowhere: one model.pt of the run inv_b_1",
    f"{ALM} --alm-init-ckpt {TESTS / 'conftest.py'}": "conftest.py: not a model.pt of this program",
    f"{ALM} --alm-init-ckpt x --alm-bootstrap-lbfgs-max-iter 3": "exclude each other",
    f"{ALM} --alm-init-ckpt x --no-alm-init-ckpt": "--alm-init-ckpt and --no-alm-init-ckpt exclude each other",
    # running
    "--device cuda:": "--device must be auto, cpu, cuda or cuda:k", "--device banana": "--device must be auto, cpu",
    "--device cuda:99": "--device cuda:99: there is no such GPU", "--device cpu --cuda": "--cuda and --device exclude",
    "--out-dir ''": "--out-dir must name a folder", "--out-dir /proc/nowhere": "--out-dir /proc/nowhere",
    f"--out-dir {TESTS / 'conftest.py'}": "--out-dir", "--hessian-every x": "--hessian-every must be a whole",
    "--budget huge": "--budget: invalid choice", "--precision half": "--precision: invalid choice",
    "--wandb maybe": "--wandb: invalid choice", "--integrator rk5": "--integrator: invalid choice",
    "--loss-scale log": "--loss-scale: invalid choice", "--training batch": "--training: invalid choice",
}

#: Plain numbers, by what is allowed.
AT_LEAST_0 = ("epochs nncg-epochs alm-warmup-epochs alm-bootstrap-lbfgs-max-iter alm-penalty alm-uncon-weight lamb "
              "region-max-radius rho nncg-cg-tol cl-inner-epochs checkpoint-every lbfgs-tolerance-grad "
              "lbfgs-tolerance-change rollout-report-t-span-lo").split()
AT_LEAST_1 = ("alm-outer-iters alm-inner-step region-samples region-history hidden batch-size log-every "
              "log-loss-every workers lbfgs-max-iter lbfgs-history-size nncg-rank nncg-cg-max-iters "
              "nncg-precond-update-freq").split()
POSITIVE = ("learning-rate nncg-lr nncg-mu alm-penalty-growth cl-init-coeff cl-delta-coeff cl-inv-init cl-inv-delta "
            "fixed-dt fixed-test-dt test-horizon rollout-report-test-dt").split()
RANGES = {
    **{f"--{flag} -1": f"--{flag} must be at least 0, got -1" for flag in AT_LEAST_0},
    **{f"--{flag} 0": f"--{flag} must be at least 1, got 0" for flag in AT_LEAST_1},
    **{f"--{flag} {value}": f"--{flag} must be positive, got" for flag in POSITIVE
       for value in (0, "-0.5", "nan", "inf")},
    **{f"--{flag} x": f"--{flag}: invalid " for flag in [*AT_LEAST_0, *AT_LEAST_1, *POSITIVE,
                                                          "rollout-report-t-span-hi", "shard-index", "shard-count"]},
    **{f"--{flag} {value}": f"--{flag} must be at least 0" for value in ("nan", "inf") for flag in
       ("alm-penalty", "lamb", "region-max-radius", "rho", "nncg-cg-tol", "checkpoint-every", "alm-uncon-weight")},
    "--nncg-mu 101": "--nncg-mu must be at most 100, got 101", "--nncg-switch-epoch -2": "--nncg-switch-epoch must be",
}


def test_bad_input(warm: Warm, tmp_path: Path) -> None:
    """One line that names the flag and what is allowed, exit code 2, nothing written."""
    wrong = {}
    for arguments, words in BAD.items():
        done = warm.run(*shlex.split(TINY), "--out-dir", tmp_path / "never", *shlex.split(arguments), alarm=20)
        lines = done["err"].splitlines()
        if done["rc"] != 2 or len(lines) != 1 or not lines[0].startswith("error: ") or words not in lines[0]:
            wrong[arguments] = done
    assert not wrong and not (tmp_path / "never").exists()
    if not torch.cuda.device_count():
        assert "--device cuda: there is no such GPU (0 found)" in warm.run("--device", "cuda")["err"]


def test_numbers_out_of_range() -> None:
    """Each plain number has its range, whatever else is asked for."""
    wrong = {}
    for arguments, words in RANGES.items():
        try:
            parse([*shlex.split(TINY), *shlex.split(arguments)])
        except UsageError as error:
            if words in str(error):
                continue
            wrong[arguments] = str(error)
        else:
            wrong[arguments] = "taken"
    assert not wrong


def test_weights_that_do_not_fit(warm: Warm, tmp_path: Path) -> None:
    """A model.pt of another width, one that holds no weights, and a folder with two of the same cell."""
    flags = [*shlex.split(TINY), "--inv-b-values", "8", "--seeds", "0", "--out-dir"]
    for hidden, folder in ((6, "a"), (6, "b"), (7, "wide")):
        done = warm.run(*flags, tmp_path / "lbfgs" / folder, "--lbfgs-max-iter", "1", "--hidden", hidden)
        assert done["rc"] == 0, done
    torch.save({"params": [1.0, 2.0]}, tmp_path / "numbers.pt")
    torch.save([1.0], tmp_path / "list.pt")
    model = next((tmp_path / "lbfgs" / "wide").rglob("model.pt"))
    for path, words in ((model, "weights of another network"), (tmp_path / "numbers.pt", "numbers.pt: "),
                        (tmp_path / "list.pt", "not a model.pt of this program"),
                        (tmp_path / "lbfgs" / "wide", "weights of another network"),
                        (tmp_path / "lbfgs", "one model.pt of the run inv_b_8/n_10/seed_0 is wanted there, found 3")):
        done = warm.run(*flags, tmp_path / "never", *shlex.split(ALM), "--alm-init-ckpt", path)
        assert done["rc"] == 2 and done["err"].count("\n") == 1, done
        assert done["err"].startswith("error: --alm-init-ckpt") and words in done["err"], done
    assert not (tmp_path / "never").exists()
