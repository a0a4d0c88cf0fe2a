"""The command line of `run_experiment.py`: published flags, ours, and the checks that end in one clear line."""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

from pinn.cli import BUDGETS, Help, Parser, find_device, unique
from pinn.files import UsageError
from pinn.hessian import Times
from pinn.objective import LOSSES
from pinn.pdes import SYSTEMS, System
from pinn.session import Wandb
from pinn.settings import Settings
from pinn.strategies import STRATEGIES
from pinn.strategies.base import set_option

ALIASES = {"adam_lbfgs_nncg": "nncg"}
LOG_EVERY = {"smoke": 20, "laptop": 100, "paper": 200}


def make_parser() -> Parser:
    """All flags; those of the published code keep their names."""
    parser = Parser(prog="run_experiment.py", formatter_class=Help, allow_abbrev=False,
                    description="Train PINNs on 1D PDEs, many runs side by side.", epilog=EPILOG)
    add = parser.add_argument_group("problem").add_argument
    add("--pde", default="convection", choices=SYSTEMS, help="physical system")
    add("--pde_params", nargs="+", metavar="JSON", help="physical parameters, e.g. '{\"beta\": 30}'; the swept one "
        "(beta, rho, c, rho) may be a list. Default for convection: beta 30. wave: beta 3, reaction_diffusion: nu 2, "
        "sigma of the initial hump: pi/4")
    add("--num_res", type=int, nargs="+", default=[10_000], metavar="N", help="collocation points, 1 to 25500")
    add("--num_x", type=int, default=257, help="grid points in x, both ends included")
    add("--num_t", type=int, default=101, help="grid points in t, both ends included")
    add("--set_idx", default="0", metavar="K|seed", help="seed of the collocation points; `seed`: that of the run")
    add("--new_data", action="store_true", help="also write the points to points.npz in the run folder (they are "
        "always generated from --set_idx, never read)")
    add("--no_periodic_slope", action="store_true", help="reaction_diffusion: match values at the ends, not slopes")

    add = parser.add_argument_group("network").add_argument
    add("--initial_seed", type=int, nargs="+", default=[1234], metavar="K", help="seeds of the weights, one run each")
    add("--num_layers", type=int, default=5, help="linear layers: 5 is four hidden layers (the paper), 4 is three")
    add("--num_neurons", type=int, default=50, help="width of the hidden layers")
    add("--precision", default="float32", choices=["float32", "float64"], help="of weights, points and losses")

    add = parser.add_argument_group("training").add_argument
    add("--opt", default="lbfgs", choices=[*STRATEGIES, *ALIASES], help="strategy")
    add("--opt_params", nargs="+", metavar="JSON", help="options of the strategy by name, e.g. "
        "'{\"lr\": 0.5, \"history_size\": 50}'; an unknown name lists them all")
    add("--budget", default="paper", choices=BUDGETS, help="iteration counts of all stages: seconds, minutes, or the "
        "paper's tables; single options override")
    add("--iterations", type=int, metavar="N", help="inner iterations of the main stage (alm, cl: of every stage)")
    add("--epochs", type=int, metavar="N", help="published unit: calls of the optimizer, 20 inner iterations each for "
        "L-BFGS; in all (adam, lbfgs, adam_lbfgs, nncg, ropinn), a stage (cl), before the solves (alm)")
    add("--loss", default="mse", choices=LOSSES, help="penalty of the soft loss")
    add("--L", type=float, default=1.0, help="weight of the equation in the loss that is minimised")
    add("--hc", default="none", help="`alm`: same as --opt alm, with --opt as its inner optimizer, after --epochs "
        "of it on the soft loss")
    add("--alm_mu", type=float, help="first penalty (default 2)")
    add("--alm_beta", type=float, help="growth of the penalty (default 1.2)")
    add("--alm_iter", type=float, help="number of solves (default 50)")
    add("--alm_hc", help="hard components: bits (30 or 0b11110) or names (pde,bc,ic,...); default all but pde")
    add("--alm_L", type=float, help="weight of the soft components (default 1)")
    add("--alm_weight_decay", type=float, help="weight of |theta|^2 (default 0)")
    add("--cl", action="store_true", help="same as --opt cl, with --opt as its inner optimizer")
    add("--cl_increment", type=float, help="growth of the physical value a stage")

    add = parser.add_argument_group("running").add_argument
    add("--save_path", default="results", help="where run folders go")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:k; a number is the published spelling: that GPU when "
        "there is one, else the CPU")
    add("--force", action="store_true", help="train finished runs again")
    add("--save_model", action=argparse.BooleanOptionalAction, default=True, help="write model.pt")
    add("--log_every", type=int, metavar="N", help="iterations between lines of history.csv (default by budget: "
        "smoke 20, laptop 100, paper 200)")
    add("--checkpoint_every", type=float, default=60.0, metavar="S", help="seconds between checkpoints")
    add("--hessian_every", default="0", metavar="N|log|log:K", help="iterations between computations of the "
        "Hessian's highest eigenvalue, lambda_max in history.csv (after the optimizer's call in which they end), or "
        "log: at 20 log-spaced iterations; 0: never")
    add("--wandb", default="disabled", choices=["disabled", "offline", "online"], help="Weights & Biases")
    add("--wandb_project", default="pinns", help="its project")
    return parser


EPILOG = """examples:
  python run_experiment.py --pde convection --pde_params '{"beta": 10}' --opt lbfgs --num_res 5000 --initial_seed 0
  python run_experiment.py --pde reaction --pde_params '{"rho": [1, 5, 10]}' --opt alm --budget laptop --num_res 1000
  python run_experiment.py --pde wave --pde_params '{"c": 2, "beta": 3}' --opt nncg --budget smoke
"""


def parse(argv: Sequence[str]) -> tuple[list[Settings], list[float], list[int]]:
    """Settings of each row of the map, the physical values and the seeds.

    Raises:
        UsageError: for anything that is wrong; the text names the flag and what is allowed.
    """
    args = make_parser().parse_args(argv)
    system = SYSTEMS[args.pde]
    physical, others = physical_parameters(system, args.pde_params)
    seeds = unique(args.initial_seed, "--initial_seed")
    check_numbers(args)
    strategy, options = strategy_options(args, system)
    set_idx = args.set_idx
    if set_idx != "seed":
        if not set_idx.isdecimal() or int(set_idx) >= 2**32:
            raise UsageError(f"--set_idx must be a whole number from 0 to 2^32 - 1, or `seed`, got {set_idx!r}")
        set_idx = int(set_idx)
    settings = [Settings(
        system=system, others=others, n=n, strategy=strategy, options=options, save_path=Path(args.save_path),
        device=device(args.device), dtype=getattr(torch, args.precision),
        hidden=(args.num_neurons,) * (args.num_layers - 1), grid=(args.num_x, args.num_t),
        data_seed=None if set_idx == "seed" else set_idx, loss=args.loss, weight=args.L,
        periodic_slope=not args.no_periodic_slope, budget=args.budget,
        log_every=args.log_every or LOG_EVERY[args.budget], checkpoint_seconds=args.checkpoint_every,
        hessian_every=Times.parse(args.hessian_every), save_model=args.save_model, save_points=args.new_data,
        force=args.force, wandb=args.wandb, wandb_project=args.wandb_project)
        for n in unique(args.num_res, "--num_res")]
    settings[0].plan([run.key for run in settings[0].runs(physical, seeds[:1])])  # raises where they do not fit
    Wandb(args.wandb)  # missing? better now than after the run folders are made
    torch.set_float32_matmul_precision("highest")  # TF32 would cost the L-BFGS runs their last digits
    return settings, physical, seeds


def read_json(text: Sequence[str], flag: str) -> dict[str, Any]:
    """A JSON object from one or several words of the command line."""
    def refuse(constant: str) -> NoReturn:
        raise UsageError(f"{flag}: {constant} is not a number in JSON: {' '.join(text)}")
    try:  # an integer of hundreds of digits becomes inf, which is refused where its name is known
        found = json.loads(" ".join(text), parse_constant=refuse,
                           parse_int=lambda digits: int(digits) if len(digits) < 16 else float(digits))
    except json.JSONDecodeError as error:
        raise UsageError(f"{flag} is not valid JSON ({error.msg} at character {error.pos}): {' '.join(text)}") from None
    if not isinstance(found, dict):
        raise UsageError(f"{flag} must be a JSON object such as '{{\"beta\": 30}}', got {' '.join(text)}")
    return found


def physical_parameters(system: System, text: Sequence[str] | None) -> tuple[list[float], dict[str, float]]:
    """Values of the swept parameter, and the others with their defaults."""
    given = {"beta": 30} if text is None and system.name == "convection" else read_json(text or ["{}"], "--pde_params")
    allowed = [system.physical, *system.defaults]
    for name in given:
        if name not in allowed:
            raise UsageError(f"--pde_params: {system.name} has no parameter {name!r}; allowed: {', '.join(allowed)}")
    if system.physical not in given:
        raise UsageError(f"--pde_params: {system.name} needs {system.physical}, e.g. '{{\"{system.physical}\": 2}}'")

    def number(name: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            several = " or a list of numbers" if name == system.physical else ""
            raise UsageError(f"--pde_params: {name} must be a number{several}, got {value!r}")
        if name == "sigma" and value <= 0 or name == "nu" and value < 0:
            least = "positive" if name == "sigma" else "at least 0"
            raise UsageError(f"--pde_params: {name} must be {least}, got {value}")
        return float(value)
    swept = given.pop(system.physical)
    if isinstance(swept, list) and not swept:
        raise UsageError(f"--pde_params: {system.physical} must be a number or a list of numbers, got an empty list")
    values = [number(system.physical, v) for v in (swept if isinstance(swept, list) else [swept])]
    return unique(values, f"--pde_params {system.physical}"), {
        **system.defaults, **{name: number(name, value) for name, value in given.items()}}


def check_numbers(args: argparse.Namespace) -> None:
    """Ranges of the plain numbers."""
    if args.num_x < 3 or args.num_x % 2 == 0 or args.num_t < 2:
        raise UsageError(f"--num_x must be odd and at least 3, --num_t at least 2, got {args.num_x} and {args.num_t}")
    if args.pde == "reaction_diffusion" and 100 % (args.num_t - 1):
        raise UsageError(f"--num_t: the reference of reaction_diffusion is stored in steps of 0.01, so num_t - 1 must "
                         f"divide 100, got {args.num_t}")
    most = (args.num_x - 2) * (args.num_t - 1)
    for n in args.num_res:
        if not 1 <= n <= most:
            raise UsageError(f"--num_res must be from 1 to {most} (the interior grid points), got {n}")
    for flag, least in {"num_layers": 2, "num_neurons": 1, "log_every": 1, "iterations": 0, "epochs": 0,
                        "checkpoint_every": 0, "alm_iter": 1, "alm_mu": 0, "alm_L": 0, "alm_weight_decay": 0,
                        "L": 0}.items():
        value = getattr(args, flag)
        if value is not None and not (math.isfinite(value) and value >= least):
            raise UsageError(f"--{flag} must be at least {least}, got {value:g}")
    for flag in ("alm_beta", "cl_increment"):
        value = getattr(args, flag)
        if value is not None and not (math.isfinite(value) and value > 0):
            raise UsageError(f"--{flag} must be positive, got {value:g}")
    for seed in args.initial_seed:
        if not 0 <= seed < 2**32:
            raise UsageError(f"--initial_seed must be from 0 to 2^32 - 1, got {seed}")
    if not args.save_path:
        raise UsageError("--save_path must name a folder, got an empty text")


def strategy_options(args: argparse.Namespace, system: System) -> tuple[str, Any]:
    """The strategy's name and its options: paper, then budget, then --opt_params, then single flags."""
    name, inner = ALIASES.get(args.opt, args.opt), None
    if args.hc not in ("none", "alm"):
        raise UsageError(f"--hc must be none or alm, got {args.hc!r}")
    if args.hc == "alm" and args.cl:
        raise UsageError("--hc alm and --cl exclude each other")
    if (args.hc == "alm" and name != "alm") or (args.cl and name != "cl"):
        if name not in ("adam", "lbfgs"):
            raise UsageError(f"--opt must be adam or lbfgs with --hc alm or --cl, got {args.opt}")
        name, inner = ("cl" if args.cl else "alm"), name
    strategy = STRATEGIES[name]
    options = strategy.Options()
    for key, value in strategy.budgets.get(args.budget, {}).items():
        set_option(options, key, value, strategy.main, "--budget")
    if inner:
        options.inner = inner
        if name == "alm":
            options.update_first = True  # the published order, which starts from a trained network
    for key, value in read_json(args.opt_params or ["{}"], "--opt_params").items():
        set_option(options, strategy.aliases.get(key, key), value, inner or strategy.main, "--opt_params")
    check_flags(args, name)
    if args.epochs is not None:
        strategy.set_epochs(options, args.epochs)
    if args.iterations is not None:
        if name == "ropinn":
            raise UsageError("--iterations: ropinn counts steps of up to 20 iterations; use --epochs")
        options.iterations = args.iterations
    if name == "alm":
        alm_options(args, options, system)
    elif name == "cl" and args.cl_increment is not None:
        options.increment = args.cl_increment
    check_options(options)
    return name, options


def check_flags(args: argparse.Namespace, name: str) -> None:
    """Flags of one strategy are refused with another rather than ignored."""
    for flag, owner in {"alm_mu": "alm", "alm_beta": "alm", "alm_iter": "alm", "alm_hc": "alm", "alm_L": "alm",
                        "alm_weight_decay": "alm", "cl_increment": "cl"}.items():
        if getattr(args, flag) is not None and name != owner:
            raise UsageError(f"--{flag} goes with --opt {owner}, not with {name}")


def alm_options(args: argparse.Namespace, options: Any, system: System) -> None:
    """The published --alm_* flags."""
    for flag, key in {"alm_mu": "mu", "alm_beta": "factor", "alm_L": "soft_weight",
                      "alm_weight_decay": "weight_decay"}.items():
        if getattr(args, flag) is not None:
            setattr(options, key, getattr(args, flag))
    if args.alm_iter is not None:
        if not float(args.alm_iter).is_integer():
            raise UsageError(f"--alm_iter must be a whole number, got {args.alm_iter:g}")
        options.outer = int(args.alm_iter)
    names = [c.name for c in system.components if c.name != "bc_x" or not args.no_periodic_slope]
    if args.alm_hc is not None:
        options.hard = "+".join(hard_components(args.alm_hc, names))
    elif options.hard != "conditions" and not set(options.hard.split("+")) <= set(names):
        allowed = f"names out of {', '.join(names)}, joined by +"
        raise UsageError(f"--opt_params: hard must be {allowed}, got {options.hard!r}")


def hard_components(text: str, names: Sequence[str]) -> list[str]:
    """Components by bits (decimal, 0b, 0x) or by name; bits beyond the last component are ignored, as published."""
    allowed = f"bits such as 0b11110 or 30, or names out of {','.join(names)}"
    try:
        mask = int(text, 0)
    except ValueError:
        chosen = [part.strip() for part in text.split(",")]
        if not set(chosen) <= set(names):
            raise UsageError(f"--alm_hc must be {allowed}, got {text!r}") from None
    else:
        chosen = [name for bit, name in enumerate(names) if mask >> bit & 1] if mask >= 0 else []
    if not chosen:
        raise UsageError(f"--alm_hc must name at least one component: {allowed}, got {text!r}")
    return [name for name in names if name in chosen]


def check_options(options: Any) -> None:
    """Ranges of the options that JSON can set."""
    for key, least in {"iterations": 0, "steps": 0, "samples": 1, "window": 1, "outer": 1, "adam_iterations": 0,
                       "lbfgs_iterations": 0, "pretrain": 0, "region": 0, "mu": 0, "increment": 0}.items():
        value = getattr(options, key, None)
        if value is not None and value < least:
            raise UsageError(f"--opt_params: {key} must be at least {least}, got {value:g}")
    for group in ("adam", "lbfgs", "nncg"):
        nested = getattr(options, group, None)
        for key in ("eps", "tolerance_grad", "tolerance_change", "cg_tol"):
            value = getattr(nested, key, 0)
            if value < 0:
                raise UsageError(f"--opt_params: {key} of {group} must be at least 0, got {value:g}")
        for key, least, most in (("beta1", 0, 0.999999), ("beta2", 0, 0.999999), ("mu", 1e-12, 100)):
            value = getattr(nested, key, most)
            if not least <= value <= most:
                raise UsageError(f"--opt_params: {key} of {group} must be from {least:g} to {most:g}, got {value:g}")
        for key in ("lr", "max_iter", "history_size", "rank", "update_freq", "cg_max_iter", "chunk_size"):
            value = getattr(nested, key, None)
            if value is not None and value <= 0:
                raise UsageError(f"--opt_params: {key} of {group} must be positive, got {value:g}")
    for key, allowed in {"inner": ("lbfgs", "adam"), "redraw": ("step", "evaluation")}.items():
        value = getattr(options, key, None)
        if isinstance(value, str) and value not in allowed:
            raise UsageError(f"--opt_params: {key} must be {' or '.join(allowed)}, got {value!r}")
    for key in ("factor", "increment_scale"):
        if getattr(options, key, 1) <= 0:
            raise UsageError(f"--opt_params: {key} must be positive, got {getattr(options, key):g}")
    switches = getattr(options, "switch_epochs", None)
    switches = [] if switches is None else switches if isinstance(switches, list) else [switches]
    if switches != [s for s in switches if isinstance(s, int) and s >= 0] or getattr(options, "switch_epochs", 0) == []:
        raise UsageError(f"--opt_params: switch_epochs must be a number of epochs or a list of such, got {switches}")


def device(text: str) -> torch.device:
    """The device that is asked for; the published plain number falls back to the CPU, in one line."""
    if not text.isdecimal():
        return find_device(text, "auto, cpu, cuda, cuda:k or a number")
    if int(text) < torch.cuda.device_count():
        return torch.device(f"cuda:{text}")
    print(f"--device {text}: there is no such GPU, the CPU is used", file=sys.stderr)
    return torch.device("cpu")
