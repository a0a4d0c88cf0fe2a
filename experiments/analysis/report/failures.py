"""What went wrong or is not there: failed, diverged, unfinished, unreadable and missing runs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from analysis import labels
from analysis.collect import Run, axis_order
from analysis.report import page
from analysis.report.inputs import Failure, Missing, Results, map_name
from analysis.report.page import Cell, Content, Markup, number, plural
from analysis.report.regimes import axis_cell
from analysis.tasks import Task

MOST_LOGS = 20
TRACEBACK = 6000  # characters of a traceback that are shown, from its end


def section(results: Results) -> Markup:
    """Return each kind with its count, why the runs ended, and the tasks that are not through."""
    diverged = [run for run in results.runs if run.status == "diverged"]
    kinds = [
        ("Failed", "run", len(results.failures), _failed),
        ("Unfinished", "run", len(results.unfinished), _unfinished),
        ("Unreadable", "file", len(results.unreadable), _unreadable),
        ("Diverged", "run", len(diverged), lambda _: [_diverged(diverged)]),
        ("Missing", "run", len(results.missing), _missing),
    ]
    parts: list[Content] = []
    none = [name.lower() for name, _, count, _ in kinds if not count]
    if results.is_table:
        none = [name for name in none if name in ("diverged", "missing")]
        text = "A table holds finished runs only: failed, unfinished and unreadable ones are not known."
        parts.append(page.paragraph(text, kind="note"))
    if none:
        parts.append(page.paragraph(f"None: {', '.join(none)}."))
    for name, noun, count, show in kinds:
        if count:
            parts += [page.tag("h3", f"{name}: {plural(count, noun)}"), *show(results)]
    return page.render([*parts, *_stop_reasons(results), *_tasks(results)])


def _diverged(runs: Sequence[Run]) -> Markup:
    rows = [
        [map_name(run), axis_cell(run.physical_value), axis_cell(run.data_value), number(run.seed),
         *(number(value, f"{value:.3e}" if math.isfinite(value) else "not finite")
           for value in (run.train_loss, run.test_error)),
         run.stop_reason or "not recorded", number(run.iterations, f"{run.iterations:,.0f}"), run.path]
        for run in runs
    ]  # fmt: skip
    head = ["map", "physical", "data", "seed", "training loss", "test error", "stop reason", "iterations", "folder"]
    return _folded(page.table(head, rows, "They stand in the maps like all others.", sort=True), len(rows))


def _failed(results: Results) -> list[Content]:
    """Return the failed runs, those of one error together: a task that fails takes its runs down with one message."""
    groups: dict[str, list[Failure]] = {}
    for failure in results.failures:
        groups.setdefault(failure.error, []).append(failure)
    blocks: list[Content] = []
    for error, runs in sorted(groups.items(), key=lambda item: -len(item[1])):
        text = runs[0].traceback
        shown = text if len(text) <= TRACEBACK else "…" + text[-TRACEBACK:]
        trace = [page.paragraph(f"Traceback of {runs[0].path}:"), page.tag("pre", shown)] if text else []
        names = page.bullets(page.tag("code", run.path) for run in runs)
        head = f"{plural(len(runs), 'run')}: {error if len(error) <= 300 else error[:300] + '…'}"
        logs = _logs(results, [run.path for run in runs])
        blocks.append(page.fold(head, names, *trace, *logs, shown=len(blocks) < 3))
    return blocks


def _logs(results: Results, paths: Iterable[str]) -> list[Content]:
    """Return the ends of the logs of the tasks that fill these runs."""
    tasks = dict.fromkeys(task for path in paths if (task := results.task_of(path)))
    return [block for task in list(tasks)[:MOST_LOGS] for block in _log(results, task)]


def _log(results: Results, task: Task) -> list[Content]:
    text = results.log_tail(task)
    name = page.tag("code", f"logs/{task.file_name}.log")
    if not text:
        return [page.paragraph("Task ", page.tag("code", task.label), ": no log ", name, ".")]
    return [page.paragraph("Task ", page.tag("code", task.label), ": end of ", name, ":"), page.tag("pre", text)]


def _unreadable(results: Results) -> list[Content]:
    rows = [[page.tag("code", path), reason] for path, reason in results.unreadable]
    return [_folded(page.table(["file", "reason"], rows, kind="text", side=False), len(rows))]


def _unfinished(results: Results) -> list[Content]:
    paths = results.unfinished
    return [_folded(page.bullets(page.tag("code", path) for path in paths), len(paths))]


def _folded(block: Markup, count: int) -> Markup:
    """Return the block, folded where it is long."""
    return block if count <= 10 else page.fold(f"All {count}", block)


def _missing(results: Results) -> list[Content]:
    """Return a table of cells for each map that lacks runs: the seeds that are missing there."""
    groups: dict[str, list[Missing]] = {}
    for run in results.missing:
        groups.setdefault(run.sweep, []).append(run)
    blocks: list[Content] = []
    for name, runs in sorted(groups.items()):
        first = runs[0]
        if not first.physical_name:  # a run folder whose path says nothing
            blocks.append(page.bullets(page.tag("code", run.path) for run in runs))
            continue
        physical = sorted({run.physical for run in runs}, key=axis_order)
        data = sorted({run.data for run in runs}, key=axis_order, reverse=True)
        seeds: dict[tuple[object, object], list[int]] = {}
        for run in runs:
            seeds.setdefault((run.data, run.physical), []).append(run.seed)
        rows = []
        for amount in data:
            cells = [", ".join(map(str, sorted(seeds.get((amount, value), [])))) for value in physical]
            rows.append([labels.axis_text(amount), *(Cell(text, kind="high") for text in cells)])
        head = [f"{first.data_name} \\ {first.physical_name}", *map(labels.axis_text, physical)]
        caption = f"{name}: {plural(len(runs), 'run')} missing. Numbers are seeds, by cell."
        block = page.table(head, rows, caption)
        blocks.append(block if len(rows) <= 10 else page.fold(caption, block))
    return blocks


def _stop_reasons(results: Results) -> list[Content]:
    """Return why the runs ended, by map."""
    counts: dict[str, Counter[str]] = {}
    for run in results.runs:
        counts.setdefault(map_name(run), Counter())[run.stop_reason or "not recorded"] += 1
    if not counts:
        return []
    reasons = sorted(set().union(*counts.values()))
    rows = [[name, *(number(count[reason]) for reason in reasons)] for name, count in sorted(counts.items())]
    return [page.tag("h3", "Why runs ended"), page.table(["map", *reasons], rows, "Finished runs by stop reason.")]


def _tasks(results: Results) -> list[Content]:
    """Return the tasks that are not through, with their commands and the ends of their logs."""
    done = {run.path for run in results.runs}
    left = [(task, sum(path not in done for path in task.runs)) for task in results.tasks]
    left = [(task, count) for task, count in left if count]
    if not left:
        return []
    blocks: list[Content] = [page.tag("h3", f"Tasks that are not through: {len(left)} of {len(results.tasks)}")]
    failed = {failure.path for failure in results.failures}
    for k, (task, count) in enumerate(left):
        above = not failed.isdisjoint(task.runs)  # then its log stands with the failed runs
        body = [page.tag("pre", task.command), *(_log(results, task) if k < MOST_LOGS and not above else [])]
        blocks.append(page.fold(f"{task.label}: {count} of {plural(len(task.runs), 'run')} without a result", *body))
    if len(left) > MOST_LOGS:
        blocks.append(page.paragraph(f"Logs of the first {MOST_LOGS} are shown.", kind="note"))
    return blocks
