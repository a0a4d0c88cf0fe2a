"""Relative improvement of one strategy over another (paper, Eq. 23 and Figure 4), cell by cell.

    Delta = 100 (base - method) / base,   in %: positive where the method is better, at most 100 (values from 0 up)

over the seeds that both have in the cell. Two readings of the seed average (they differ much where the
seeds do): the ratio of means, 100 (mean base - mean method) / mean base, which is Eq. 23 to the letter,
and the mean of ratios, the mean of the percentages of the single seeds.

    improvement = relative_improvement(runs, "test_error", model="PINN", system="convection")
    print(format_table(improvement))

Drawn by `python experiments/figures.py 4`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from analysis import labels
from analysis.collect import AxisValue, Run
from analysis.seeds import align, seed_table

SWITCH = "switch"  # as base: the method's own runs at the end of L-BFGS
SWITCH_METRICS = {"train_loss": "metrics.lbfgs_train_loss", "test_error": "metrics.lbfgs_test_error"}
READINGS = {"ratio_of_means": "ratio of means", "mean_of_ratios": "mean of ratios"}
COUNTS = ("pairs", "unpaired", "base_diverged", "method_diverged")


@dataclass(frozen=True)
class Improvement:
    """Relative improvement in %; arrays have shape (len(data), len(physical)).

    NaN (masked) where there is no pair of runs, or where the ratio has no meaning: the base of a paired
    run is not finite, or what is divided by (the mean base, or any single one) is not positive.
    -inf where the method has no finite value in a paired run and the base has: the worst there is.
    """

    model: str
    system: str
    base: str
    method: str
    metric: str
    physical_name: str
    data_name: str
    physical: list[AxisValue]
    data: list[AxisValue]
    ratio_of_means: np.ndarray
    mean_of_ratios: np.ndarray
    pairs: np.ndarray  # seeds that both have
    unpaired: np.ndarray  # runs of either without a partner; they enter nothing
    base_diverged: np.ndarray  # among the paired runs
    method_diverged: np.ndarray


def relative_improvement(
    runs: Iterable[Run], metric: str, *, model: str, system: str, base: str = "lbfgs", method: str = "nncg"
) -> Improvement:
    """Return the relative improvement of `method` over `base`.

    With base "switch" the base is the method's own run at the switch from L-BFGS (`lbfgs_train_loss`,
    `lbfgs_test_error`), which pairs exactly, and shows what the last stage alone adds.

    Raises:
        ValueError: a strategy has no run or two in one place, or the metric is not stored at the switch.
    """
    runs = list(runs)
    where = {"model": model, "system": system}
    if base == SWITCH:
        if metric not in SWITCH_METRICS:
            raise ValueError(f"base {SWITCH} has {' and '.join(SWITCH_METRICS)} only, not {metric}")
        table = seed_table(runs, metric, **where, strategies=[method])
        before = seed_table(runs, SWITCH_METRICS[metric], **where, strategies=[method])
        # A run that diverged did so on the way: before the switch only a value that is not finite says so.
        old, old_diverged = before.values[method], np.isinf(before.values[method])
    else:
        table = seed_table(runs, metric, **where, strategies=[base, method])
        old, old_diverged = table.values[base], table.diverged[base]
    new, new_diverged = table.values[method], table.diverged[method]
    there, also = ~np.isnan(old), ~np.isnan(new)
    paired = there & also
    return Improvement(
        model, system, base, method, metric, table.physical_name, table.data_name, table.physical, table.data,
        ratio_of_means=_percentage(_mean(old, paired), _mean(new, paired)),
        mean_of_ratios=_mean(_percentage(old, new), paired),
        pairs=paired.sum(axis=2), unpaired=(there ^ also).sum(axis=2),
        base_diverged=(paired & old_diverged).sum(axis=2), method_diverged=(paired & new_diverged).sum(axis=2),
    )  # fmt: skip


def clipped(values: np.ndarray, limit: float = 100.0) -> tuple[np.ndarray, np.ndarray]:
    """Return the values clipped to [-limit, limit] for a diverging map, and which cells were clipped.

    Masked cells stay NaN and do not count as clipped; -inf becomes -limit.

    Raises:
        ValueError: the limit is not positive.
    """
    if not limit > 0:
        raise ValueError(f"limit {limit:g} is not positive")
    return np.clip(values, -limit, limit), np.abs(values) > limit


def format_table(improvement: Improvement) -> str:
    """Return both readings as text, most data on top as in the picture, and what was left out."""
    lines = [f"{improvement.model} {improvement.system}, {labels.METRICS.get(improvement.metric, improvement.metric)}: "
             f"relative improvement of {_title(improvement.method)} over {_title(improvement.base)} in % (Eq. 23)"]
    for reading, title in READINGS.items():
        values: np.ndarray = getattr(improvement, reading)
        lines += ["", f"{title}, {improvement.data_name} (rows) by {improvement.physical_name} (columns)"]
        heads = ["", *map(labels.axis_text, improvement.physical)]
        rows = [[labels.axis_text(amount), *map(_percent, row)] for amount, row in zip(improvement.data, values)]
        lines += align([heads, *reversed(rows)])
        shown = values[~np.isnan(values)]
        middle = f"median {_percent(float(np.median(shown)))}" if shown.size else "no median"
        lines.append(
            f"cells: better {(shown > 0).sum()}, worse {(shown < 0).sum()}, equal {(shown == 0).sum()}, masked "
            f"{(np.isnan(values) & (improvement.pairs > 0)).sum()}, without a pair {(improvement.pairs == 0).sum()}; "
            f"{middle}"
        )
    counts = (int(getattr(improvement, name).sum()) for name in COUNTS)
    text = "pairs {}, runs without a partner {}; diverged in a pair: {} of the base, {} of the method"
    return "\n".join([*lines, "", text.format(*counts)])


def csv_rows(improvement: Improvement) -> list[dict[str, object]]:
    """Return one row a cell, cells without a pair included (NaN)."""
    names = ("model", "system", "base", "method", "metric", "physical_name", "data_name")
    arrays = (*READINGS, *COUNTS)
    return [
        {name: getattr(improvement, name) for name in names}
        | {"physical_value": labels.axis_text(physical), "data_value": labels.axis_text(data)}
        | {name: getattr(improvement, name)[i, j].item() for name in arrays}
        for i, data in enumerate(improvement.data)
        for j, physical in enumerate(improvement.physical)
    ]


def _percentage(base: np.ndarray, method: np.ndarray) -> np.ndarray:
    """Return Eq. 23; NaN where the base is not finite and positive, -inf where only the method is not finite."""
    with np.errstate(invalid="ignore", divide="ignore"):  # inf / inf is NaN already
        return np.where(base > 0, 100 * (base - method) / base, np.nan)


def _mean(values: np.ndarray, paired: np.ndarray) -> np.ndarray:
    """Return the mean over the paired seeds (last axis); NaN where there is none, or where one of them is NaN."""
    with np.errstate(invalid="ignore"):
        return np.where(paired, values, 0.0).sum(axis=2) / paired.sum(axis=2)


def _percent(value: float) -> str:
    if np.isnan(value):
        return "."
    return f"{value:+.1f}" if abs(value) < 1000 else f"{value:+.1e}"


def _title(strategy: str) -> str:
    return "its own L-BFGS stage" if strategy == SWITCH else labels.STRATEGIES.get(strategy, strategy)
