# Twin of PINN/pinn/diagnosis_flags.py - edit there and run: python experiments/twins.py --fix
"""Command lines of the landscape tools: flags, defaults, and what is allowed."""

from __future__ import annotations

import argparse
import math
import re
from pathlib import Path
from typing import Any

from .cli import Help
from .curves import KINDS
from .files import UsageError
from .landscape import NORMALISATIONS

HELP = {
    "hessian": "extreme eigenvalues, trace and spectral density of the Hessian of the training loss",
    "landscape": "the training loss on a plane through the weights, and along its two axes",
    "connectivity": "curves of low loss between the weights of two runs, and the chord",
    "similarity": "centred kernel alignment (CKA) of the hidden layers and outputs of two or more runs",
}
OTHER_FILES = ("config", "history", "metrics", "model", "checkpoint", "claim", "failed", "steps", "points")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,149}")
MOST_DENSE = 20_000  # weights of which all eigenvalues are computed: the matrix takes 3.2 GB
MOST_SAMPLES = 10_000  # inputs at which networks are compared: a kernel takes 0.8 GB, and there is one a network
STATES = ("initial", "best", "final")  # of weights, of which each module has some


def add_parser(tools: Any, tool: str) -> tuple[argparse.ArgumentParser, list[str]]:
    """The parser of a tool and the names of those flags that its result depends on.

    Args:
        tools: what `ArgumentParser.add_subparsers` gives.
        tool: one of `HELP`.
    """
    parser = tools.add_parser(tool, formatter_class=Help, allow_abbrev=False, help=HELP[tool], description=HELP[tool])
    if tool == "connectivity":
        parser.add_argument("a", type=Path, metavar="A", help="folder of a finished run; the results go there")
        parser.add_argument("b", type=Path, metavar="B", help="folder of another one, of the same task")
    else:
        more = "; the results go into the first" if tool == "similarity" else ""
        parser.add_argument("folders", nargs="+", type=Path, metavar="RUN_FOLDER", help="of a finished run" + more)
    flags = [action.dest for action in FLAGS[tool](parser)]
    name = "connectivity_ and the folder of B" if tool == "connectivity" else tool
    parser.add_argument("--name", help=f"of the result files in the run folder, without ending (default: {name})")
    parser.add_argument("--device", default="auto", help="auto (the first GPU, or the CPU), cpu, cuda or cuda:k")
    parser.add_argument("--force", action="store_true", help="replace a result of that name")
    return parser, flags


def hessian_flags(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Flags of `hessian`."""
    add = parser.add_argument
    parser.add_argument("--chunk", type=int, metavar="C", help="vectors that a product takes at a time (default: what "
                        "suits the model); more take more memory")
    return [
        add("--at", nargs="+", choices=STATES, default=["initial", "final"], metavar="STATE",
            help="weights: initial, final; best (FNO)"),
        add("--top", type=int, default=5, help="eigenvalues at each end"),
        add("--method", choices=("auto", "lanczos", "dense"), default="auto", help="dense: all eigenvalues, exactly; "
            "auto: dense up to 1000 weights"),
        add("--iterations", type=int, default=100, help="Lanczos only: steps of a probe"),
        add("--probes", type=int, default=10, help="Lanczos only: runs from random vectors"),
        add("--trace_samples", type=int, default=100, help="Lanczos only: random vectors for the trace, at most"),
        add("--eps", type=float, default=1e-6, help="what counts as zero in the masses below -eps and within eps, over "
            "the largest eigenvalue in magnitude"),
        add("--precision", choices=("float64", "float32"), default="float64", help="of weights and products"),
        add("--seed", type=int, default=0, help="Lanczos only: of the random vectors"),
    ]


def landscape_flags(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Flags of `landscape`."""
    add = parser.add_argument
    parser.add_argument("--batch", type=int, metavar="B", help="points evaluated at a time (default: what suits the "
                        "model)")
    return [
        add("--at", choices=STATES, default="final", metavar="STATE", help="weights: initial, final; best (FNO)"),
        add("--directions", choices=("eigen", "random"), default="eigen", help="eigen: the eigenvectors of the two "
            "highest eigenvalues of the Hessian"),
        add("--normalise", choices=NORMALISATIONS, default="filter", help="filter: each filter of a direction has the "
            "norm of that filter of the weights, biases do not move; tensor: each tensor has, biases too; none: unit "
            "directions"),
        add("--radius", type=float, default=0.5, help="of the plane, in units of the directions"),
        add("--grid", type=int, default=51, help="points a side, odd"),
        add("--line_points", type=int, default=201, help="points of a line, odd"),
        add("--precision", choices=("float64", "float32"), default="float64", help="of the Hessian whose eigenvectors "
            "are the directions; losses are of the precision of the training"),
        add("--seed", type=int, default=0, help="of random directions; eigenvectors depend on it up to rounding only"),
    ]


def connectivity_flags(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Flags of `connectivity`."""
    add = parser.add_argument
    return [
        add("--curves", nargs="+", choices=tuple(KINDS), default=list(KINDS), help="trained beside the chord"),
        add("--bends", type=int, default=1, help="control points between the ends; 1: a quadratic Bezier curve"),
        add("--steps", type=int, default=4000, help="Adam steps"),
        add("--lr", type=float, default=3e-3, help="learning rate of Adam; falls to a hundredth in the second "
            "half"),
        add("--points", type=int, default=61, help="points of a path at which loss and test error are evaluated"),
        add("--seed", type=int, default=0, help="of the points trained at"),
    ]


def similarity_flags(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Flags of `similarity`."""
    width = parser.add_mutually_exclusive_group()
    return [
        width.add_argument("--bandwidth", type=float, default=0.4, help="of the RBF kernel, over the median distance"),
        width.add_argument("--sigma", type=float, help="of the RBF kernel, absolute"),
        parser.add_argument("--samples", type=int, default=1024, help=f"test inputs, at most; up to {MOST_SAMPLES}"),
    ]


FLAGS = {"hessian": hessian_flags, "landscape": landscape_flags, "connectivity": connectivity_flags,
         "similarity": similarity_flags}
LEAST = {"top": 1, "iterations": 1, "probes": 1, "trace_samples": 1, "chunk": 1, "batch": 1, "grid": 3,
         "line_points": 3, "bends": 1, "steps": 1, "points": 3, "samples": 2, "seed": 0}
POSITIVE = ("eps", "radius", "lr", "bandwidth", "sigma")


def check_flags(tool: str, args: argparse.Namespace) -> None:
    """Look at the numbers and the name; what means the same is made the same, for results to be compared by.

    Raises:
        UsageError: naming the flag and what is allowed.
    """
    given = {name: value for name, value in vars(args).items() if value is not None}
    for name, least in LEAST.items():
        if given.get(name, least) < least:
            raise UsageError(f"--{name} must be at least {least}, got {given[name]}")
    for name in POSITIVE:
        value = given.get(name, 1.0)
        if not (math.isfinite(value) and value > 0):
            raise UsageError(f"--{name} must be a positive number, got {value:g}")
    for name in {"grid", "line_points"} & given.keys():
        if given[name] % 2 == 0:
            raise UsageError(f"--{name} must be odd, so that there is a centre, got {given[name]}")
    if given.get("seed", 0) >= 2**63:
        raise UsageError(f"--seed must be below 2^63, got {args.seed}")
    if given.get("samples", 0) > MOST_SAMPLES:
        raise UsageError(f"--samples must be at most {MOST_SAMPLES}, got {args.samples}")
    if tool == "similarity" and len({folder.resolve() for folder in args.folders}) < 2:
        raise UsageError("RUN_FOLDER: similarity takes two runs or more")
    if tool == "connectivity" and args.a.resolve() == args.b.resolve():
        raise UsageError(f"B must be another run than A, got {args.b} twice")
    if args.name is not None:
        check_name(tool, args.name)
    if tool == "hessian":
        args.at = sorted(set(args.at), key=STATES.index)
    if tool == "similarity" and args.sigma is not None:
        args.bandwidth = None


def check_name(tool: str, name: str) -> None:
    """Look that result files of this name replace no other file of a run folder.

    Raises:
        UsageError: naming what is allowed.
    """
    if not NAME.fullmatch(name) or name.endswith(".part"):
        raise UsageError(f"--name must be of up to 150 letters, digits and _.-, begin with one of the first two and "
                         f"not end with .part, got {name!r}")
    stem = name.partition(".")[0]
    if stem in {*OTHER_FILES, *HELP} - {tool}:
        raise UsageError(f"--name {name}: files of that name are those of other results ({', '.join(OTHER_FILES)}, "
                         f"{', '.join(HELP)})")
