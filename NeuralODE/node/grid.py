"""The grid of a sweep: columns 1/b, rows T, and the seeds; and which of its cells a command trains."""

import argparse
import math
from collections.abc import Sequence

import numpy as np

from node.cli import unique
from node.files import UsageError
from node.pendulum import count_samples

INV_B = (1.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 15.0)
HORIZONS = (0.5, 1.0, 2.0, 5.0, 8.0, 10.0, 12.0, 15.0, 20.0)
SEEDS = (0, 1, 2)
MOST_SAMPLES = 10**6
MOST_DAMPING = 1000.0  # above, the solver of the trajectories takes for ever

Cell = tuple[float, int, int]  # 1/b, number of samples, seed


def make_cells(args: argparse.Namespace) -> tuple[list[Cell], dict[int, float]]:
    """The runs to train, short horizons first, and the horizons of the grid by number of samples.

    Raises:
        UsageError: for values out of range or given twice.
    """
    columns, horizons, seeds = inverse_dampings(args), horizon_values(args), seed_values(args)
    chosen = columns
    if args.only_inv_b_values is not None:
        chosen = numbers(args.only_inv_b_values, "--only-inv-b-values") or columns
        for value in chosen:
            if value not in columns:
                raise UsageError(f"--only-inv-b-values: {value:g} is no column of the grid; allowed: {listed(columns)}")
    index, count = args.shard_index, args.shard_count
    if (index, count) == (-1, 0):  # the published way to say that there are none
        index = count = None
    if (index is None) != (count is None):
        raise UsageError("--shard-index and --shard-count go together")
    if count is not None and count < 1 or index is not None and not 0 <= index < count:
        raise UsageError(f"--shard-index must be from 0 to --shard-count - 1, got {index} of {count}")
    samples = {count_samples(horizon, args.fixed_dt): horizon for horizon in sorted(horizons)}
    cells = [(value, n) for n in samples for value in columns]
    mine = [cell for k, cell in enumerate(cells) if count is None or k % count == index]
    return [(value, n, seed) for value, n in mine if value in chosen for seed in seeds], samples


def inverse_dampings(args: argparse.Namespace) -> list[float]:
    """1/b of the columns, from --inv-b-values or --b-values; both empty: b from 1 to 0.1, twelve values."""
    given = numbers(args.inv_b_values, "--inv-b-values")
    damping = numbers(args.b_values, "--b-values")
    if given and damping:
        raise UsageError("--inv-b-values and --b-values exclude each other")
    for flag, values in (("--inv-b-values", given), ("--b-values", damping)):
        for value in values:
            if not value > 0:
                raise UsageError(f"{flag} must be positive, got {value:g}")
    for flag, values, b in (("--inv-b-values", given, [1 / v for v in given]), ("--b-values", damping, damping)):
        for value, size in zip(values, b):
            if size > MOST_DAMPING:
                raise UsageError(f"{flag}: {value:g} is a damping b above {MOST_DAMPING:g}, which is too stiff")
    if args.inv_b_values is not None and not given and not damping:
        damping = np.linspace(1.0, 0.1, 12).tolist()
    return unique(given, "--inv-b-values") or [1 / b for b in unique(damping, "--b-values")] or list(INV_B)


def horizon_values(args: argparse.Namespace) -> list[float]:
    """T of the rows; empty: twelve values from 1 to 20."""
    given, dt = numbers(args.horizon_values, "--horizon-values"), args.fixed_dt
    if args.horizon_values is None:
        given = list(HORIZONS)
    elif not given:
        given = np.linspace(1.0, 20.0, 12).tolist()
    seen: dict[int, float] = {}
    for horizon in unique(given, "--horizon-values"):
        if horizon / dt > MOST_SAMPLES:
            raise UsageError(f"--horizon-values: {horizon:g} makes {horizon / dt:g} samples, at most {MOST_SAMPLES} "
                             f"are allowed")
        n = count_samples(horizon, dt)
        if n < 2:
            raise UsageError(f"--horizon-values must be above --fixed-dt {dt:g}, to hold two samples, got {horizon:g}")
        if n in seen:
            raise UsageError(f"--horizon-values: {seen[n]:g} and {horizon:g} are both {n} samples, which name the run")
        seen[n] = horizon
    return given


def seed_values(args: argparse.Namespace) -> list[int]:
    """Seeds, from --seeds or --seed."""
    given = numbers(args.seeds, "--seeds")
    if given and args.seed is not None:
        raise UsageError("--seed and --seeds exclude each other")
    seeds = given or ([] if args.seed is None else [args.seed]) or list(SEEDS)
    flag = "--seeds" if given else "--seed"
    for seed in seeds:
        if not (float(seed).is_integer() and 0 <= seed < 2**32):
            raise UsageError(f"{flag} must be whole numbers from 0 to 2^32 - 1, got {seed:g}")
    return unique([int(seed) for seed in seeds], flag)


def numbers(words: Sequence[str] | None, flag: str) -> list[float]:
    """Numbers from words, each of which may hold several with commas between them."""
    found = []
    for text in [part.strip() for word in words or () for part in word.split(",")]:
        if not text:
            continue
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise UsageError(f"{flag} must be numbers, got {text!r}")
        found.append(value)
    return found


def listed(values: Sequence[float]) -> str:
    """1, 2, 4."""
    return ", ".join(f"{v:g}" for v in values)
