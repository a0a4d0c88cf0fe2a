"""The head of the report: what was run, when, on what, and how far it got."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime

from analysis import collect, labels
from analysis.collect import AxisValue, Run
from analysis.report import page
from analysis.report.inputs import Results, map_name, sweep_folder
from analysis.report.page import Content, Markup

STATES = ("done", "diverged", "failed", "unfinished", "unreadable", "missing")


def section(results: Results) -> Markup:
    """Return the head: a table of facts, and the states of the runs by map."""
    facts = [
        ("Models", _names(run.model for run in results.runs)),
        ("Systems", _names(run.system for run in results.runs)),
        ("Strategies", _names(labels.STRATEGIES.get(run.strategy, run.strategy) for run in results.runs)),
        ("Grid", [page.tag("div", line) for line in grids(results.runs)] or "no finished run"),
        ("Runs", _states_text(results)),
        ("When", _times(results)),
        ("Compute", _compute(results.runs)),
    ]
    facts += [(title, _values(results, keys)) for title, keys in _environment_keys(results)]
    return Markup(page.pairs(facts) + _states_table(results) + page.render([_note(n) for n in results.notes]))


def grids(runs: Iterable[Run]) -> list[str]:
    """Return the grid of each model and system in words: "PINN convection: beta 5, 15 x n 100, 1000 x seeds 0, 1"."""
    found: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        found.setdefault((run.model, run.system), []).append(run)
    lines = []
    for (model, system), chosen in sorted(found.items()):
        parts = [
            f"{'/'.join(sorted({getattr(run, f'{axis}_name') for run in chosen}))} "
            + _listed({getattr(run, f"{axis}_value") for run in chosen})
            for axis in ("physical", "data")
        ]
        seeds = _listed({float(run.seed) for run in chosen})
        lines.append(f"{model} {system}: {parts[0]} × {parts[1]} × seed {seeds}")
    return lines


def _listed(values: Iterable[AxisValue]) -> str:
    return ", ".join(labels.axis_text(value) for value in sorted(values, key=collect.axis_order))


def _names(values: Iterable[str]) -> str:
    return ", ".join(sorted(set(values))) or "no finished run"


def state_counts(results: Results) -> dict[str, Counter[str]]:
    """Return the number of runs by map and state; `diverged` ones are `done` too.

    A map without a finished run goes by its folder.
    """
    names = {sweep_folder(run.path): map_name(run) for run in results.runs}

    def place(path: str) -> str:
        return names.get(sweep_folder(path), sweep_folder(path))

    states = [(map_name(run), "done") for run in results.runs]
    states += [(map_name(run), "diverged") for run in results.runs if run.status == "diverged"]
    states += [(place(failure.path), "failed") for failure in results.failures]
    states += [(place(path), "unfinished") for path in results.unfinished]
    states += [(place(path.removesuffix("/metrics.json")), "unreadable") for path, _ in results.unreadable]
    states += [(run.sweep, "missing") for run in results.missing]
    counts: dict[str, Counter[str]] = {}
    for name, state in states:
        counts.setdefault(name, Counter())[state] += 1
    return dict(sorted(counts.items()))


def _states(results: Results) -> list[str]:
    """Return the states that can be known: a table has finished runs alone."""
    return [state for state in STATES if not (results.is_table and state in ("failed", "unfinished", "unreadable"))]


def _states_text(results: Results) -> str:
    total = sum(state_counts(results).values(), Counter())
    text = f"{page.plural(total['done'], 'run')} done, of which {total['diverged']} diverged"
    text += "".join(f"; {total[state]:,} {state}" for state in _states(results)[2:])
    if results.expected:
        return f"{text}; tasks.sh expects {len(results.expected):,}"
    return f"{text} (no tasks.sh that names run folders: missing is what the full grid of values and seeds found lacks)"


def _states_table(results: Results) -> Markup:
    seconds: Counter[str] = Counter()
    for run in results.runs:
        seconds[map_name(run)] += 0.0 if math.isnan(run.seconds) else run.seconds
    counts = state_counts(results)
    if len(counts) > 1:
        counts["all"] = sum(counts.values(), Counter())
        seconds["all"] = sum(seconds.values())
    rows = [
        [name, *(page.number(count[s], f"{count[s]:,}", kind=_kind(s, count)) for s in _states(results)),
         page.number(seconds[name], f"{seconds[name]:,.0f}")]
        for name, count in counts.items()
    ]  # fmt: skip
    head = ["map", *_states(results), "wall time of the runs, s"]
    return page.table(head, rows, "Runs by map and state; diverged runs are among those done.")


def _kind(state: str, count: Counter[str]) -> str:
    return "high" if state != "done" and count[state] else ""


def _times(results: Results) -> str:
    if results.ended is None:
        return "unknown: no finished run"
    if results.is_table:
        return f"table written {moment(results.ended)}"
    began = f"first run begun {moment(results.began)}, " if results.began is not None else ""
    return f"{began}last run finished {moment(results.ended)} (times of the files)"


def moment(seconds: float) -> str:
    """Return seconds since 1970 as "2026-11-21 16:31 UTC"."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _compute(runs: Iterable[Run]) -> str:
    """Return the time spent; runs that train side by side in one process each record the wall time of all."""
    runs = [run for run in runs if math.isfinite(run.seconds)]
    alone = sum(run.seconds for run in runs)
    shared = sum(run.seconds / max(1.0, run.value("metrics.runs_side_by_side") or 1.0) for run in runs)
    if shared == alone:
        return _duration(alone)
    return (f"{_duration(shared)}: the wall time of every run divided by the number of runs that "
            f"trained side by side in its process. Sum of the wall times as such: {alone:,.0f} s")  # fmt: skip


def _duration(seconds: float) -> str:
    return f"{seconds:,.0f} s" + (f" ({seconds / 3600:,.1f} h)" if seconds >= 3600 else "")


def _environment_keys(results: Results) -> list[tuple[str, list[str]]]:
    """Return what is shown of the environment: devices, versions, commits."""
    keys = dict.fromkeys(key for values in results.environments.values() for key in values)
    versions = [key for key in keys if key not in ("device", "git_commit", "platform", "threads", "hostname")]
    return [("Devices", ["device"]), ("Versions", versions), ("Git commits", ["git_commit"])]


def _values(results: Results, keys: list[str]) -> Content:
    """Return the values of some keys with the number of runs that have them, most frequent first."""
    total = len(results.environments)
    lines = []
    for key in keys:
        found = Counter(values[key] for values in results.environments.values() if key in values)
        texts = [value if n == total else f"{value} ({page.plural(n, 'run')})" for value, n in found.most_common()]
        if texts:
            lines.append((f"{key} " if len(keys) > 1 else "") + ", ".join(texts))
    if not lines:
        return "not in the table" if results.is_table else "not recorded"
    return [page.tag("div", line) for line in lines]


def _note(text: str) -> Markup:
    return page.paragraph(text, kind="warning")
