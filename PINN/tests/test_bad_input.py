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

warm = pytest.fixture(scope="module")(forked.warm)

TINY = "--budget smoke --num_res 30 --num_x 33 --num_t 11 --num_neurons 6 --num_layers 3"

#: Arguments, and what the one line of the answer must contain.
BAD = {
    "--pde heat": "--pde: invalid choice: 'heat' (choose from",
    "--opt sgd": "--opt: invalid choice: 'sgd' (choose from",
    "--bogus 3": "--bogus",
    "--pde_params '{\"gamma\": 3}'": "--pde_params: convection has no parameter 'gamma'; allowed: beta",
    "--pde wave --pde_params '{\"beta\": 3}'": "--pde_params: wave needs c",
    "--pde reaction": "--pde_params: reaction needs rho",
    "--pde_params '{\"beta\": \"5\"}'": "--pde_params: beta must be a number",
    "--pde_params '{\"beta\": [5, \"six\"]}'": "--pde_params: beta must be a number",
    "--pde_params '{\"beta\": []}'": "--pde_params: beta must be a number or a list of numbers",
    "--pde_params '{\"beta\": [5, 5.0]}'": "--pde_params beta: 5 is given twice",
    "--pde_params '{\"beta\": true}'": "--pde_params: beta must be a number",
    "--pde_params '{\"beta\": NaN}'": "--pde_params: NaN",
    "--pde_params '{\"beta\": [1, -Infinity]}'": "--pde_params: -Infinity",
    f"--pde_params '{{\"beta\": 1{'0' * 400}}}'": "--pde_params: beta must be a number",
    "--pde_params '{\"beta\": 1e999}'": "--pde_params: beta must be a number",
    "--pde_params '{\"beta\": 3'": "--pde_params is not valid JSON",
    "--pde_params '{\"beta\":\n 3'": "--pde_params is not valid JSON",
    "--pde_params 30": "--pde_params must be a JSON object",
    "--pde wave --pde_params '{\"c\": 1, \"beta\": [1, 2]}'": "--pde_params: beta must be a number",
    "--pde reaction --pde_params '{\"rho\": 1, \"sigma\": 0}'": "--pde_params: sigma must be",
    "--num_res 0": "--num_res must be from 1 to 310", "--num_res -1": "--num_res must be from 1 to 310",
    "--num_res 30000 --num_x 257 --num_t 101": "--num_res must be from 1 to 25500", "--num_res 1.5": "--num_res",
    "--num_res 20 20": "--num_res: 20 is given twice", "--initial_seed 1 2 1": "--initial_seed: 1 is given twice",
    "--initial_seed -1": "--initial_seed must be from 0", "--set_idx x": "--set_idx must be a whole number",
    "--num_x 32": "--num_x must be odd", "--num_t 1": "--num_t at least 2", "--num_layers 1": "--num_layers must be",
    "--pde reaction_diffusion --pde_params '{\"rho\": 1}' --num_t 8": "--num_t", "--num_neurons 0": "--num_neurons",
    "--opt_params '{\"speed\": 3}'": "--opt_params: unknown option 'speed'; allowed: iterations, lbfgs_lr",
    "--opt_params '{\"lr\": \"fast\"}'": "--opt_params: lr must be float",
    "--opt_params '{\"history_size\": 2.5}'": "--opt_params: history_size must be int",
    "--opt_params '{\"lr\": NaN}'": "--opt_params: NaN", "--opt_params '{'": "--opt_params is not valid JSON",
    "--opt_params '{\"lr\": 1e999}'": "--opt_params: lr must be finite",
    "--opt_params '{\"lr\": 0}'": "--opt_params: lr of lbfgs must be positive",
    "--opt adam --opt_params '{\"beta1\": 1}'": "--opt_params: beta1 of adam must be from 0",
    "--opt nncg --opt_params '{\"mu\": -1}'": "--opt_params: mu of nncg must be from",
    "--opt adam_lbfgs --opt_params '{\"switch_epochs\": [\"a\"]}'": "--opt_params: switch_epochs must be",
    "--opt adam_lbfgs --opt_params '{\"switch_epochs\": []}'": "--opt_params: switch_epochs must be",
    "--opt alm --opt_params '{\"hard\": \"x\"}'": "--opt_params: hard must be",
    "--opt ropinn --opt_params '{\"redraw\": \"never\"}'": "--opt_params: redraw must be step or evaluation",
    "--opt cl --opt_params '{\"increment_scale\": 0}'": "--opt_params: increment_scale must be positive",
    "--opt cl --cl_increment 1e-9": "--cl_increment: steps of", "--opt cl --cl_increment 0": "--cl_increment must be",
    "--cl_increment 1": "--cl_increment goes with --opt cl", "--opt ropinn --iterations 3": "--iterations",
    "--opt lbfgs --alm_mu 3": "--alm_mu goes with --opt alm, not with lbfgs",
    "--opt alm --alm_iter 2.5": "--alm_iter must be", "--opt alm --alm_iter 0": "--alm_iter must be",
    "--opt alm --alm_hc nonsense": "--alm_hc must be bits",
    "--opt alm --alm_hc 0": "--alm_hc must name at least one", "--opt alm --alm_hc bc,bc_x": "--alm_hc must be bits",
    "--opt alm --alm_beta -1": "--alm_beta must be positive", "--hc alm --opt nncg": "--opt must be adam or lbfgs",
    "--hc dirichlet": "--hc must be none or alm", "--hc alm --cl": "exclude each other",
    "--iterations -1": "--iterations must be", "--device cuda:": "--device must be",
    "--device cuda:99": "--device cuda:99: there is no such GPU", "--device banana": "--device must be auto, cpu, cuda",
    "--hessian_every log:0": "--hessian_every must be", "--budget huge": "--budget: invalid choice",
    "--precision half": "--precision: invalid choice", "--loss l3": "--loss: invalid choice", "--L nan": "--L must be",
    "--log_every 0": "--log_every must be", "--checkpoint_every -1": "--checkpoint_every must be",
    "--wandb maybe": "--wandb: invalid choice", "--save_path ''": "--save_path must",
    "--save_path /proc/nowhere": "--save_path /proc/nowhere: cannot write", "--epochs -1": "--epochs must be at least",
}


def test_bad_input(warm: Warm, tmp_path: Path) -> None:
    """One line that names the flag and what is allowed, exit code 2, nothing written."""
    wrong = {}
    for arguments, words in BAD.items():
        done = warm.run(*shlex.split(TINY), "--save_path", tmp_path / "never", *shlex.split(arguments))
        lines = done["err"].splitlines()
        if done["rc"] != 2 or len(lines) != 1 or not lines[0].startswith("error: ") or words not in lines[0]:
            wrong[arguments] = done
    assert not wrong and not (tmp_path / "never").exists()
    if not torch.cuda.device_count():
        assert "--device cuda: there is no such GPU (0 found)" in warm.run("--device", "cuda")["err"]
