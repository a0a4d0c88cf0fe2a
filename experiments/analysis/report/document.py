"""The report of a results folder: the sections in their order, and the table of contents."""

from __future__ import annotations

from analysis.report import failures, overview, page, regimes, settings, strategies
from analysis.report.inputs import Results
from analysis.report.page import Markup

Entry = tuple[str, str, list[tuple[str, str]]]  # id, title, what is below


def write(results: Results) -> str:
    """Return the HTML file."""
    made, refused = regimes.build(results)
    entries: list[Entry] = []
    body: list[Markup] = []

    def add(name: str, title: str, *content: Markup, below: list[tuple[str, str]] | None = None) -> None:
        entries.append((name, title, below or []))
        body.append(page.tag("section", page.tag("h2", title), *content, id=name))

    add("overview", "Overview", overview.section(results))
    if made or refused:
        below = [(page.anchor("map", one.name), one.title) for one in made]
        add("maps", "Regime maps", *_maps(made, refused), below=below)
    compared = strategies.systems(made)
    if compared:
        below = [(page.anchor("compared", *key), f"{key[0]}, {key[1].replace('_', '-')}") for key in compared]
        parts = [strategies.section(chosen, name, title) for chosen, (name, title) in zip(compared.values(), below)]
        add("strategies", "Strategies compared", *parts, below=below)
    add("configuration", "Configuration", settings.section(results))
    add("failures", "Failed, diverged, unfinished and missing runs", failures.section(results))
    return page.page(f"Results of {results.name}", body[0], page.contents(entries), *body[1:])


def _maps(made: list[regimes.Map], refused: list[tuple[str, str]]) -> list[Markup]:
    parts = [page.paragraph(regimes.RULE, kind="note")]
    parts += [page.paragraph(f"No map of {name}: {reason}.", kind="warning") for name, reason in refused]
    for one in made:
        name = page.anchor("map", one.name)
        parts.append(page.tag("section", page.tag("h3", one.title), regimes.section(one), id=name))
    return parts
