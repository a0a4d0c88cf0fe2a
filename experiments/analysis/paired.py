"""Strategies compared seed by seed: ratios with significance for each cell, and wins by regime.

    cells = compare(runs, "test_error", model="PINN", system="convection", first="lbfgs", second="alm")
    print(format_table(cells))
    rows = win_counts(runs, model="PINN", system="convection", limits=limits)
    print(format_wins(rows))

A pair is two runs of the same cell and seed, which share their initial weights; its number is
d = log10(second / first), negative where the second is better. Where one of the two is not finite (or
exactly 0), d is infinite: a failure is worse than every number. Where both are, d = 0, a tie.

- t-test of mean d = 0, over the pairs in which both are finite and positive;
- exact sign-flip test, in which an infinite d counts as one decade beyond the largest finite |d| of the
  map. With k pairs it gives no less than 2^(1-k): three seeds can never be below 0.25;
- both adjusted over the cells of the map (Benjamini and Hochberg); see `significance`.

Regimes are those of the reference's own runs, which biases its comparisons within them: its errors in III and
its losses in II are high partly by chance. Of two strategies that are alike, in a map whose seeds scatter by a
factor of 2, the reference had the lower error in only a quarter of the cells of III.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from analysis import labels
from analysis.collect import AxisValue, Run, build_grid
from analysis.labels import axis_text
from analysis.seeds import SeedTable, align, seed_table
from analysis.significance import adjust, sign_flip, smallest_p, t_test
from analysis.thresholds import Thresholds, reference_strategy

ALPHA = 0.05
WHOLE_MAP = "all"


@dataclass(frozen=True)
class PairedCell:
    """One cell of a paired comparison; NaN where the pairs do not allow a number."""

    model: str
    system: str
    metric: str
    first: str
    second: str
    physical_name: str
    data_name: str
    physical_value: AxisValue
    data_value: AxisValue
    pairs: int
    first_failed: int  # pairs in which only the first is not finite
    second_failed: int
    both_failed: int
    mean_log_ratio: float  # mean d; infinite if one side failed, NaN if each did
    ratio: float  # 10^mean_log_ratio: geometric mean of second / first
    measured_ratio: float  # the same over the pairs of the t-test: both finite and positive
    t_p: float
    t_adjusted: float
    sign_flip_p: float
    sign_flip_adjusted: float
    smallest_p: float  # of the sign-flip test with this many pairs


@dataclass(frozen=True)
class Pooled:
    """One test over many cells. Cells share their seeds, so the seed's mean d over the cells is the unit.

    An infinite d counts as in the sign-flip test of a cell, also in the ratio and in the t-test.
    """

    metric: str
    first: str
    second: str
    cells: int
    seeds: int
    mean_log_ratio: float
    ratio: float
    t_p: float
    sign_flip_p: float
    smallest_p: float


@dataclass(frozen=True)
class WinRow:
    """Who has the lowest seed mean in how many cells of one regime; ties are shared (1/2 each, 1/3 ...)."""

    model: str
    system: str
    reference: str  # whose map the regimes are of
    limits: Thresholds
    regime: str  # I, II, III, or "all": the cells of these three, which are those that the reference has
    metric: str
    cells: int  # in which all strategies share a seed
    incomplete: int  # cells of the regime in which they do not; not counted
    nobody: int  # of the cells: no strategy is finite in all its seeds, so nobody wins
    tied: int  # of the cells: wins that are shared
    wins: dict[str, float]
    significant: dict[str, int]  # wins against the runner-up with an adjusted t-test p below 0.05


def compare(
    runs: Iterable[Run], metric: str, *, model: str, system: str, first: str, second: str
) -> list[PairedCell]:
    """Compare two strategies in every cell of their common axes, row by row; see the module for the tests.

    Raises:
        ValueError: a strategy has no run, or a value is negative.
    """
    table = seed_table(runs, metric, model=model, system=system, strategies=[first, second])
    d, measured = _log_ratios(table, first, second)
    bounded = _bounded(d)
    cells = list(np.ndindex(d.shape[:2]))
    paired = ~np.isnan(d)
    t_ps = np.array([t_test(d[cell][measured[cell]]) for cell in cells])
    flips = np.array([sign_flip(bounded[cell][paired[cell]]) for cell in cells])
    found = []
    for cell, t_p, t_adjusted, flip, flip_adjusted in zip(cells, t_ps, adjust(t_ps), flips, adjust(flips)):
        a, b = (np.isinf(table.values[name][cell]) & paired[cell] for name in (first, second))
        pairs = int(paired[cell].sum())
        mean = _mean(d[cell][paired[cell]])
        found.append(PairedCell(
            model, system, metric, first, second, table.physical_name, table.data_name,
            table.physical[cell[1]], table.data[cell[0]], pairs,
            first_failed=int((a & ~b).sum()), second_failed=int((b & ~a).sum()), both_failed=int((a & b).sum()),
            mean_log_ratio=mean, ratio=_power(mean),
            measured_ratio=_power(_mean(d[cell][measured[cell]])), t_p=float(t_p), t_adjusted=float(t_adjusted),
            sign_flip_p=float(flip), sign_flip_adjusted=float(flip_adjusted), smallest_p=smallest_p(pairs),
        ))  # fmt: skip
    return found


def pooled(
    runs: Iterable[Run], metric: str, *, model: str, system: str, first: str, second: str,
    cells: Collection[tuple[AxisValue, AxisValue]] | None = None,
) -> Pooled:  # fmt: skip
    """Compare two strategies over many cells at once, each seed's mean d over its cells being one number.

    Args:
        cells: (data value, physical value) of the cells, such as those of `regime_cells`; default: all.

    Raises:
        ValueError: as `compare`.
    """
    table = seed_table(runs, metric, model=model, system=system, strategies=[first, second])
    d, _ = _log_ratios(table, first, second)
    wanted = np.array([[cells is None or (n, x) in cells for x in table.physical] for n in table.data])
    bounded = np.where(wanted[:, :, None], _bounded(d), np.nan)
    paired = ~np.isnan(bounded)
    by_seed = np.array([_mean(bounded[..., k][paired[..., k]]) for k in range(len(table.seeds))])
    by_seed = by_seed[~np.isnan(by_seed)]
    mean = _mean(by_seed)
    return Pooled(
        metric, first, second, int(paired.any(axis=2).sum()), len(by_seed), mean, _power(mean),
        t_test(by_seed), sign_flip(by_seed), smallest_p(len(by_seed)),
    )  # fmt: skip


def regime_cells(
    runs: Iterable[Run], *, model: str, system: str, reference: str, limits: Thresholds
) -> dict[str, set[tuple[AxisValue, AxisValue]]]:
    """Return the cells (data value, physical value) of the regimes I, II and III in the reference's map."""
    runs = list(runs)
    train, test = (
        build_grid(runs, metric, model=model, system=system, strategy=reference) for metric in labels.METRICS
    )
    regimes = labels.label_cells(train, test, limits)
    return {
        name: {(train.data[i], train.physical[j]) for i, j in np.argwhere(regimes == name)} for name in labels.NAMES
    }


def win_counts(
    runs: Iterable[Run], *, model: str, system: str, limits: Thresholds,
    reference: str | None = None, strategies: Sequence[str] | None = None,
) -> list[WinRow]:  # fmt: skip
    """Count which strategy is best where: a row for each regime (and the whole map) and metric.

    Regimes are those of the reference's map (see `thresholds.reference_strategy`). A cell is won by the
    lowest mean over the seeds that all strategies share in it; a strategy with a seed that is not finite
    cannot win. A win is significant if the t-test against the runner-up, adjusted over all cells of the
    map, is below 0.05 with the ratio on the winner's side. That the same seeds pick winner and runner-up makes
    the lead look larger than it is, but not the test easier: with equal strategies and three seeds, p < 0.05
    before adjustment in 4.5 % of the cells for two of them, and in 2.5 % for five. Ties are not tested.

    Raises:
        ValueError: fewer than two strategies, one without runs, or as `compare`.
    """
    runs = list(runs)
    there = sorted({run.strategy for run in runs if (run.model, run.system) == (model, system)})
    reference = reference_strategy(there, reference)
    names = list(dict.fromkeys(there if strategies is None else strategies))
    if len(names) < 2:
        raise ValueError(f"a comparison needs two strategies of {model} {system}, not {', '.join(names) or 'none'}")
    regimes = regime_cells(runs, model=model, system=system, reference=reference, limits=limits)
    regimes[WHOLE_MAP] = set().union(*regimes.values())
    rows = []
    for metric in labels.METRICS:
        table = seed_table(runs, metric, model=model, system=system, strategies=names)
        won = _winners(table, names)
        for regime, cells in regimes.items():
            rows.append(_win_row(
                won, cells, names, model=model, system=system, reference=reference, limits=limits,
                regime=regime, metric=metric,
            ))  # fmt: skip
    return sorted(rows, key=lambda row: list(regimes).index(row.regime))


def significant(cells: Sequence[PairedCell]) -> tuple[int, int, int]:
    """Return in how many cells the second strategy is better and worse at adjusted p < ALPHA, and how many have a p."""
    tested = [cell for cell in cells if not math.isnan(cell.t_adjusted)]
    sure = [cell for cell in tested if cell.t_adjusted < ALPHA]
    # Failures may be on one side and the measured pairs on the other: then neither is better.
    better = sum(max(cell.ratio, cell.measured_ratio) < 1 for cell in sure)
    worse = sum(min(cell.ratio, cell.measured_ratio) > 1 for cell in sure)
    return better, worse, len(tested)


def format_table(cells: Sequence[PairedCell]) -> str:
    """Return the comparison as text, a line a cell with a pair, and what the number of seeds allows."""
    if not cells:
        return "no cell to compare"
    one = cells[0]
    first, second = _names([one.first]), _names([one.second])
    rows = [(one.data_name, one.physical_name, "pairs", "ratio", "t-test p", "adjusted", "sign-flip p", "adjusted", "")]
    for cell in cells:
        if cell.pairs:
            ps = (cell.t_p, cell.t_adjusted, cell.sign_flip_p, cell.sign_flip_adjusted)
            place = axis_text(cell.data_value), axis_text(cell.physical_value)
            rows.append((*place, str(cell.pairs), _number(cell.ratio, 3), *map(_number, ps), _failures(cell)))
    better, worse, tested = significant(cells)
    most = max(cell.pairs for cell in cells)
    return "\n".join([
        f"{one.model} {one.system}, {labels.METRICS.get(one.metric, one.metric)}: {second} over {first} "
        "(ratio: geometric mean over paired seeds)",
        *align(rows),
        f"of {tested} cells with a t-test, {second} is better in {better} and worse in {worse} "
        f"at adjusted p < {ALPHA:g}; without a pair: {sum(not cell.pairs for cell in cells)} of {len(cells)} cells",
        _power_note(most),
    ])  # fmt: skip


def format_pooled(tests: Sequence[tuple[str, Pooled]]) -> str:
    """Return pooled tests as text, a line each with its name (such as a regime)."""
    rows = [("", "metric", "comparison", "cells", "seeds", "ratio", "t-test p", "sign-flip p", "smallest")]
    for name, test in tests:
        comparison = " over ".join(map(_names, ([test.second], [test.first])))
        words = name, labels.METRICS.get(test.metric, test.metric), comparison
        numbers = (str(test.cells), str(test.seeds), _number(test.ratio, 3))
        rows.append((*words, *numbers, *map(_number, (test.t_p, test.sign_flip_p, test.smallest_p))))
    return "\n".join([*align(rows, left=3), "p not adjusted for the number of tests"])


def format_wins(rows: Sequence[WinRow]) -> str:
    """Return win counts as text, "wins (significant)", and whether one strategy leads in every regime."""
    if not rows:
        return "no cell to compare"
    one, names = rows[0], list(rows[0].wins)
    table = [("regime", "metric", "cells", *(_names([name]) for name in names), "tied", "nobody", "incomplete")]
    for row in rows:
        wins = (f"{row.wins[name]:.3g} ({row.significant[name]})" for name in names)
        metric = labels.METRICS[row.metric]
        table.append((row.regime, metric, str(row.cells), *wins, str(row.tied), str(row.nobody), str(row.incomplete)))
    return "\n".join([
        f"{one.model} {one.system}: cells won (significantly), by regime of the {_names([one.reference])} map "
        f"(T_train = {one.limits.train:.3e}, T_test = {one.limits.test:.3e}: {one.limits.source})",
        *align(table, left=2),
        *_leads(rows),
        f"significant: t-test over the shared seeds against the runner-up, adjusted over the map, p < {ALPHA:g}",
        f"regimes are chosen by the same runs of {_names([one.reference])}: chance puts it ahead where they are good, "
        "behind where they are bad",
    ])  # fmt: skip


def leaders(row: WinRow) -> list[str]:
    """Return the strategies with the most wins in a row, several if they tie; none if nobody won a cell."""
    most = max(row.wins.values(), default=0.0)
    return [name for name, wins in row.wins.items() if wins == most > 0]


def everywhere(rows: Sequence[WinRow], metric: str) -> tuple[list[str], dict[str, list[str]]]:
    """Return who has the most wins in every regime, ties included, and the leaders of each regime that has cells."""
    best = {row.regime: leaders(row) for row in rows if row.metric == metric and row.regime != WHOLE_MAP and row.cells}
    return [name for name in rows[0].wins if best and all(name in who for who in best.values())], best


def csv_rows(cells: Iterable[PairedCell]) -> list[dict[str, object]]:
    """Return one row a cell, cells without a pair included."""
    return [
        asdict(cell) | {"physical_value": axis_text(cell.physical_value), "data_value": axis_text(cell.data_value)}
        for cell in cells
    ]


def wins_csv_rows(rows: Iterable[WinRow]) -> list[dict[str, object]]:
    """Return one row a regime, metric and strategy."""
    names = ("model", "system", "reference", "regime", "metric", "cells", "incomplete", "nobody", "tied")
    return [
        {name: getattr(row, name) for name in names}
        | {"T_train": row.limits.train, "T_test": row.limits.test, "thresholds": row.limits.source}
        | {"strategy": strategy, "wins": wins, "significant": row.significant[strategy]}
        for row in rows
        for strategy, wins in row.wins.items()
    ]


def _log_ratios(table: SeedTable, first: str, second: str) -> tuple[np.ndarray, np.ndarray]:
    """Return d (NaN without a pair) and where it is measured: both values finite and positive."""
    old, new = table.values[first], table.values[second]
    if (old < 0).any() or (new < 0).any():
        raise ValueError(f"{table.metric} is negative in places: ratios need values from 0 up")
    with np.errstate(divide="ignore", invalid="ignore"):
        before, after = np.log10(old), np.log10(new)
        d = after - before
    both = ~np.isnan(old) & ~np.isnan(new)
    return np.where(both & np.isnan(d), 0.0, d), np.isfinite(before) & np.isfinite(after)


def _bounded(d: np.ndarray) -> np.ndarray:
    """Return d with infinite values one decade beyond the largest finite one of the map."""
    beyond = 1 + np.abs(d[np.isfinite(d)]).max(initial=0.0)
    return np.where(np.isinf(d), np.copysign(beyond, d), d)


def _mean(d: np.ndarray) -> float:
    """Return the mean; NaN of nothing, and of inf and -inf together."""
    with np.errstate(invalid="ignore"):
        return float(d.mean()) if d.size else math.nan


def _power(log_ratio: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.power(10.0, log_ratio))


def _winners(table: SeedTable, names: Sequence[str]) -> dict[tuple[AxisValue, AxisValue], tuple[list[str], bool]]:
    """Return who wins each cell in which all strategies share a seed, and whether significantly.

    Several winners tie; none means that no strategy is finite in all shared seeds.
    """
    won, ps = {}, []
    for i, j in np.ndindex(len(table.data), len(table.physical)):
        values = {name: table.values[name][i, j] for name in names}
        shared = ~np.isnan(list(values.values())).any(axis=0)
        if not shared.any():
            continue
        means = {name: float(values[name][shared].mean()) for name in names}
        best, runner_up = sorted(names, key=means.__getitem__)[:2]
        who = [name for name in names if means[name] == means[best] < math.inf]
        won[table.data[i], table.physical[j]] = who
        d, measured = (part[i, j, shared] for part in _log_ratios(table, runner_up, best))
        p = t_test(d[measured]) if len(who) == 1 else math.nan
        # The lower mean may be the higher geometric mean: a test of the latter then says nothing for the winner,
        # but it is one of the tests that were made.
        ps.append(1.0 if p < 1 and d[measured].mean() > 0 else p)
    significant = adjust(np.array(ps)) < ALPHA
    return {cell: (who, bool(s)) for (cell, who), s in zip(won.items(), significant)}


def _win_row(
    won: dict[tuple[AxisValue, AxisValue], tuple[list[str], bool]],
    cells: set[tuple[AxisValue, AxisValue]], names: Sequence[str], **described: object,
) -> WinRow:  # fmt: skip
    outcomes = [won[cell] for cell in cells if cell in won]
    return WinRow(
        **described, cells=len(outcomes), incomplete=len(cells) - len(outcomes),
        nobody=sum(not who for who, _ in outcomes), tied=sum(len(who) > 1 for who, _ in outcomes),
        wins={name: math.fsum(1 / len(who) for who, _ in outcomes if name in who) for name in names},
        significant={name: sum(s for who, s in outcomes if who == [name]) for name in names},
    )  # fmt: skip


def _leads(rows: Sequence[WinRow]) -> list[str]:
    """Return the sentences on whether one strategy has the most wins in every regime."""
    lines, both = [], list(rows[0].wins)
    for metric, name in labels.METRICS.items():
        always, best = everywhere(rows, metric)
        each = ", ".join(f"{regime} {_names(who)}" for regime, who in best.items()) or "no cell to compare"
        lines.append(f"{name}: most wins in every regime: {_names(always)} ({each})")
        both = [strategy for strategy in both if strategy in always]
    return [*lines, f"most wins in every regime by both metrics: {_names(both)}"]


def _names(strategies: Sequence[str]) -> str:
    return " and ".join(labels.STRATEGIES.get(name, name) for name in strategies) or "none"


def _number(value: float, digits: int = 2) -> str:
    return "none" if math.isnan(value) else f"{value:.{digits}g}"


def _failures(cell: PairedCell) -> str:
    counts = {cell.first: cell.first_failed, cell.second: cell.second_failed, "both": cell.both_failed}
    text = ", ".join(f"{name} {count}" for name, count in counts.items() if count)
    return f"not finite: {text}" if text else ""


def _power_note(pairs: int) -> str:
    if not pairs:
        return "no pairs: nothing can be tested"
    least, seeds = smallest_p(pairs), f"{pairs} seed{'s' * (pairs > 1)}"
    if math.isnan(least):
        return f"{seeds}: too many to enumerate for the sign-flip test"
    note = f"{seeds}: the sign-flip p of a cell cannot be below {least:.3g}"
    if least < ALPHA:
        return note
    return (
        f"{note}, so that it can never reach {ALPHA:g}; a t-test can, on the assumption that log ratios are normal, "
        "which so few seeds cannot check"
    )
