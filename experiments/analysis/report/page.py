"""HTML of the report: elements, tables, pictures, and the page around them.

Text is escaped wherever it comes from; only what the functions here return (`Markup`) goes into the page as it is. The
page loads nothing: style and script stand in it, pictures are data. Its content security policy says so to the browser,
and allows the one script by its hash, so that a script from a file's text could not run even if it got in.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

STYLE = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
SCRIPT = (Path(__file__).parent / "page.js").read_text(encoding="utf-8")
# What HTML does not allow even escaped: control characters and lone surrogates.
FORBIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
VOID = ("img", "meta")
DPI = 100


class Markup(str):
    """HTML that is escaped already."""


Content = str | Iterable[Any]  # text, which is escaped; Markup, which is not; or a sequence of these


@dataclass(frozen=True)
class Cell:
    """A table cell: its text, the number it is sorted by (None: by its text), and its class and style."""

    content: Content
    value: float | None = None
    kind: str = ""
    style: str = ""
    title: str = ""


def render(content: Content) -> Markup:
    """Return text escaped, Markup as it is, and a sequence of them joined."""
    if isinstance(content, Markup):
        return content
    if isinstance(content, str):
        return Markup(html.escape(FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", content)))
    return Markup("".join(render(part) for part in content))


def tag(element: str, /, *content: Content, **attributes: str | None) -> Markup:
    """Return an element; `class_` and `data_x` stand for class and data-x, an attribute of None is left out."""
    given = ((key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items() if value is not None)
    head = "".join(f' {key}="{render(value)}"' for key, value in given)
    return Markup(f"<{element}{head}>" if element in VOID else f"<{element}{head}>{render(content)}</{element}>")


def anchor(*parts: str) -> str:
    """Return an id made of words: letters, digits and hyphens, the same for the same words."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-") or "x"


def plural(count: int, noun: str) -> str:
    """Return "1 run", "2 runs", "1,296 runs"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def table(
    head: Sequence[Content], rows: Iterable[Sequence[Content | Cell]], caption: Content = "", *, sort: bool = False,
    side: bool = True, kind: str = "",
) -> Markup:  # fmt: skip
    """Return a table below its caption.

    Args:
        head: the names of the columns.
        rows: the cells; text is aligned left, a `Cell` with a value right.
        caption: what it shows, with units.
        sort: a click on a heading sorts.
        side: the first cell of a row is its heading.
        kind: more classes of the table.
    """
    body = []
    for row in rows:
        cells = [cell if isinstance(cell, Cell) else Cell(cell) for cell in row]
        body.append(tag("tr", [_cell(cell, "th" if side and k == 0 else "td") for k, cell in enumerate(cells)]))
    heads = tag("thead", tag("tr", [tag("th", name, scope="col") for name in head]))
    classes = " ".join(filter(None, ("sortable" if sort else "", kind))) or None
    return _figure(tag("table", heads, tag("tbody", body), class_=classes), caption, above=True)


def _figure(content: Markup, caption: Content, above: bool = False) -> Markup:
    """Return a table or picture in a box that scrolls by itself where it is wider than the page, and its caption."""
    parts = [tag("div", content, class_="wide", tabindex="0"), *([tag("figcaption", caption)] if caption else [])]
    return tag("figure", *(reversed(parts) if above else parts))


def _cell(cell: Cell, name: str) -> Markup:
    kind = " ".join(filter(None, ("number" if cell.value is not None else "", cell.kind))) or None
    value = None if cell.value is None else str(cell.value).replace("inf", "Infinity")  # as JavaScript reads it
    return tag(name, cell.content, class_=kind, style=cell.style or None, title=cell.title or None,
               scope="row" if name == "th" else None, data_v=value)  # fmt: skip


def number(value: float, text: str | None = None, **more: str) -> Cell:
    """Return a right-aligned cell of a number that is sorted by it."""
    return Cell(f"{value:g}" if text is None else text, float(value), **more)


def pairs(rows: Iterable[tuple[Content, Content]]) -> Markup:
    """Return a table of two columns, names and values, without headings."""
    body = [tag("tr", tag("th", name, scope="row"), tag("td", value)) for name, value in rows]
    return _figure(tag("table", tag("tbody", body), class_="pairs"), "")


def fold(summary: Content, *content: Content, shown: bool = False) -> Markup:
    """Return a block that opens at a click on its summary; printing opens it too."""
    return tag("details", tag("summary", summary), *content, open="" if shown else None)


def paragraph(*content: Content, kind: str | None = None) -> Markup:
    """Return a paragraph."""
    return tag("p", *content, class_=kind)


def bullets(items: Iterable[Content]) -> Markup:
    """Return a bulleted list."""
    return tag("ul", [tag("li", item) for item in items])


def png(figure: Figure, dpi: float = DPI) -> tuple[bytes, int, int]:
    """Return a figure as PNG with a palette of 128 colours, and its width and height in pixels.

    A regime map takes 50 kB so: a quarter of the full PNG, a fifth of SVG.
    """
    full, small = io.BytesIO(), io.BytesIO()
    figure.savefig(full, format="png", dpi=dpi)
    with Image.open(full) as image:
        image.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(small, "png", optimize=True)
        return small.getvalue(), *image.size


def picture(figure: Figure, alt: str, caption: Content, dpi: float = DPI) -> Markup:
    """Return a figure with its caption; `alt` says in words what is to be seen."""
    data, width, height = png(figure, dpi)
    source = "data:image/png;base64," + base64.b64encode(data).decode()
    image = tag("img", src=source, alt=alt, width=str(width), height=str(height))
    return _figure(image, caption)


def tried(make: Callable[..., Markup], *arguments: object) -> Markup:
    """Return what `make` makes, or why it cannot: the values, axes or names of the runs do not allow it."""
    try:
        return make(*arguments)
    except ValueError as error:
        return paragraph(f"Not possible: {str(error).strip()}.", kind="warning")


def contents(entries: Iterable[tuple[str, str, Sequence[tuple[str, str]]]]) -> Markup:
    """Return the table of contents from (id, title, [(id, title) of what is below])."""

    def links(pairs: Iterable[tuple[str, str]]) -> list[Markup]:
        return [tag("a", title, href=f"#{name}") for name, title in pairs]

    items = []
    for name, title, below in entries:
        inner = tag("ul", [tag("li", link) for link in links(below)]) if below else ""
        items.append(tag("li", links([(name, title)]), inner))
    return tag("nav", tag("h2", "Contents"), tag("ul", items), aria_label="Contents")


def page(title: str, *body: Content) -> str:
    """Return the whole file."""
    hashed = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{hashed}'"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Markup(STYLE)),
    )
    main = tag("body", tag("main", tag("h1", title), *body), tag("script", Markup(SCRIPT)))
    return f"<!DOCTYPE html>\n{tag('html', head, main, lang='en')}\n"
