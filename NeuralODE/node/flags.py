"""The flags of `run_sweep.py`; those of the published code keep their names."""

import argparse

from node.cli import BUDGETS, Help, Parser
from node.data import STATES
from node.objective import MODES, SCALES, TRAININGS
from node.pendulum import TOLERANCES
from node.rollout import INTEGRATORS

#: Published optimizers, and the strategy that trains with them.
OPTIMIZERS = {"Adam": "adam", "SGD": "sgd", "LBFGS": "lbfgs", "NNCG": "nncg_only", "Adam_NNCG": "adam_nncg",
              "Adam_LBFGS_NNCG": "nncg"}
EPILOG = """Underscores may stand for hyphens in flags, commas for spaces in lists.

examples:
  python run_sweep.py --optimizer Adam --physics-mode pinn --inv-b-values 8 --horizon-values 20 --seeds 0
  python run_sweep.py --optimizer LBFGS --physics-mode pinn                           72 cells x 3 seeds side by side
  python run_sweep.py --optimizer LBFGS --physics-mode pinn_alm --alm-target data --budget laptop
  python run_sweep.py --optimizer LBFGS --physics-mode pinn --cl-warmup --horizon-values 5 20
"""


def make_parser() -> Parser:
    """All flags. Those of one kind of strategy have no default here, so that it shows whether they are given."""
    parser = Parser(prog="run_sweep.py", formatter_class=Help, allow_abbrev=False, epilog=EPILOG,
                    description="Train neural ODEs on the damped pendulum, all cells and seeds side by side.")
    add = parser.add_argument_group("method").add_argument
    add("--optimizer", default="LBFGS", choices=OPTIMIZERS, help="what trains")
    add("--physics-mode", default="pinn_alm", choices=MODES, help="none: neural ODE on the embedded state; sphere: the "
        "same, kept on the sphere; pinn: the equation as a penalty, raw state; pinn_region: the same around each "
        "state; pinn_alm: augmented Lagrangian")
    add("--budget", default="paper", choices=BUDGETS, help="iteration counts of all stages: seconds, minutes, or the "
        "paper's Table 4; single flags override")
    add("--epochs", type=int, metavar="N", help="walks through the mini-batches (Adam, SGD, also before "
        "Adam_LBFGS_NNCG; 600), calls of L-BFGS (1), steps (NNCG), in all (Adam_NNCG), of each stage (--cl-warmup)")
    add("--learning-rate", type=float, metavar="X", help="of Adam and SGD (1e-3), decays by 0.995 an epoch")
    add("--lbfgs-max-iter", type=int, metavar="N", help="iterations in a call of L-BFGS (1000; 500 in ALM and CL)")
    add("--lbfgs-history-size", type=int, metavar="N", help="pairs of steps and gradients that L-BFGS keeps (50)")
    add("--lbfgs-tolerance-grad", type=float, metavar="X", help="largest |gradient| at which L-BFGS stops (1e-7)")
    add("--lbfgs-tolerance-change", type=float, metavar="X", help="change of the loss at which it stops (1e-9 on the "
        "paper's loss, 1e-12 on the unit loss)")
    add("--loss-scale", default="unit", choices=SCALES, help="what the optimizer minimises: paper: the loss; unit: the "
        "loss / dt^2, so that its tolerances mean something. Reported losses are the paper's")
    add("--lamb", type=float, default=1.0, metavar="X", help="weight of the physics term")
    add("--constraint-method", default="penalty", choices=("penalty", "alm"), help="of --physics-mode sphere")
    add("--training", default="onestep", choices=TRAININGS, help="onestep: pairs of neighbouring states, as published; "
        "rollout: the whole trajectory from its first state")
    add("--integrator", default="euler", choices=INTEGRATORS, help="of the prediction, in training and testing")
    add("--state", choices=STATES, help="coordinates (none and sphere: embedded, pinn*: raw)")

    add = parser.add_argument_group("NysNewton-CG").add_argument
    add("--nncg-epochs", type=int, metavar="N", help="steps (500)")
    add("--nncg-lr", type=float, metavar="X", help="first trial step (1; the paper's table has 1e-3)")
    add("--nncg-rank", type=int, metavar="N", help="of the sketch (10)")
    add("--nncg-mu", type=float, metavar="X", help="damping (0.01)")
    add("--nncg-cg-tol", type=float, metavar="X", help="of conjugate gradients, relative to the gradient (1e-3)")
    add("--nncg-cg-max-iters", type=int, metavar="N", help="iterations of conjugate gradients a step (100)")
    add("--nncg-precond-update-freq", type=int, metavar="N", help="steps between sketches (1)")
    add("--nncg-switch-epoch", type=int, metavar="N", help="Adam_NNCG: epochs of Adam before (half of them)")

    add = parser.add_argument_group("augmented Lagrangian (pinn_alm)").add_argument
    add("--alm-target", choices=("physics", "data"), help="the hard constraint (physics)")
    add("--alm-outer-iters", type=int, metavar="N", help="solves (50)")
    add("--alm-inner-step", type=int, metavar="N", help="calls of L-BFGS, or epochs of Adam or SGD, a solve (1)")
    add("--alm-penalty", type=float, metavar="X", help="first penalty mu (1)")
    add("--alm-penalty-growth", type=float, metavar="X", help="its factor from solve to solve (1.05)")
    add("--alm-uncon-weight", type=float, metavar="X", help="weight of the soft term (10)")
    add("--alm-bootstrap-lbfgs-max-iter", type=int, metavar="N", help="L-BFGS iterations on the penalty loss "
        "first (1000)")
    add("--no-alm-bootstrap", action="store_true", help="without these")
    add("--alm-warmup-epochs", type=int, metavar="N", help="then calls of L-BFGS (epochs of Adam) on the same loss (0)")
    add("--alm-init-ckpt", metavar="PATH", help="start from this model.pt, or from the run of the same cell and seed "
        "in this folder, instead of the bootstrap")
    add("--no-alm-init-ckpt", action="store_true", help="start from no file; so it is unless --alm-init-ckpt is given")

    add = parser.add_argument_group("region (pinn_region)").add_argument
    add("--rho", type=float, metavar="X", help="region before it is divided by the spread of the gradient (1)")
    add("--region-samples", type=int, metavar="N", help="states in place of one, that state included (4)")
    add("--region-history", type=int, metavar="N", help="gradients that the spread is of (10)")
    add("--region-max-radius", type=float, metavar="X", help="largest region (0.05)")

    add = parser.add_argument_group("curriculum").add_argument
    add("--cl-warmup", action="store_true", help="move 1/b from stage to stage, default 0.25, 0.5, ... up to each "
        "cell's")
    add("--cl-schedule-space", choices=("b", "inv_b"), help="what moves evenly (inv_b, or b with the next two flags)")
    add("--cl-init-coeff", type=float, metavar="X", help="b of the first stage")
    add("--cl-delta-coeff", type=float, metavar="X", help="step of b")
    add("--cl-inv-init", type=float, metavar="X", help="1/b of the first stage (0.25)")
    add("--cl-inv-delta", type=float, metavar="X", help="step of 1/b (0.25)")
    add("--cl-inner-epochs", type=int, metavar="N", help="calls of L-BFGS, or epochs of Adam or SGD, a stage (1; 10)")

    add = parser.add_argument_group("grid").add_argument
    add("--inv-b-values", "--inv-b", nargs="+", metavar="X", help="1/b, columns of the map (1 2 4 6 8 10 12 15)")
    add("--b-values", nargs="+", metavar="X", help="b in place of 1/b")
    add("--horizon-values", "--horizon", nargs="+", metavar="T", help="training horizons, rows of the map (0.5 1 2 5 8 "
        "10 12 15 20)")
    add("--seeds", nargs="+", metavar="K", help="seeds of the weights, one run each in every cell (0 1 2)")
    add("--seed", type=int, metavar="K", help="a single seed")
    add("--only-inv-b-values", nargs="+", metavar="X", help="train these columns of the grid only")
    add("--shard-index", type=int, metavar="I", help="train only cells I, I + COUNT, ... of the grid")
    add("--shard-count", type=int, metavar="COUNT", help="number of shards")
    add("--fixed-dt", type=float, default=0.05, metavar="X", help="time between training samples")
    add("--fixed-test-dt", type=float, default=0.05, metavar="X", help="step of the test rollout")
    add("--test-horizon", type=float, default=20.0, metavar="T", help="length of the test rollout")
    add("--rollout-report-test-dt", type=float, default=0.05, metavar="X", help="step of the windowed rollout error")
    add("--rollout-report-t-span-lo", type=float, default=0.0, metavar="T", help="its window")
    add("--rollout-report-t-span-hi", type=float, default=10.0, metavar="T", help="its window")
    add("--data-tolerance", default="paper", choices=TOLERANCES, help="of the trajectories: paper: solve_ivp's "
        "defaults; tight: 1e-10")

    add = parser.add_argument_group("network").add_argument
    add("--hidden", type=int, default=16, metavar="N", help="width of the three hidden layers")
    add("--batch-size", type=int, metavar="N", help="pairs in a mini-batch of Adam and SGD (32)")
    add("--updates-per-epoch", default="auto", metavar="N", help="of Adam and SGD: a number; auto: as many as a "
        "trajectory of the test horizon has mini-batches, whatever the cell; own: as many as the cell has; grid or 0: "
        "as many as the longest horizon of the grid has, as published")
    add("--precision", default="float32", choices=["float32", "float64"], help="of weights, data and losses")

    add = parser.add_argument_group("running").add_argument
    add("--out-dir", "--outdir", "--save-path", default="results", metavar="DIR", help="where run folders and matrices "
        "go")
    add("--device", help="auto (default), cpu, cuda or cuda:k")
    add("--cuda", action="store_true", help="published spelling: a GPU when there is one, else the CPU")
    add("--workers", type=int, default=1, metavar="N", help="processes that share the cells (1), at most one a CPU "
        "core; each takes seconds to start")
    add("--force", action="store_true", help="train finished runs again")
    add("--skip-existing-cases", action="store_true", help="leave finished runs alone; so it is unless --force is "
        "given")
    add("--save-model", "--save-cell-ckpt", action=argparse.BooleanOptionalAction, default=True, help="write model.pt")
    add("--write-case-json-only", action="store_true", help="write run folders, no matrices and no sweep_results.json")
    add("--log-every", type=int, metavar="N", help="iterations between lines of history.csv (default by budget: "
        "smoke 20, laptop 200, paper 400)")
    add("--log-loss-every", type=int, metavar="N", help="published spelling: the same in epochs of 13 updates")
    add("--checkpoint-every", type=float, default=60.0, metavar="S", help="seconds between checkpoints")
    add("--hessian-every", default="0", metavar="N|log|log:K", help="iterations between computations of the "
        "Hessian's highest eigenvalue, lambda_max in history.csv (after the optimizer's call in which they end), or "
        "log: at 20 log-spaced iterations; 0: never")
    add("--wandb", default="disabled", choices=["disabled", "offline", "online"], help="Weights & Biases")
    add("--wandb-project", default="pinodes", help="its project")
    return parser
