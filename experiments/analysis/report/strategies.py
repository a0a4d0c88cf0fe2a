"""Strategies of one system compared at one common threshold: maps, boundaries, improvement, wins, paired tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from analysis import improvement, labels, paired, panels, style
from analysis.collect import Run
from analysis.improvement import Improvement
from analysis.paired import PairedCell
from analysis.report import page
from analysis.report.page import Cell, Content, Markup, number
from analysis.report.regimes import COUNTED, Map, axis_cell, interval_text, position_cell, positions_of
from analysis.thresholds import Thresholds, reference_strategy

BETTER, WORSE = (33, 102, 172), (178, 24, 43)  # blue and red, told apart by colour-blind readers
ALPHA = paired.ALPHA


def systems(made: Sequence[Map]) -> dict[tuple[str, str], list[Map]]:
    """Return the maps by (model, system) where there are several strategies to compare."""
    groups: dict[tuple[str, str], list[Map]] = {}
    for one in made:
        groups.setdefault((one.train.model, one.train.system), []).append(one)
    return {key: chosen for key, chosen in groups.items() if len(chosen) > 1}


def section(chosen: Sequence[Map], name: str, title: str) -> Markup:
    """Return the comparison of one system's strategies."""
    heading, limits = page.tag("h3", title), chosen[0].common
    if limits is None:
        text = "No comparison: the map whose percentiles would be the common thresholds has no finite cell."
        return page.tag("section", heading, page.paragraph(text, kind="warning"), id=name)
    reference = reference_strategy([one.train.strategy for one in chosen])
    base = next(one for one in chosen if one.train.strategy == reference)
    others = [one for one in chosen if one is not base]
    text = (f"One yardstick for all: T_train = {limits.train:.4g}, T_test = {limits.test:.4g} ({limits.source}). The "
            "maps above have thresholds of their own, which move with the results of the strategy.")  # fmt: skip
    parts: list[Content] = [page.paragraph(text), page.tried(_picture, chosen, limits, title), _counts(chosen, limits)]
    parts += [_positions(chosen, metric, limits) for metric in labels.METRICS]
    parts += [
        page.tag("h4", f"Relative improvement over {base.strategy}"), page.tried(_improvements, base, others, limits),
        page.tag("h4", "Cells won"), page.tried(_wins, chosen, reference, limits),
        page.tag("h4", f"Paired with {base.strategy}, seed by seed"), page.tried(_paired, base, others, limits),
    ]  # fmt: skip
    return page.tag("section", heading, *parts, id=name)


def _picture(chosen: Sequence[Map], limits: Thresholds, title: str) -> Markup:
    figure = draw(chosen, limits)
    names = ", ".join(one.strategy for one in chosen)
    alt = f"Regime maps of {title} at common thresholds, a column each for {names}; training loss above test error."
    caption = (
        "Training loss (above) and test error (below), means over seeds, at the common thresholds. Solid: training "
        "loss = T_train; dashed: test error = T_test; thin: the threshold's value moved by ±20 %. Colours: 5th to 95th "
        "percentile of the panel (ends at its bar); yellow is low. Crosses: diverged runs; hatched: no finished run."
    )
    return page.picture(figure, alt, caption, dpi=160)


def draw(chosen: Sequence[Map], limits: Thresholds) -> Figure:
    """Return the maps of several strategies side by side at the same thresholds, training loss above test error."""
    with style.in_print():
        figure = Figure(figsize=(0.5 + 1.75 * len(chosen), 4.1), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(2, len(chosen), squeeze=False)
        figure.draw_without_rendering()  # numerals and ticks are placed by the size of the axes
        for column, one in zip(axes.T, chosen):
            curves = panels.boundary_curves(one.train, one.test, limits)
            _, moved = panels.perturbed(curves)
            regimes = labels.label_cells(one.train, one.test, limits)
            for panel, own, thin in zip(column, curves, moved):
                panels.draw_panel(panel, own, curves, thin, regimes, panels.PRINT)
                low, high = panels.color_limits(own.grid.shown)
                panels.draw_scale(panel, low, high)
            context = one.train.system, one.train.model
            column[0].set_title(one.strategy, pad=14)
            column[1].set_xlabel(labels.axis_label(one.train.physical_name, *context))
        first = chosen[0].train
        for panel in axes[:, 0]:
            panel.set_ylabel(labels.axis_label(first.data_name, first.system, first.model))
        return figure


def _counts(chosen: Sequence[Map], limits: Thresholds) -> Markup:
    rows = []
    for one in chosen:
        c = labels.count_cells(one.train, one.test, limits)
        values = c.one, c.two, c.two_high_error, c.two_low_error, c.three, c.missing
        rows.append([one.strategy, *map(number, values)])
    return page.table(["strategy", *COUNTED], rows, "Cells by regime at the common thresholds.", sort=True)


def _positions(chosen: Sequence[Map], metric: str, limits: Thresholds) -> Markup:
    found = [positions_of(one, metric, limits) for one in chosen]
    first = chosen[0].train
    amounts = sorted({axis for one in chosen for axis in one.train.data}, key=lambda value: axis_cell(value).value)
    rows = []
    for amount in amounts:
        cells: list[Cell] = []
        for by_amount in found:
            position = by_amount.get(amount)
            cell, interval = position_cell(position), interval_text(position)
            if interval not in ("", cell.content):  # not "above" twice
                cell = replace(cell, content=[cell.content, page.tag("div", interval, class_="note")])
            cells.append(cell)
        rows.append([axis_cell(amount), *cells])
    which = "Training" if metric == "train_loss" else "Test"
    caption = (f"{which} boundary along {first.physical_name} by {first.data_name} at the common threshold, with its "
               "bootstrap interval over the seeds (nominal 90 %; too narrow with few seeds).")  # fmt: skip
    return page.table([first.data_name, *(one.strategy for one in chosen)], rows, caption, sort=True)


def _improvements(base: Map, others: Sequence[Map], limits: Thresholds) -> Markup:
    """Return Eq. 23 in both readings: medians by regime of the base's map, then a heat map a strategy and metric."""
    regimes = paired.regime_cells(base.runs, **_system(base), reference=base.train.strategy, limits=limits)
    pairs = [(one, base.train.strategy, base.strategy) for one in others]
    pairs += [(one, improvement.SWITCH, f"the L-BFGS stage of {one.strategy}") for one in others if _has_switch(one)]
    rows, folds = [], []
    for one, old, title in pairs:
        blocks = []
        for metric in labels.METRICS:
            found = improvement.relative_improvement(
                [*base.runs, *one.runs], metric, **_system(base), base=old, method=one.train.strategy
            )
            for reading, words in improvement.READINGS.items():
                values: np.ndarray = getattr(found, reading)
                known = values[~np.isnan(values)]
                medians = [_median(found, values, cells) for cells in regimes.values()]
                counts = (known > 0).sum(), (known < 0).sum(), np.isnan(values).sum()
                words_of_row = one.strategy, title, labels.METRICS[metric], words
                rows.append([*words_of_row, *medians, *(number(int(n)) for n in counts)])
                blocks.append(_heat(found, reading, f"{labels.metric_label(metric, base.train.system)}, {words}"))
        folds.append(page.fold(f"{one.strategy} over {title}, cell by cell", *blocks))
    medians = [f"{name}, %" for name in regimes]
    head = ["strategy", "base", "metric", "seeds averaged as", *medians, "better", "worse", "masked"]
    caption = (
        "100 (base − strategy) / base in %, positive where the strategy is better, at most 100 (paper, Eq. 23), over "
        f"the seeds both have. I, II, III: medians over the cells of that regime of the {base.strategy} map; cells "
        "better, worse, and masked (no pair of runs, or a base without a finite positive value). −inf: no finite value."
    )
    return Markup(page.table(head, rows, caption, sort=True, side=False) + "".join(folds))


def _has_switch(one: Map) -> bool:
    """Whether the runs noted loss and error where L-BFGS handed over, which is then a second base."""
    metrics = improvement.SWITCH_METRICS.values()
    return any(run.value(metric) is not None for run in one.runs for metric in metrics)


def _median(found: Improvement, values: np.ndarray, cells: set) -> Cell:
    inside = [
        values[i, j]
        for i, amount in enumerate(found.data)
        for j, physical in enumerate(found.physical)
        if (amount, physical) in cells and not math.isnan(values[i, j])
    ]
    if not inside:
        return Cell("no cell", kind="none")
    # An order statistic where one is infinite: between -inf and a number there is no middle.
    value = float(np.quantile(inside, 0.5, method="inverted_cdf" if np.isinf(inside).any() else "linear"))
    return number(value, _percent(value))


def _heat(found: Improvement, reading: str, title: str) -> Markup:
    values = getattr(found, reading)
    rows = []
    for i in reversed(range(len(found.data))):
        rows.append([labels.axis_text(found.data[i]), *map(_heat_cell, values[i])])
    head = [f"{found.data_name} \\ {found.physical_name}", *map(labels.axis_text, found.physical)]
    caption = f"{title}: improvement in %. Blue better, red worse, full colour from ±100 % on; hatched: masked."
    return page.table(head, rows, caption)


def _heat_cell(value: float) -> Cell:
    if math.isnan(value):
        return Cell("", kind="none")
    share = min(abs(value), 100.0) / 100 * 0.6  # black text stays readable
    color = "".join(f"{round(255 + share * (part - 255)):02x}" for part in (BETTER if value > 0 else WORSE))
    return Cell(_percent(value), kind="heat", style=f"background:#{color}")


def _percent(value: float) -> str:
    if math.isinf(value):
        return "−inf"
    text = f"{value:+.1f}" if abs(value) < 1000 else f"{value:+.1e}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−", 1)


def _wins(chosen: Sequence[Map], reference: str, limits: Thresholds) -> Markup:
    runs = _runs(chosen)
    found = paired.win_counts(runs, **_system(chosen[0]), limits=limits, reference=reference)
    rows = []
    for row in found:
        wins = []
        for one in chosen:
            name = one.train.strategy
            best = "low" if name in paired.leaders(row) else ""
            wins.append(number(row.wins[name], f"{row.wins[name]:.3g} ({row.significant[name]})", kind=best))
        counts = (row.cells, row.tied, row.nobody, row.incomplete)
        rows.append([row.regime, labels.METRICS[row.metric], *wins, *map(number, counts)])
    head = ["regime", "metric", *(one.strategy for one in chosen), "cells", "tied", "nobody finite", "incomplete"]
    caption = (
        f"Cells with the lowest seed mean, by regime of the {labels.STRATEGIES.get(reference, reference)} map; ties "
        f"are shared; in brackets those with an adjusted p < {ALPHA:g} against the runner-up (t-test of the logarithm "
        "over the shared seeds, Benjamini-Hochberg over the map). Bold: most wins. Incomplete: cells in which the "
        "strategies share no seed; not counted. Regimes are chosen by the same runs of the reference: chance puts it "
        "ahead where they are good, behind where they are bad."
    )
    verdicts = [page.paragraph(_verdict(found, metric)) for metric in labels.METRICS]
    return Markup(page.table(head, rows, caption, side=False) + "".join(verdicts))


def _verdict(rows: Sequence[paired.WinRow], metric: str) -> str:
    """Return whether one strategy has the most wins in every regime."""
    words = [labels.STRATEGIES.get(name, name) for name in paired.everywhere(rows, metric)[0]]
    who = f"{' and '.join(words)} in every regime" if words else "no strategy has them in every regime"
    return f"Most wins, {labels.METRICS[metric]}: {who}."


def _paired(base: Map, others: Sequence[Map], limits: Thresholds) -> Markup:
    """Return the pooled tests by regime, the cells with a significant difference, and the cells themselves."""
    regimes = paired.regime_cells(base.runs, **_system(base), reference=base.train.strategy, limits=limits)
    rows, single, folds = [], [], []
    for one in others:
        pair = {**_system(base), "first": base.train.strategy, "second": one.train.strategy}
        runs = [*base.runs, *one.runs]
        tables = []
        for metric in labels.METRICS:
            cells = paired.compare(runs, metric, **pair)
            tables.append(_cells(cells, labels.metric_label(metric, base.train.system)))
            counts = *paired.significant(cells), len(cells)
            single.append([one.strategy, labels.METRICS[metric], *map(number, counts)])
            for regime, places in [*regimes.items(), (paired.WHOLE_MAP, None)]:
                test = paired.pooled(runs, metric, **pair, cells=places)
                numbers = [number(test.cells), number(test.seeds), _ratio_cell(test.ratio),
                           *(_p_cell(p) for p in (test.t_p, test.sign_flip_p, test.smallest_p))]  # fmt: skip
                rows.append([one.strategy, labels.METRICS[metric], regime, *numbers])
        folds.append(page.fold(f"{one.strategy} and {base.strategy}, cell by cell", *tables))
    head = ["strategy", "metric", "regime", "cells", "seeds", "ratio", "t-test p", "sign-flip p", "smallest possible"]
    caption = (
        f"By regime of the {base.strategy} map. Ratio: geometric mean of strategy over {base.strategy}, below 1 where "
        "the strategy is better. p: two-sided, of each seed's mean log ratio over the cells, which share their seeds; "
        "the sign-flip test is exact, and its p no smaller than the number of seeds allows. Not adjusted for "
        "the number of tests."
    )
    pooled = page.table(head, rows, caption, sort=True, side=False)
    head = ["strategy", "metric", "better", "worse", "tested", "cells"]
    caption = (
        f"Cells that differ from {base.strategy} by themselves: t-test, p < {ALPHA:g} adjusted over the map. With few "
        "seeds it rests on normal log ratios, which they cannot check."
    )
    return page.render([pooled, page.table(head, single, caption, sort=True, side=False), *folds])


def _cells(cells: Sequence[PairedCell], title: str) -> Markup:
    rows = [
        [axis_cell(cell.data_value), axis_cell(cell.physical_value), number(cell.pairs), _ratio_cell(cell.ratio),
         *(_p_cell(p) for p in (cell.t_p, cell.t_adjusted, cell.sign_flip_p, cell.sign_flip_adjusted)),
         _not_finite(cell)]
        for cell in cells if cell.pairs
    ]  # fmt: skip
    if not rows:
        return page.paragraph(f"{title}: no cell in which both have a run of the same seed.")
    one = cells[0]
    first, second = (labels.STRATEGIES.get(name, name) for name in (one.first, one.second))
    head = [one.data_name, one.physical_name, "pairs", "ratio", "t-test p", "adjusted", "sign-flip p", "adjusted",
            "not finite"]  # fmt: skip
    least = min(cell.smallest_p for cell in cells if cell.pairs)
    caption = f"{title}: {second} over {first}. No sign-flip p below {least:.3g} is possible with these seeds."
    return page.table(head, rows, caption, sort=True, side=False)


def _not_finite(cell: PairedCell) -> Cell:
    """Return in how many pairs which of the two left no finite value."""
    counts = {"both": cell.both_failed}
    for name, count in ((cell.first, cell.first_failed), (cell.second, cell.second_failed)):
        counts[labels.STRATEGIES.get(name, name)] = count
    return Cell(", ".join(f"{name} {count}" for name, count in counts.items() if count), kind="high")


def _ratio_cell(ratio: float) -> Cell:
    return Cell("", kind="none") if math.isnan(ratio) else number(ratio, f"{ratio:.3g}")


def _p_cell(p: float) -> Cell:
    return Cell("", kind="none") if math.isnan(p) else number(p, f"{p:.2g}")


def _system(one: Map) -> dict[str, str]:
    return {"model": one.train.model, "system": one.train.system}


def _runs(chosen: Sequence[Map]) -> list[Run]:
    return [run for one in chosen for run in one.runs]
