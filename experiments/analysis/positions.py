"""Where a regime boundary lies along the physical axis, for each data amount, and how sure that is.

    positions = boundary_positions(runs, "train_loss", 3.8e-3, model="PINN", system="convection", strategy="lbfgs")
    print(format_table(positions))

In each row of a map (one data amount) the boundary is the first place, going up the physical axis, where
the seed mean v passes from low (v <= T) to high. Between the neighbours x0 (low) and x1 (high) it lies at

    x0 + (x1 - x0) (log T - log v0) / (log v1 - log v0),

the rule of `boundaries.level_set`, whose curve crosses the row at the same place. The interval is the
percentile bootstrap over seeds at a fixed T: where T is a percentile of the same runs, what T itself owes to
the seeds is not in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from analysis import labels
from analysis.collect import AxisValue, Run, build_grid
from analysis.seeds import align, seed_table

FEW = 10  # seeds; with fewer the table warns of the interval


@dataclass(frozen=True)
class Position:
    """The boundary in one row of a map.

    `position`, `low` and `high` are physical values, or column indices where `unit` is "index". They are
    inf ("above": the row ends low and never goes up on the way) or -inf ("below": every cell is high) where
    the boundary lies outside the grid, and NaN where there is nothing to say. A row that begins high and ends
    low has the other side of a region as its only crossing: `position` inf, `crossings` 1.
    """

    model: str
    system: str
    strategy: str
    metric: str
    threshold: float
    physical_name: str
    data_name: str
    data_value: AxisValue
    unit: str  # "value", or "index" for an axis of ranges
    position: float
    low: float  # the interval; NaN with fewer than two seeds
    high: float
    confidence: float
    censored: str  # "", "below" or "above"
    crossings: int  # changes of side along the row, both ways
    between: tuple[AxisValue, AxisValue] | None  # the physical values on both sides; None if censored
    skipped: int  # missing cells between the two: the crossing is that much less certain
    seeds: int  # the fewest that a cell of the row has (cells without any left out)
    share_below: float  # share of the resamples in which the boundary is below the grid
    share_above: float


def boundary_positions(
    runs: Iterable[Run],
    metric: str,
    threshold: float,
    *,
    model: str,
    system: str,
    strategy: str,
    resamples: int = 2000,
    confidence: float = 0.9,
    seed: int = 0,
) -> list[Position]:
    """Return the boundary of one map, one position a data amount, least data first.

    Interpolation is in log(metric) where the threshold and every finite run are positive, else linear
    (`level_set` asks it of the means alone); it is linear in the physical value, or in the column index where
    a value of the axis is text. A cell with a seed that is not finite is high and stands one data range above
    the others, as in `level_set`.

    A seed gives the initial weights of all cells, so neighbouring cells go up and down together, and a
    resample draws the seeds of a whole row at once. A cell that lacks some of them takes those that it has
    (all its own where it has none), so that a missing run moves no other cell. Resampling n seeds knows no
    more than those n, and few give too narrow an interval: nominal 90 % cover 61, 78, 84 and 87 % with 3, 5, 9
    and 20 seeds of a Gaussian model.

    Args:
        threshold: level between low and high; equality is low.
        resamples: bootstrap resamples of each row.
        confidence: probability that the interval is to hold, in (0, 1).
        seed: of the bootstrap; results are the same for the same seed.

    Raises:
        ValueError: the threshold is not finite, a number is out of range, or no run matches.
    """
    if not math.isfinite(threshold):
        raise ValueError(f"threshold must be finite, not {threshold:g}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence:g} is not between 0 and 1")
    if resamples < 1:
        raise ValueError(f"resamples {resamples} is not at least 1")
    where = {"model": model, "system": system}
    runs = list(runs)
    grid = build_grid(runs, metric, **where, strategy=strategy)
    values = seed_table(runs, metric, **where, strategies=[strategy]).values[strategy]
    numeric = all(isinstance(value, float) for value in grid.physical)
    x = np.array(grid.physical if numeric else range(len(grid.physical)), float)
    scale = _scale(grid.values, values, threshold)
    rng = np.random.default_rng(seed)
    found = []
    for amount, means, row in zip(grid.data, grid.values, values):
        there = np.flatnonzero(~np.isnan(means))
        line, level = scale(means[there]), float(scale(np.array(threshold)))
        seeds = int((~np.isnan(row[there])).sum(axis=1).min()) if there.size else 0
        (position,), drawn = _crossing(line[None], level, x[there]), np.array([math.nan])
        if seeds > 1:
            drawn = _crossing(scale(_resampled_means(row[there], rng, resamples)), level, x[there])
        # The nearest order statistic: censored resamples are infinite, and nothing lies between them and a number.
        ends = (np.array([1 - confidence, 1 + confidence]) / 2 * (drawn.size - 1)).round().astype(int)
        low, high = np.sort(drawn)[ends]
        change = np.diff((line > level).astype(int))
        sides = there[np.argmax(change == 1) :][:2] if math.isfinite(position) else []
        found.append(Position(
            model, system, strategy, metric, threshold, grid.physical_name, grid.data_name, amount,
            unit="value" if numeric else "index", position=float(position),
            low=float(low), high=float(high), confidence=confidence,
            censored={math.inf: "above", -math.inf: "below"}.get(float(position), ""),
            crossings=int(np.count_nonzero(change)),
            between=(grid.physical[sides[0]], grid.physical[sides[1]]) if len(sides) else None,
            skipped=int(sides[1] - sides[0] - 1) if len(sides) else 0, seeds=seeds,
            share_below=_share(drawn, -math.inf), share_above=_share(drawn, math.inf),
        ))  # fmt: skip
    return found


def format_table(positions: Sequence[Position]) -> str:
    """Return the positions of one map as text, most data on top as in the picture."""
    if not positions:
        return "no boundary: no finished run"
    first = positions[0]
    heads = (first.data_name, first.physical_name, f"{100 * first.confidence:g} % interval", "crossings", "seeds")
    rows = [heads]
    for one in reversed(positions):
        interval = "none" if math.isnan(one.low) else f"{_end(one.low)} to {_end(one.high)}"
        numbers = _end(one.position), interval, str(one.crossings), str(one.seeds)
        rows.append((labels.axis_text(one.data_value), *numbers))
    unit = "" if first.unit == "value" else ", in columns of the map from 0"
    title = (
        f"{first.model} {first.system} {first.strategy}: boundary {labels.METRICS.get(first.metric, first.metric)} "
        f"= {first.threshold:.3e} along {first.physical_name}{unit}"
    )
    notes = ["", *map(_note, reversed(positions))]
    lines = [title, *(f"{line}  {note}".rstrip() for line, note in zip(align(rows), notes))]
    if any(one.seeds == 1 for one in positions):
        lines.append("no interval: one seed does not tell how far others would move the boundary")
    if any(1 < one.seeds < FEW for one in positions):
        lines.append("intervals of few seeds are too narrow: nominal 90 % cover about 60 % with 3 seeds, 78 % with 5")
    return "\n".join(lines)


def csv_rows(positions: Iterable[Position]) -> list[dict[str, object]]:
    """Return one row a position; the physical values on both sides are empty where it is censored."""
    rows = []
    for one in positions:
        row = asdict(one)
        left, right = map(labels.axis_text, row.pop("between") or ("", ""))
        rows.append(row | {"data_value": labels.axis_text(one.data_value), "left": left, "right": right})
    return rows


def _scale(means: np.ndarray, values: np.ndarray, threshold: float) -> Callable[[np.ndarray], np.ndarray]:
    """Return the map from a metric to the scale of interpolation, in which inf is a number (see `level_set`)."""
    positive = threshold > 0 and bool((values[np.isfinite(values)] > 0).all())
    convert = np.log if positive else np.asarray
    known = convert(np.r_[means[np.isfinite(means)], threshold])
    top = known.max() + (np.ptp(known) or 1.0)

    def scale(numbers: np.ndarray) -> np.ndarray:
        return np.where(np.isinf(numbers), top, convert(numbers))

    return scale


def _crossing(values: np.ndarray, level: float, x: np.ndarray) -> np.ndarray:
    """Return where each row of `values` (resamples, points) first goes from low to high; see `Position`."""
    if not x.size:
        return np.full(len(values), np.nan)
    high = values > level
    up = np.zeros_like(high)
    up[:, :-1] = ~high[:, :-1] & high[:, 1:]
    row, left = np.arange(len(values)), up.argmax(axis=1)
    right = np.minimum(left + 1, x.size - 1)
    before, after = values[row, left], values[row, right]
    with np.errstate(invalid="ignore", divide="ignore"):
        inside = x[left] + (x[right] - x[left]) * (level - before) / (after - before)
    # Without a way up, a row that ends low has its boundary further on; one that ends high is high throughout.
    return np.where(up.any(axis=1), inside, np.where(high[:, -1], -np.inf, np.inf))


def _resampled_means(row: np.ndarray, rng: np.random.Generator, resamples: int) -> np.ndarray:
    """Return seed means (resamples, cells) of a row (cells, seeds) with its seeds drawn with replacement."""
    seeds = np.flatnonzero(~np.isnan(row).all(axis=0))
    drawn = row[:, rng.choice(seeds, (resamples, seeds.size))]
    drawn = np.where(np.isnan(drawn).all(axis=2, keepdims=True), row[:, None, seeds], drawn)
    return np.nanmean(drawn, axis=2).T


def _share(drawn: np.ndarray, value: float) -> float:
    return math.nan if np.isnan(drawn).any() else float((drawn == value).mean())


def _end(value: float) -> str:
    if math.isfinite(value):
        return f"{value:.3g}"
    return "none" if math.isnan(value) else "above" if value > 0 else "below"


def _note(one: Position) -> str:
    notes = []
    if one.crossings and one.censored:
        notes.append("begins high and ends low")
    elif one.crossings > 1:
        notes.append("not monotone")
    if one.skipped:
        notes.append(f"{one.skipped} missing between {' and '.join(map(labels.axis_text, one.between or ()))}")
    notes += [
        f"{100 * share:.0f} % of resamples {side}"
        for side, share in (("below", one.share_below), ("above", one.share_above)) if 0 < share < 1
    ]  # fmt: skip
    return "; ".join(notes)
