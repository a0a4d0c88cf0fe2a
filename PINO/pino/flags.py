"""The flags of `darcy_sweep.py`; those of the published code keep their names."""

import argparse

from pino.cli import BUDGETS, Help, Parser
from pino.darcy import GRF
from pino.model import PRESETS
from pino.residual import RESIDUALS
from pino.spectral import SPECTRAL
from pino.strategies import STRATEGIES

BY_FLAGS = ("adam_lbfgs", "alm_data")  # --warm_start, --alm_cons_item data
OPTIMIZERS = tuple(name for name in STRATEGIES if name not in BY_FLAGS)
EPILOG = """environment, where the flag is not given:
  PINO_DATA_DIR (--data_dir), PINO_PIECECONST_DIR (--piececonst_dir), PINO_CKPT_DIR (--ckpt_dir, with alm, nncg and
  lbfgs --warm_start), NNCG_RANK (--nncg_rank), NNCG_FB_CHUNK (--full_block), NNCG_CHUNK_SIZE (--nncg_chunk_size; 1 with
  NNCG_SEQ_HVP=1), SEGMENT_WALL_SECONDS (save and exit with code 75 after so many)

examples:
  python scripts/darcy_sweep.py --optimizer adam --preset small --budget laptop --r 1 4 10 --n_samples 5 20 100
  python scripts/darcy_sweep.py --optimizer lbfgs --r 4 --n_samples 1000 --seed 0 --outdir results      (on a GPU)
  python scripts/darcy_sweep.py --optimizer adam --r 10 --n_samples 200
  python scripts/darcy_sweep.py --optimizer nncg --r 10 --n_samples 200 --ckpt_dir results
"""


def make_parser() -> Parser:
    """All flags. Those of one kind of strategy have no default here, so that it shows whether they are given."""
    parser = Parser(prog="darcy_sweep.py", formatter_class=Help, allow_abbrev=False, epilog=EPILOG,
                    description="Train physics-informed neural operators on 2D Darcy flow.")
    add = parser.add_argument_group("what is trained").add_argument
    add("--optimizer", default="adam", choices=OPTIMIZERS, help="training strategy; alm: augmented Lagrangian, nncg: "
        "NysNewton-CG after Adam and L-BFGS, cl: curriculum in r")
    add("--r", type=float, nargs="+", default=[6.0], metavar="R", help="contrast a_max/a_min, columns of the map")
    add("--n_samples", type=int, nargs="+", default=[1000], metavar="N", help="training samples, rows of the map")
    add("--seed", "--seeds", type=int, nargs="+", default=[0], metavar="K", help="of the weights and the order of the "
        "samples; one run each. The data are the same for all")
    add("--budget", default="paper", choices=BUDGETS, help="iteration counts of all stages: seconds, minutes, or the "
        "paper's Table 3; single flags override")
    add("--steps", type=int, metavar="K", help="adam: iterations (10000); lbfgs: times --lbfgs_max_iter (1); with "
        "--warm_start, and alm, nncg: iterations of Adam before (10000; alm 15000); cl: more iterations at the end (0)")
    add("--xy_loss", type=float, default=5.0, metavar="X", help="weight of the data error d")
    add("--f_loss", type=float, default=1.0, metavar="X", help="weight of the residual p")
    add("--lr", type=float, metavar="X", help="learning rate of Adam (1e-3), halved after each fifth of its "
        "iterations; cl: constant")
    add("--batch_size", type=int, metavar="B", help="samples an iteration of Adam, at most n (32)")
    add("--warm_start", action="store_true", help="lbfgs: Adam before; the run is then called adam_lbfgs")
    add("--ckpt_dir", metavar="DIR", help="alm, nncg and lbfgs --warm_start: begin with the finished Adam run of the "
        "same cell and seed in this --outdir, instead of a stage of Adam")

    add = parser.add_argument_group("L-BFGS").add_argument
    add("--lbfgs_max_iter", type=int, metavar="N", help="iterations (10000)")
    add("--lbfgs_history", type=int, metavar="M", help="pairs of steps and gradients kept, 2 M times the memory of the "
        "weights (100; published 50)")
    add("--lbfgs_tolerance_grad", type=float, metavar="X", help="largest |gradient| at which it stops (1e-7)")
    add("--lbfgs_tolerance_change", type=float, metavar="X", help="change of the loss at which it stops (1e-9)")

    add = parser.add_argument_group("augmented Lagrangian").add_argument
    add("--alm_cons_item", choices=("pde", "data"), help="the constraint: pde (the paper's; default) or data (the "
        "published default; the run is then called alm_data)")
    add("--alm_uncon_weight", type=float, metavar="X", help="weight of the other term (1; data: 200)")
    add("--alm_mu", "--alm_mu0", type=float, metavar="X", help="first penalty (2)")
    add("--alm_rho", type=float, metavar="X", help="its factor from solve to solve (1.05)")
    add("--alm_outer_iters", type=int, metavar="K", help="solves (40)")
    add("--alm_inner", choices=("adam", "lbfgs"), help="what solves (adam)")
    add("--alm_inner_step", type=int, metavar="K", help="iterations of Adam a solve (500)")
    add("--alm_lbfgs_max_iter", type=int, metavar="K", help="iterations of L-BFGS a solve (200)")
    add("--alm_lbfgs_chunks", type=int, metavar="K", help="parts in which its samples go through the network; 0: as "
        "--block says")
    add("--alm_pde_eps_slack", type=float, metavar="X", help="residual allowed, as a fraction of that at the start "
        "(0.05)")
    add("--alm_data_eps_slack", type=float, metavar="X", help="the same of the data error (0)")
    add("--alm_adam_lr", type=float, metavar="X", help="learning rate of the solves (1e-4)")
    add("--alm_adam_warmup_frac", type=float, metavar="X", help="part of a solve in which it is held (0.2)")
    add("--alm_adam_no_cosine", action="store_true", default=None, help="it does not fall to 0 after that")
    add("--alm_save_best", action="store_true", default=None, help="end with the solve that has the lowest test error: "
        "a selection on the test samples")

    add = parser.add_argument_group("NysNewton-CG").add_argument
    add("--nncg_steps", type=int, metavar="K", help="steps (100)")
    add("--nncg_lbfgs_steps", type=int, metavar="K", help="iterations of L-BFGS before (1000; published: 0)")
    add("--nncg_rank", type=int, metavar="S", help="of the sketch (4; published 10)")
    add("--nncg_mu", type=float, metavar="X", help="damping (0.01)")
    add("--nncg_lr", type=float, metavar="X", help="first trial step (1)")
    add("--nncg_cg_tol", type=float, metavar="X", help="of conjugate gradients, relative to the gradient (1e-3)")
    add("--nncg_cg_max_iters", type=int, metavar="K", help="their iterations a step (200)")
    add("--nncg_chunk_size", type=int, metavar="K", help="products of a sketch at a time, by vmap (1)")

    add = parser.add_argument_group("curriculum").add_argument
    add("--cl_ramp", choices=("r", "f"), help="what moves: the contrast (default), or the right-hand side as published")
    for name, what in (("r", "contrast"), ("f", "right-hand side")):
        add(f"--cl_init_{name}", type=float, metavar="X", help=f"{what} of the first stage (1)")
        add(f"--cl_delta_{name}", type=float, metavar="X", help="its step (0.1)")
    add("--cl_target_f", type=float, metavar="X", help="right-hand side of the last stage (--f)")
    add("--cl_inner_step", type=int, metavar="K", help="iterations a stage (10000)")

    add = parser.add_argument_group("data").add_argument
    add("--data_dir", metavar="DIR", help="folder of the data files, PINO/data by default; those that are missing are "
        "made")
    add("--data_rows", type=int, metavar="M", help="samples of training files that are made, at least the largest n, "
        "so that commands with less of them share one file (the largest n)")
    add("--piececonst_dir", metavar="DIR", help="instead of --data_dir: train on the benchmark files "
        "piececonst_*_smooth1.mat, test on ..._smooth2.mat in this folder; --r must be their contrast")
    add("--test_num", type=int, metavar="M", help="test samples (200; benchmark files: 500)")
    add("--data_seed", type=int, default=0, metavar="K", help="of the training samples; no seed gives the test samples")
    add("--N", type=int, default=421, help="nodes a side of the grid on which the data are solved")
    add("--data_sub", "--sub", type=int, default=7, metavar="S", help="the network sees every S-th node")
    add("--pde_sub", type=int, metavar="S", help="the residual has every S-th node (--data_sub)")
    add("--residual", default=RESIDUALS[0], choices=RESIDUALS, help="published: wide differences of nodal values; "
        "flux: 5-point, conductivities upscaled from the data's grid; corrected: flux, zero at the training solutions")
    add("--grf", default=GRF[0], choices=GRF, help="random field: isotropic and periodic, with Neumann conditions as "
        "the benchmark, or anisotropic as published")
    add("--tau", type=float, default=3.0, metavar="X", help="inverse length of the random field")
    add("--alpha", type=float, default=2.0, metavar="X", help="its smoothness")
    add("--a_low", type=float, default=3.0, metavar="X", help="smaller value of a")
    add("--f", type=float, default=1.0, metavar="X", help="right-hand side")

    add = parser.add_argument_group("network").add_argument
    add("--preset", default="paper", choices=PRESETS, help="; ".join(
        f"{name}: {preset['modes']} modes, width {preset['width']}" for name, preset in PRESETS.items()))
    add("--modes", type=int, metavar="M", help="kept modes a direction, instead of the preset's")
    add("--width", type=int, metavar="W", help="channels, instead of the preset's")
    add("--spectral", default=SPECTRAL[0], choices=SPECTRAL, help="modes by matrices or by FFT: equal up to rounding")
    add("--precision", default="float32", choices=["float32", "float64"], help="of weights, data and losses")

    add = parser.add_argument_group("running").add_argument
    add("--outdir", default="results", metavar="DIR", help="where run folders go")
    add("--device", help="auto (default), cpu, cuda or cuda:k")
    add("--gpu", type=int, metavar="K", help="published spelling: GPU K where there is one, else the CPU")
    add("--block", type=int, metavar="B", help="samples that go through the network at a time (by device and network)")
    add("--full_block", type=int, metavar="B", help="the same for Hessian-vector products, which keep the graph of one "
        "block; 0: as --block")
    add("--force", action="store_true", help="train finished runs again")
    add("--save_model", action=argparse.BooleanOptionalAction, default=True, help="write model.pt")
    add("--log_every", type=int, metavar="N", help="iterations between full passes in history.csv (by budget: smoke "
        "5, laptop 100, paper 1000); steps between them have a line with what was minimised")
    add("--checkpoint_every", type=float, default=60.0, metavar="S", help="seconds between checkpoints, at least "
        "twenty times what one takes")
    add("--hessian_every", default="0", metavar="N|log|log:K", help="iterations between computations of the "
        "Hessian's highest eigenvalue, lambda_max in history.csv (after the optimizer's call in which they end), or "
        "log: at 20 log-spaced iterations; 0: never")
    add("--wandb", default="disabled", choices=["disabled", "offline", "online"], help="Weights & Biases")
    add("--wandb_project", default="pino", help="its project")
    return parser
