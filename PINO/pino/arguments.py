"""What a command line of `darcy_sweep.py` asks for, and the checks that end in one clear line."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pino.cli import find_device, unique
from pino.files import UsageError
from pino.flags import make_parser
from pino.hessian import Times
from pino.model import PRESETS
from pino.session import Wandb
from pino.settings import Settings
from pino.sources import Source
from pino.store import Recipe
from pino.strategies import STRATEGIES
from pino.strategies.base import set_option

MODULE = Path(__file__).resolve().parents[1]
LOG_EVERY = {"smoke": 5, "laptop": 100, "paper": 1000}
TESTS, BENCHMARK_TESTS = 200, 500
BATCH_SIZE = 32
#: Published flags that are gone, and what to do in their place.
GONE = {"--progress_dir": "checkpoints lie in the run folders", "--ckpt_every": "use --checkpoint_every, in seconds"}

#: Options that flags set, by optimizer: flag -> name of the option.
FLAGS = {
    "adam": {"steps": "iterations", "lr": "adam_lr"},
    "lbfgs": {},
    "adam_lbfgs": {"steps": "steps", "lr": "adam_lr"},
    "alm": {"steps": "steps", "lr": "adam_lr", "alm_cons_item": "constraint", "alm_uncon_weight": "weight",
            "alm_mu": "mu", "alm_rho": "factor", "alm_outer_iters": "outer", "alm_inner": "inner",
            "alm_adam_lr": "lr", "alm_adam_warmup_frac": "hold", "alm_save_best": "save_best"},
    "nncg": {"steps": "steps", "lr": "adam_lr", "nncg_steps": "iterations", "nncg_lbfgs_steps": "lbfgs_steps",
             "nncg_rank": "nncg_rank", "nncg_mu": "nncg_mu", "nncg_lr": "nncg_lr", "nncg_cg_tol": "nncg_cg_tol",
             "nncg_cg_max_iters": "nncg_cg_max_iter", "nncg_chunk_size": "nncg_chunk_size"},
    "cl": {"steps": "tail", "lr": "adam_lr", "cl_ramp": "ramp", "cl_inner_step": "iterations"},
}
#: Flags of data that are generated; benchmark files have their own values.
GENERATED = ("N", "grf", "tau", "alpha", "a_low", "f", "data_seed", "data_rows")
LBFGS = {"lbfgs_history": "lbfgs_history_size", "lbfgs_tolerance_grad": "lbfgs_tolerance_grad",
         "lbfgs_tolerance_change": "lbfgs_tolerance_change"}


@dataclass(frozen=True)
class Sweep:
    """What a command asks for: settings, one for each number of training samples, contrasts and seeds; the rows of
    training files that are made.
    """

    settings: list[Settings]
    contrasts: list[float]
    seeds: list[int]
    data_rows: int


def parse(argv: Sequence[str]) -> Sweep:
    """Settings and axes of a command line; no data are looked at, except benchmark files.

    Raises:
        UsageError: for anything that is wrong; the text names the flag and what is allowed.
    """
    for word in argv:
        if word.partition("=")[0] in GONE:
            raise UsageError(f"{word.partition('=')[0]} is gone: {GONE[word.partition('=')[0]]}")
    args = make_parser().parse_args(argv)
    for flag in ("outdir", "data_dir", "ckpt_dir", "piececonst_dir"):
        if getattr(args, flag) == "":
            raise UsageError(f"--{flag} must name a folder, got an empty text")
    read_environment(args)
    contrasts, counts, seeds = (unique(getattr(args, name), f"--{name}") for name in ("r", "n_samples", "seed"))
    check_numbers(args, contrasts, counts, seeds)
    strategy, options = strategy_options(args)
    device = find_gpu(args)
    source = find_source(args, contrasts, max(counts))
    if source.benchmark and strategy == "cl" and len(contrasts) > 1:
        raise UsageError(f"--r: one contrast at a time with cl on benchmark files, which may differ in their fields; "
                         f"got {len(contrasts)}")
    network = make_network(args, source)
    torch.set_float32_matmul_precision("highest")  # TF32 would cost L-BFGS its last digits
    Wandb(args.wandb)  # missing? better now than after the run folders are made
    settings = [Settings(
        source=source, n=n, strategy=strategy, options=options, save_path=Path(args.outdir), device=device,
        dtype=getattr(torch, args.precision), residual=args.residual, pde_stride=args.pde_sub or source.stride,
        weights=(args.xy_loss, args.f_loss), batch_size=args.batch_size or BATCH_SIZE, network=network,
        spectral=args.spectral, block=inner_block(args, n), graph_block=args.full_block or None,
        checkpoints=Path(args.ckpt_dir) if args.ckpt_dir else None, budget=args.budget,
        log_every=args.log_every or LOG_EVERY[args.budget], checkpoint_seconds=args.checkpoint_every,
        hessian_every=Times.parse(args.hessian_every), save_model=args.save_model, force=args.force, wandb=args.wandb,
        wandb_project=args.wandb_project)
        for n in counts]
    for one in settings:
        one.plan([one.key(strategy, contrast, seeds[0]) for contrast in contrasts])  # raises where a schedule is wrong
        one.check_memory()
        if one.checkpoints is not None:
            for contrast in contrasts:
                for seed in seeds:
                    one.checkpoint(contrast, seed)
    if device.type == "cpu" and args.preset == "paper" and args.budget == "paper":
        print("the full network takes seconds an iteration on a CPU; --preset small --budget laptop takes minutes",
              file=sys.stderr)
    return Sweep(settings, contrasts, seeds, args.data_rows or max(counts))


def read_environment(args: argparse.Namespace) -> None:
    """Published environment variables, where the flag is not given.

    Raises:
        UsageError: for values that are no whole numbers.
    """
    def number(name: str, least: int) -> int | None:
        text = os.environ.get(name, "").strip()
        if text and (not text.isdecimal() or int(text) < least):
            raise UsageError(f"{name} (environment) must be a whole number from {least}, got {text!r}")
        return int(text) if text else None

    args.data_dir = args.data_dir or os.environ.get("PINO_DATA_DIR") or str(MODULE / "data")
    args.piececonst_dir = args.piececonst_dir or os.environ.get("PINO_PIECECONST_DIR")
    if STRATEGIES[kind_of(args)].prepared:
        args.ckpt_dir = args.ckpt_dir or os.environ.get("PINO_CKPT_DIR")
    if args.optimizer == "nncg":
        block = number("NNCG_FB_CHUNK", 0)
        args.full_block = block if args.full_block is None else args.full_block
        rank, chunk = number("NNCG_RANK", 1), number("NNCG_CHUNK_SIZE", 1)
        one_by_one = os.environ.get("NNCG_SEQ_HVP", "").strip().lower() not in ("", "0", "false", "no")
        args.nncg_rank = rank if args.nncg_rank is None else args.nncg_rank
        args.nncg_chunk_size = (1 if one_by_one else chunk) if args.nncg_chunk_size is None else args.nncg_chunk_size


# ---- what is trained -----------------------------------------------------------------------------------------------


def kind_of(args: argparse.Namespace) -> str:
    """Whose flags are meant: the optimizer's name, with --warm_start that of the strategy.

    Raises:
        UsageError: for --warm_start with another optimizer than L-BFGS.
    """
    if args.warm_start and args.optimizer != "lbfgs":
        raise UsageError(f"--warm_start goes with --optimizer lbfgs, not with {args.optimizer}")
    return "adam_lbfgs" if args.warm_start else args.optimizer


def strategy_options(args: argparse.Namespace) -> tuple[str, Any]:
    """Name of the strategy, and its options: the budget's, changed by the flags that are given.

    Raises:
        UsageError: for flags of another strategy.
    """
    kind = kind_of(args)
    if args.ckpt_dir and not STRATEGIES[kind].prepared:
        raise UsageError(f"--ckpt_dir goes with --optimizer alm, nncg, or lbfgs --warm_start, not with {kind}")
    refuse_flags_of_others(args, kind)
    name = "alm_data" if kind == "alm" and args.alm_cons_item == "data" else kind
    strategy = STRATEGIES[name]
    options = strategy.Options()
    mine = FLAGS.get(kind, {})  # a new strategy has those that are entered there
    given = {option: getattr(args, flag) for flag, option in (mine | LBFGS).items()
             if getattr(args, flag) is not None and (flag in mine or hasattr(options, "lbfgs"))}
    for key, value in ({} if args.budget == "paper" else strategy.budgets[args.budget]).items():
        set_option(options, key, value, strategy.main, "--budget")
    for key, value in given.items():
        set_option(options, key, value, strategy.main, "")
    if kind in ("lbfgs", "adam_lbfgs"):
        calls = args.steps if kind == "lbfgs" and args.steps is not None else 1
        options.iterations = calls * (args.lbfgs_max_iter or options.iterations)
    if kind == "alm":
        alm_options(args, options)
    if kind == "cl":
        curriculum_options(args, options)
    prepares = strategy.prepared and not args.ckpt_dir and options.steps
    if strategy.prepared and not prepares:
        if args.lr is not None:
            raise UsageError("--lr is of the stage of Adam that --steps 0 leaves out")
        if args.batch_size is not None and getattr(options, "inner", "") != "adam":
            raise UsageError("--batch_size goes with Adam, and no stage of it is left")
    return name, options


def refuse_flags_of_others(args: argparse.Namespace, kind: str) -> None:
    """Raise UsageError for a flag that would be ignored."""
    mine = {"adam": (), "lbfgs": ("lbfgs",), "adam_lbfgs": ("lbfgs",), "alm": ("alm", "lbfgs"),
            "nncg": ("nncg", "lbfgs"), "cl": ("cl",)}.get(kind, ())
    for owner in ("alm", "nncg", "cl", "lbfgs"):
        for name, value in vars(args).items():
            if name.startswith(f"{owner}_") and value is not None and owner not in mine:
                raise UsageError(f"--{name} goes with --optimizer {owner}, not with {args.optimizer}")
    for name in ("lr", "batch_size"):
        if getattr(args, name) is not None and kind == "lbfgs":
            raise UsageError(f"--{name} is Adam's; it goes with --warm_start")
    if args.full_block is not None and kind != "nncg":
        raise UsageError(f"--full_block goes with --optimizer nncg, not with {args.optimizer}")
    if args.block and args.alm_lbfgs_chunks:
        raise UsageError("--block and --alm_lbfgs_chunks are two ways to say the same; give one")
    if args.nncg_lbfgs_steps == 0 and (flag := next((f for f in LBFGS if getattr(args, f) is not None), None)):
        raise UsageError(f"--{flag} is of the stage of L-BFGS that --nncg_lbfgs_steps 0 leaves out")
    for name in ("steps", "lr"):
        if getattr(args, name) is not None and kind not in FLAGS:
            raise UsageError(f"--{name}: {kind} has no such flag; enter it in FLAGS of arguments.py")
        if getattr(args, name) is not None and args.ckpt_dir:
            raise UsageError(f"--{name} is of the stage of Adam that --ckpt_dir (or PINO_CKPT_DIR) leaves out")
    if args.lbfgs_max_iter is not None and kind in ("alm", "nncg"):
        flag = "--alm_lbfgs_max_iter" if kind == "alm" else "--nncg_lbfgs_steps"
        raise UsageError(f"--lbfgs_max_iter goes with --optimizer lbfgs; with {kind} use {flag}")


def alm_options(args: argparse.Namespace, options: Any) -> None:
    """Slack of the constraint that is there, iterations of the inner optimizer that is there."""
    other = "data" if options.constraint == "pde" else "pde"
    if getattr(args, f"alm_{other}_eps_slack") is not None:
        raise UsageError(f"--alm_{other}_eps_slack goes with --alm_cons_item {other}, not with {options.constraint}")
    slack = getattr(args, f"alm_{options.constraint}_eps_slack")
    options.slack = options.slack if slack is None else slack
    options.cosine = not args.alm_adam_no_cosine
    wrong = {"adam": ("alm_lbfgs_max_iter", "alm_lbfgs_chunks", *LBFGS),
             "lbfgs": ("alm_inner_step", "alm_adam_lr", "alm_adam_warmup_frac", "alm_adam_no_cosine")}[options.inner]
    for name in wrong:
        if getattr(args, name) is not None:
            raise UsageError(f"--{name} does not go with --alm_inner {options.inner}")
    if options.inner == "lbfgs":
        options.inner_steps = args.alm_lbfgs_max_iter or min(200, options.inner_steps)
    elif args.alm_inner_step is not None:
        options.inner_steps = args.alm_inner_step


def curriculum_options(args: argparse.Namespace, options: Any) -> None:
    """Start and step in units of what moves."""
    other = "f" if options.ramp == "r" else "r"
    for name in (f"cl_init_{other}", f"cl_delta_{other}", *(["cl_target_f"] if other == "f" else [])):
        if getattr(args, name) is not None:
            raise UsageError(f"--{name} goes with --cl_ramp {other}, not with {options.ramp}")
    for option, name in (("start", "cl_init"), ("step", "cl_delta")):
        value = getattr(args, f"{name}_{options.ramp}")
        if value is not None:
            setattr(options, option, value)
    options.target = args.f if args.cl_target_f is None else args.cl_target_f
    if options.ramp == "f" and options.target <= 0:
        raise UsageError(f"--f must be positive with --cl_ramp f, got {args.f:g}: there is no solution to learn at 0")
    if options.ramp == "r" and options.start < 1:
        raise UsageError(f"--cl_init_r must be at least 1, got {options.start:g}")


def inner_block(args: argparse.Namespace, n: int) -> int | None:
    """Samples that go through the network at a time."""
    return -(-n // args.alm_lbfgs_chunks) if args.alm_lbfgs_chunks else args.block


def make_network(args: argparse.Namespace, source: Source) -> dict[str, Any]:
    """Arguments of the network: the preset's, changed by the flags that are given.

    Raises:
        UsageError: for more modes than a grid has, and grids that are too small for the residual.
    """
    network = {name: list(value) if name == "head" else value for name, value in PRESETS[args.preset].items()}
    network |= {name: getattr(args, name) for name in ("modes", "width") if getattr(args, name) is not None}
    for flag, stride in (("data_sub", source.stride), ("pde_sub", args.pde_sub or source.stride)):
        if (source.size - 1) % stride:
            raise UsageError(f"--{flag} must divide N - 1 = {source.size - 1}, got {stride}")
        points = (source.size - 1) // stride + 1
        if points < max(2 * network["modes"], 5):
            raise UsageError(f"--{flag} {stride} leaves {points} x {points} nodes; {network['modes']} modes (--modes, "
                             f"--preset) and the residual need at least {max(2 * network['modes'], 5)} a side")
    if args.residual == "corrected" and (args.pde_sub or source.stride) % source.stride:
        raise UsageError(f"--pde_sub must be a multiple of --data_sub {source.stride} with --residual corrected, which "
                         f"needs solutions there; got {args.pde_sub}")
    return network


def find_source(args: argparse.Namespace, contrasts: Sequence[float], n: int) -> Source:
    """The data folder, or the benchmark files.

    Raises:
        UsageError: for what does not fit together, and benchmark files that cannot be used.
    """
    recipe = Recipe(size=args.N, r=contrasts[0], f=args.f, tau=args.tau, alpha=args.alpha, low=args.a_low, grf=args.grf,
                    stride=args.data_sub, seed=args.data_seed)
    for contrast in contrasts:  # benchmark files have a size of their own
        replace(recipe, r=contrast, stride=1 if args.piececonst_dir else args.data_sub).check()
    if not args.piececonst_dir:
        return Source(recipe, Path(args.data_dir).absolute(), args.test_num or TESTS)
    for flag in GENERATED:
        if getattr(args, flag) != make_parser().get_default(flag):
            raise UsageError(f"--{flag} does not go with --piececonst_dir (or PINO_PIECECONST_DIR): its files have "
                             f"their own")
    source = Source(recipe, Path(args.piececonst_dir).absolute(), args.test_num or BENCHMARK_TESTS, benchmark=True)
    size = source.fields("train", contrasts[0], n).size
    return replace(source, recipe=replace(recipe, size=size))


def find_gpu(args: argparse.Namespace) -> torch.device:
    """The device that is asked for; the published --gpu falls back to the CPU, in one line."""
    if args.gpu is None or args.device is not None:
        if args.gpu is not None:
            raise UsageError("--gpu and --device are two ways to say the same; give one")
        return find_device(args.device or "auto")
    if args.gpu < torch.cuda.device_count():
        return torch.device(f"cuda:{args.gpu}")
    print(f"--gpu {args.gpu}: there is no such GPU, the CPU is used", file=sys.stderr)
    return torch.device("cpu")


# ---- ranges --------------------------------------------------------------------------------------------------------

#: Least value of each number; those in POSITIVE must be above 0, those in FRACTIONS between 0 and 1.
LEAST = {"steps": 0, "xy_loss": 0, "f_loss": 0, "batch_size": 1, "lbfgs_max_iter": 1, "lbfgs_history": 1,
         "lbfgs_tolerance_grad": 0, "lbfgs_tolerance_change": 0, "alm_uncon_weight": 0, "alm_mu": 0,
         "alm_outer_iters": 1, "alm_inner_step": 1, "alm_lbfgs_max_iter": 1, "alm_lbfgs_chunks": 0,
         "alm_pde_eps_slack": 0, "alm_data_eps_slack": 0, "nncg_steps": 1, "nncg_lbfgs_steps": 0, "nncg_rank": 1,
         "nncg_cg_tol": 0, "nncg_cg_max_iters": 1, "nncg_chunk_size": 1, "cl_inner_step": 1, "test_num": 1,
         "pde_sub": 1, "modes": 1, "width": 1, "block": 1, "full_block": 0, "gpu": 0, "log_every": 1,
         "checkpoint_every": 0}
POSITIVE = ("lr", "alm_rho", "alm_adam_lr", "nncg_mu", "nncg_lr", "cl_init_r", "cl_delta_r", "cl_init_f", "cl_delta_f",
            "cl_target_f")
FRACTIONS = ("alm_adam_warmup_frac",)
#: Largest values, where a slip of the pen would fill the memory.
MOST = {"alm_outer_iters": 10**4, "test_num": 10**6}


def check_numbers(args: argparse.Namespace, contrasts: Sequence[float], counts: Sequence[int],
                  seeds: Sequence[int]) -> None:
    """Ranges of the plain numbers; those of the data are checked with the recipe."""
    for name in (*LEAST, *POSITIVE, *FRACTIONS):
        value, least = getattr(args, name), LEAST.get(name)
        if value is None:
            continue
        if name in FRACTIONS:
            good, allowed = 0 <= value <= 1, "from 0 to 1"
        elif least is None:
            good, allowed = value > 0, "positive"
        elif value >= least:
            good, allowed = value <= MOST.get(name, 10**9), f"at most {MOST.get(name, 10**9):g}"
        else:
            good, allowed = False, f"at least {least}"
        if not (math.isfinite(value) and good):
            raise UsageError(f"--{name} must be {allowed}, got {value:g}")
    for name in ("f", "cl_init_f", "cl_delta_f", "cl_target_f"):  # u^2 must not vanish in float32
        value = getattr(args, name)
        if value is not None and value and not 1e-6 <= abs(value) <= 1e6:
            raise UsageError(f"--{name} must be from 1e-6 to 1e6 in size, got {value:g}")
    if args.data_rows is not None and not max(counts) <= args.data_rows <= 10**6:
        raise UsageError(f"--data_rows must be from {max(counts)}, the largest --n_samples, to 1e6, got "
                         f"{args.data_rows}")
    if args.xy_loss == args.f_loss == 0:
        raise UsageError("--xy_loss and --f_loss must not both be 0")
    if args.nncg_mu is not None and args.nncg_mu > 100:
        raise UsageError(f"--nncg_mu must be at most 100, got {args.nncg_mu:g}")
    for flag, values, least, most in (("n_samples", counts, 1, "1e6"), ("seed", seeds, 0, "2^63 - 1"),
                                      ("data_seed", [args.data_seed], 0, "2^63 - 1")):
        for value in values:
            if not least <= value < (2**63 if flag != "n_samples" else 10**6 + 1):
                raise UsageError(f"--{flag} must be a whole number from {least} to {most}, got {value}")
