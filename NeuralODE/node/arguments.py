"""What a command line of `run_sweep.py` asks for, and the checks that end in one clear line."""

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from node.cli import find_device
from node.files import UsageError
from node.flags import OPTIMIZERS, make_parser
from node.grid import MOST_DAMPING, MOST_SAMPLES, Cell, make_cells
from node.hessian import Times
from node.objective import Problem
from node.session import Wandb
from node.settings import Settings
from node.strategies import STRATEGIES
from node.strategies.base import set_option
from node.strategies.batches import Region
from node.strategies.curriculum import Schedule

UNIT_TOLERANCE_CHANGE = 1e-12  # of L-BFGS on a unit loss, which is 1e-5 to 1e-4 in the end: float32's resolution
LOG_EVERY = {"smoke": 20, "laptop": 200, "paper": 400}
#: Published flags that are gone, and what to do in their place.
GONE = {
    "load-results": "the same command again rebuilds the matrices from the run folders",
    "plot-inv-b-values": "maps are drawn by experiments/analysis/maps.py",
    "boundary-percentile": "boundaries are drawn by experiments/analysis/maps.py --thresholds percentile",
    "cl-save-int-inv-checkpoints": "name the integers as --inv-b-values: they share the chain and each has a model.pt",
    "cl-target-coeff": "the target of a curriculum is the 1/b of the cell",
}


@dataclass(frozen=True)
class Sweep:
    """What a command asks for: the settings, the cells, whether to write matrices, and processes to share the work."""

    settings: Settings
    cells: list[Cell]
    matrices: bool
    workers: int = 1


def parse(argv: Sequence[str]) -> Sweep:
    """Settings and cells of a command line.

    Raises:
        UsageError: for anything that is wrong; the text names the flag and what is allowed.
    """
    args = make_parser().parse_args([_hyphens(word) for word in argv])
    check_numbers(args)
    problem, kind = make_problem(args), strategy_kind(args)
    check_flags(args, kind)
    options = strategy_options(args, kind)
    cells, horizons = make_cells(args)
    updates = updates_per_epoch(args)
    torch.set_num_threads(1)  # more help little, and hurt much on a machine that has other work
    torch.set_float32_matmul_precision("highest")  # TF32 would cost L-BFGS its last digits
    settings = Settings(
        problem=problem, model="NODE" if problem.mode in ("none", "sphere") else "PINODE",
        strategy=strategy_name(args, kind), kind=kind, options=options, horizons=horizons, save_path=Path(args.out_dir),
        named={"optimizer": args.optimizer, "constraint_method": args.constraint_method, "cl_warmup": args.cl_warmup},
        device=device(args), dtype=getattr(torch, args.precision), hidden=(args.hidden,) * 3, updates=updates,
        init=Path(args.alm_init_ckpt) if args.alm_init_ckpt else None, budget=args.budget,
        log_every=log_every(args), hessian_every=Times.parse(args.hessian_every, "--hessian-every"),
        checkpoint_seconds=args.checkpoint_every, save_model=args.save_model, force=args.force,
        wandb=args.wandb, wandb_project=args.wandb_project)
    runs = [settings.run(*cell).key for cell in cells]
    settings.plan(runs)  # raises where the schedule does not fit
    if settings.init is not None:
        for key in runs:
            settings.initial_weights(key)
    Wandb(args.wandb)  # missing? better now than after the run folders are made
    return Sweep(settings, cells, not args.write_case_json_only, args.workers)


def _hyphens(word: str) -> str:
    """--loss_scale=unit is --loss-scale=unit; values stay as they are. Raises UsageError for flags that are gone."""
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    name = name.replace("_", "-")
    if name[2:] in GONE:
        raise UsageError(f"{name} is gone: {GONE[name[2:]]}")
    return name + equals + value


# ---- what is trained -----------------------------------------------------------------------------------------------


def make_problem(args: argparse.Namespace) -> Problem:
    """The problem, after the checks of what fits together."""
    mode = args.physics_mode
    embedded = mode in ("none", "sphere")
    state = args.state or ("embedded" if embedded else "raw")
    if state == "embedded" and not embedded:
        raise UsageError(f"--state embedded goes with --physics-mode none or sphere, not with {mode}: the vector field "
                         f"is known for the raw state only")
    if state == "raw" and mode == "sphere":
        raise UsageError("--state raw goes with --physics-mode none, pinn, pinn_region or pinn_alm, not with sphere")
    if args.training == "rollout" and args.batch_size is not None:
        raise UsageError("--batch-size goes with --training onestep: a rollout is trained on as a whole")
    span = (args.rollout_report_t_span_lo, args.rollout_report_t_span_hi)
    if not span[1] - span[0] > args.rollout_report_test_dt:
        raise UsageError(f"--rollout-report-t-span-hi must be above --rollout-report-t-span-lo by more than "
                         f"--rollout-report-test-dt, got {span[0]:g} to {span[1]:g} in steps of "
                         f"{args.rollout_report_test_dt:g}")
    return Problem(mode=mode, weight=args.lamb, state=state, integrator=args.integrator, training=args.training,
                   scale=args.loss_scale, tolerance=args.data_tolerance, dt=args.fixed_dt, test_dt=args.fixed_test_dt,
                   test_horizon=args.test_horizon, probe_dt=args.rollout_report_test_dt, probe_span=span,
                   batch_size=args.batch_size or 32)


def strategy_kind(args: argparse.Namespace) -> str:
    """The class of strategy, a key of `STRATEGIES`."""
    first_order_or_lbfgs = args.optimizer in ("Adam", "SGD", "LBFGS")
    if args.constraint_method == "alm" and args.physics_mode not in ("sphere", "pinn_alm"):
        raise UsageError(f"--constraint-method alm goes with --physics-mode sphere, not with {args.physics_mode}")
    if args.physics_mode == "pinn_alm" or args.constraint_method == "alm":
        if not first_order_or_lbfgs:
            raise UsageError(f"--optimizer must be LBFGS, Adam or SGD for an augmented Lagrangian, got "
                             f"{args.optimizer}")
        return "alm"
    if args.cl_warmup:
        if not first_order_or_lbfgs:
            raise UsageError(f"--optimizer must be LBFGS, Adam or SGD with --cl-warmup, got {args.optimizer}")
        return "cl"
    return OPTIMIZERS[args.optimizer]


def strategy_name(args: argparse.Namespace, kind: str) -> str:
    """Name of the map and of its folder: what differs from the paper's strategy of that kind is added."""
    parts = [{"sphere": "sphere", "pinn_region": "region"}.get(args.physics_mode, ""), kind]
    if kind == "alm":
        parts.append("data" if args.alm_target == "data" else "")
        parts.append("cl" if args.cl_warmup else "")
    if kind in ("alm", "cl") and args.optimizer != "LBFGS":
        parts.append(args.optimizer.lower())
    return "_".join(part for part in parts if part)


#: Flags of one kind of strategy; with another they are refused rather than ignored.
OWNERS = {
    **dict.fromkeys(("nncg_lr", "nncg_rank", "nncg_mu", "nncg_cg_tol", "nncg_cg_max_iters", "nncg_precond_update_freq"),
                    ("--optimizer NNCG, Adam_NNCG or Adam_LBFGS_NNCG", ("nncg", "nncg_only", "adam_nncg"))),
    "nncg_epochs": ("--optimizer NNCG or Adam_LBFGS_NNCG", ("nncg", "nncg_only")),
    "nncg_switch_epoch": ("--optimizer Adam_NNCG", ("adam_nncg",)),
    **dict.fromkeys(("alm_target", "alm_outer_iters", "alm_inner_step", "alm_penalty", "alm_penalty_growth",
                     "alm_uncon_weight", "alm_bootstrap_lbfgs_max_iter", "no_alm_bootstrap", "alm_warmup_epochs",
                     "alm_init_ckpt", "no_alm_init_ckpt"),
                    ("--physics-mode pinn_alm or --constraint-method alm", ("alm",))),
}


def check_flags(args: argparse.Namespace, kind: str) -> None:
    """Flags that contradict each other, or that nothing would read."""
    def given(name: str) -> bool:
        value = getattr(args, name)
        return value is not None and value is not False  # 0 is given

    def flag(name: str) -> str:
        return f"--{name.replace('_', '-')}"
    for name, (where, kinds) in OWNERS.items():
        if given(name) and kind not in kinds:
            raise UsageError(f"{flag(name)} goes with {where}, not with {args.optimizer} and {args.physics_mode}")
    for prefix, where, on in (("region", "--physics-mode pinn_region", args.physics_mode == "pinn_region"),
                              ("rho", "--physics-mode pinn_region", args.physics_mode == "pinn_region"),
                              ("cl", "--cl-warmup", args.cl_warmup)):
        for name in vars(args):
            if (name == prefix or name.startswith(f"{prefix}_")) and given(name) and not on:
                raise UsageError(f"{flag(name)} goes with {where}")
    first_order = args.optimizer in ("Adam", "SGD", "Adam_NNCG") or kind == "nncg" and bool(args.epochs)
    for name in ("learning_rate", "batch_size", "log_loss_every"):
        if given(name) and not first_order:
            raise UsageError(f"{flag(name)} goes with --optimizer Adam or SGD, not with {args.optimizer}")
    for name in vars(args):
        if name.startswith("lbfgs_") and given(name) and "LBFGS" not in args.optimizer:
            raise UsageError(f"{flag(name)} goes with --optimizer LBFGS or Adam_LBFGS_NNCG, not with {args.optimizer}")
    bootstrapped = "alm_bootstrap_lbfgs_max_iter"
    for one, other in (("epochs", "cl_inner_epochs"), ("log_every", "log_loss_every"), ("cuda", "device"),
                       ("no_alm_bootstrap", bootstrapped), ("alm_init_ckpt", bootstrapped), ("cl_warmup", bootstrapped),
                       ("alm_init_ckpt", "no_alm_init_ckpt"), ("force", "skip_existing_cases")):
        if given(one) and given(other):
            raise UsageError(f"{flag(one)} and {flag(other)} exclude each other")
    if kind == "alm" and given("epochs") and not args.cl_warmup:
        raise UsageError("--epochs: an augmented Lagrangian counts solves, see --alm-outer-iters and --alm-inner-step")
    if kind == "nncg_only" and given("epochs") and given("nncg_epochs"):
        raise UsageError("--epochs and --nncg-epochs exclude each other with --optimizer NNCG")


def strategy_options(args: argparse.Namespace, kind: str) -> Any:
    """Options of the strategy: the paper's, then the budget's, then single flags."""
    strategy = STRATEGIES[kind]
    options = strategy.Options()
    if args.physics_mode == "pinn_region":
        options.region = Region()
    inner = {"Adam": "adam", "SGD": "sgd", "LBFGS": "lbfgs"}.get(args.optimizer)
    if kind == "cl":
        options.schedule, options.inner = make_schedule(args), inner
    elif kind == "alm":
        options.inner, options.schedule = inner, make_schedule(args) if args.cl_warmup else None
        if args.no_alm_bootstrap or args.alm_init_ckpt or args.cl_warmup:
            options.bootstrap = 0
    for key, value in strategy.budgets.get(args.budget, {}).items():
        if key == "bootstrap" and not options.bootstrap:
            continue
        set_option(options, key, value, strategy.main, "--budget")
    if args.loss_scale == "unit" and hasattr(options, "lbfgs"):
        options.lbfgs.tolerance_change = UNIT_TOLERANCE_CHANGE
    if args.epochs is not None and kind != "alm":
        strategy.set_epochs(options, args.epochs)
    if args.nncg_switch_epoch is not None and args.nncg_switch_epoch >= 0:  # published: -1 is half
        total = options.epochs + options.iterations
        options.epochs = min(args.nncg_switch_epoch, total)
        options.iterations = total - options.epochs
    first_order = {"adam": "adam", "sgd": "sgd", "alm": "first_order", "cl": "first_order"}.get(kind, "adam")
    for name, key in {
            "learning_rate": f"{first_order}_lr", "lbfgs_max_iter": "lbfgs_max_iter",
            "lbfgs_history_size": "lbfgs_history_size", "lbfgs_tolerance_grad": "lbfgs_tolerance_grad",
            "lbfgs_tolerance_change": "lbfgs_tolerance_change", "nncg_epochs": "iterations",
            "nncg_lr": "nncg_lr", "nncg_rank": "nncg_rank", "nncg_mu": "nncg_mu", "nncg_cg_tol": "nncg_cg_tol",
            "nncg_cg_max_iters": "nncg_cg_max_iter", "nncg_precond_update_freq": "nncg_update_freq",
            "alm_target": "target", "alm_outer_iters": "outer", "alm_inner_step": "calls", "alm_penalty": "mu",
            "alm_penalty_growth": "factor", "alm_uncon_weight": "weight", "alm_bootstrap_lbfgs_max_iter": "bootstrap",
            "alm_warmup_epochs": "warmup", "rho": "region_rho", "region_samples": "region_samples",
            "region_history": "region_history", "region_max_radius": "region_max_radius"}.items():
        if getattr(args, name) is not None:
            set_option(options, key, getattr(args, name), strategy.main, f"--{name.replace('_', '-')}")
    return options


def make_schedule(args: argparse.Namespace) -> Schedule:
    """The curriculum, in steps of b or of 1/b."""
    in_b = {name: getattr(args, name) for name in ("cl_init_coeff", "cl_delta_coeff")}
    in_inv_b = {name: getattr(args, name) for name in ("cl_inv_init", "cl_inv_delta")}
    space = args.cl_schedule_space or ("b" if any(v is not None for v in in_b.values()) else "inv_b")
    wrong = [name for name, v in (in_inv_b if space == "b" else in_b).items() if v is not None]
    if wrong:
        raise UsageError(f"--{wrong[0].replace('_', '-')} goes with --cl-schedule-space "
                         f"{'inv_b' if space == 'b' else 'b'}, not with {space}")
    if space == "b" and None in in_b.values():
        raise UsageError("--cl-schedule-space b needs --cl-init-coeff and --cl-delta-coeff")
    calls = args.cl_inner_epochs if args.cl_inner_epochs is not None else args.epochs
    if calls is None:
        calls = 1 if args.optimizer == "LBFGS" else 10
    defaults = Schedule(step=4.0) if args.budget == "smoke" else Schedule()
    start, step = args.cl_inv_init or defaults.start, args.cl_inv_delta or defaults.step
    if space == "b":
        start, step = args.cl_init_coeff, args.cl_delta_coeff
    if (start if space == "b" else 1 / start) > MOST_DAMPING:
        flag = "--cl-init-coeff" if space == "b" else "--cl-inv-init"
        raise UsageError(f"{flag}: {start:g} is a damping b above {MOST_DAMPING:g}, which is too stiff")
    return Schedule(space, start, step, calls)


def updates_per_epoch(args: argparse.Namespace) -> str | int:
    """Policy or number of the updates of an epoch."""
    text = args.updates_per_epoch
    text = "grid" if text.isdecimal() and int(text) == 0 else text
    if text not in ("auto", "own", "grid") and not (text.isdecimal() and int(text) < 10**6):
        raise UsageError(f"--updates-per-epoch must be a whole number, auto, own or grid, got {text!r}")
    if text != "auto" and args.optimizer in ("LBFGS", "NNCG"):
        raise UsageError(f"--updates-per-epoch goes with --optimizer Adam or SGD, not with {args.optimizer}")
    if text in ("own", "grid") and args.training == "rollout":
        raise UsageError(f"--updates-per-epoch {text} goes with --training onestep: a rollout has no mini-batches")
    return int(text) if text.isdecimal() else text


def log_every(args: argparse.Namespace) -> int:
    """Iterations between lines of the history."""
    if args.log_loss_every is not None:
        return 13 * args.log_loss_every  # updates of an epoch on a trajectory of the test horizon
    return args.log_every or LOG_EVERY[args.budget]


# ---- ranges --------------------------------------------------------------------------------------------------------

#: Least value of each number; those in POSITIVE must be above 0.
LEAST = {"epochs": 0, "nncg_epochs": 0, "alm_outer_iters": 1, "alm_inner_step": 1, "alm_warmup_epochs": 0,
         "alm_bootstrap_lbfgs_max_iter": 0, "alm_penalty": 0, "alm_uncon_weight": 0, "lamb": 0, "region_samples": 1,
         "region_history": 1, "region_max_radius": 0, "rho": 0, "nncg_cg_tol": 0, "cl_inner_epochs": 0, "hidden": 1,
         "batch_size": 1, "log_every": 1, "log_loss_every": 1, "checkpoint_every": 0, "workers": 1, "lbfgs_max_iter": 1,
         "lbfgs_history_size": 1, "lbfgs_tolerance_grad": 0, "lbfgs_tolerance_change": 0,
         "nncg_rank": 1, "nncg_cg_max_iters": 1, "nncg_precond_update_freq": 1, "rollout_report_t_span_lo": 0}
POSITIVE = ("learning_rate", "nncg_lr", "nncg_mu", "alm_penalty_growth", "cl_init_coeff", "cl_delta_coeff",
            "cl_inv_init", "cl_inv_delta", "fixed_dt", "fixed_test_dt", "test_horizon", "rollout_report_test_dt")


def check_numbers(args: argparse.Namespace) -> None:
    """Ranges of the plain numbers."""
    for name in (*LEAST, *POSITIVE):
        value, least = getattr(args, name), LEAST.get(name)
        good = value is None or math.isfinite(value) and (value > 0 if least is None else value >= least)
        if not good:
            allowed = "positive" if least is None else f"at least {least}"
            raise UsageError(f"--{name.replace('_', '-')} must be {allowed}, got {value:g}")
    if args.nncg_mu is not None and args.nncg_mu > 100:
        raise UsageError(f"--nncg-mu must be at most 100, got {args.nncg_mu:g}")
    if args.nncg_switch_epoch is not None and args.nncg_switch_epoch < -1:
        raise UsageError(f"--nncg-switch-epoch must be at least 0, or -1 for half, got {args.nncg_switch_epoch}")
    if args.test_horizon <= args.fixed_test_dt:
        raise UsageError(f"--test-horizon must be above --fixed-test-dt {args.fixed_test_dt:g}, got "
                         f"{args.test_horizon:g}")
    for dt, horizon in (("fixed-test-dt", "test-horizon"), ("rollout-report-test-dt", "rollout-report-t-span-hi")):
        step, end = (getattr(args, name.replace("-", "_")) for name in (dt, horizon))
        if not end / step <= MOST_SAMPLES:
            raise UsageError(f"--{horizon}: {end:g} in steps of --{dt} {step:g} makes more than {MOST_SAMPLES} samples")
    if not args.out_dir:
        raise UsageError("--out-dir must name a folder, got an empty text")


def device(args: argparse.Namespace) -> torch.device:
    """The device that is asked for; the published --cuda falls back to the CPU, in one line."""
    if args.cuda and not torch.cuda.device_count():
        print("--cuda: there is no GPU, the CPU is used", file=sys.stderr)
    return find_device(args.device or "auto")
