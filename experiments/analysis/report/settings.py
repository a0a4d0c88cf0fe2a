"""The configuration of the runs: what all share once, what differs by map, what was swept; environments likewise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from analysis.collect import axis_order
from analysis.report import page
from analysis.report.inputs import Results, map_name, sweep_folder
from analysis.report.page import Cell, Content, Markup

ABSENT = "(absent)"
Groups = Mapping[str, Sequence[Mapping[str, str]]]  # map -> the settings of each run
SHOWN = 12  # values of one setting that are written out


def section(results: Results) -> Markup:
    """Return the tables of arguments and environments."""
    if results.is_table:
        return page.paragraph(
            "The report is of a table, which has the results of the runs but not their arguments and environment; a "
            "report of the folder with the run folders has them."
        )
    names = {sweep_folder(run.path): map_name(run) for run in results.runs}
    blocks: list[Content] = []
    for title, values in (("Arguments", results.configs), ("Environment", results.environments)):
        groups: dict[str, list[Mapping[str, str]]] = {}
        for path, settings in values.items():
            groups.setdefault(names.get(sweep_folder(path), sweep_folder(path)), []).append(settings)
        blocks += [page.tag("h3", title), *tables(groups, title.lower())]
    return page.render(blocks)


def split(groups: Groups) -> tuple[dict[str, str], dict[str, dict[str, Counter[str]]]]:
    """Return the settings that all runs share, and the others: setting -> map -> values with their number of runs.

    A setting that a run does not have counts as one more value, "(absent)".
    """
    keys = dict.fromkeys(key for runs in groups.values() for settings in runs for key in settings)
    same, other = {}, {}
    for key in keys:
        found = {name: Counter(settings.get(key, ABSENT) for settings in runs) for name, runs in groups.items()}
        values = set().union(*found.values())
        if len(values) == 1:
            same[key] = values.pop()
        else:
            other[key] = found
    return same, other


def tables(groups: Groups, what: str) -> list[Markup]:
    """Return the tables of settings of runs that are grouped by map."""
    same, other = split(groups)
    total = sum(map(len, groups.values()))
    names = sorted(groups)
    parts = []
    if other:
        steady = {key: found for key, found in other.items() if all(len(values) == 1 for values in found.values())}
        for chosen, caption in (
            (steady, f"{what.capitalize()} that differ from map to map."),
            ({key: found for key, found in other.items() if key not in steady},
             f"{what.capitalize()} that differ from run to run within a map: all values."),
        ):  # fmt: skip
            rows = [[page.tag("code", key), *(_cell(found[name]) for name in names)] for key, found in chosen.items()]
            if rows:
                parts.append(page.table(["", *names], rows, caption, kind="text"))
    rows = [(page.tag("code", key), value) for key, value in same.items()]
    if rows:
        title = f"{what.capitalize()} common to all {page.plural(total, 'run')}: {len(rows)}"
        parts.append(page.fold(title, page.pairs(rows), shown=len(rows) <= 20))
    return parts or [page.paragraph("None recorded.")]


def _cell(values: Counter[str]) -> Cell:
    ordered = sorted(values, key=axis_order)
    if len(ordered) > SHOWN:
        return Cell(f"{', '.join(ordered[:SHOWN - 1])}, … {ordered[-1]} ({len(ordered)} values)")
    return Cell(", ".join(ordered), kind="note" if ordered == [ABSENT] else "")
