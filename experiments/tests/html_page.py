"""A report's page as a test reads it."""

from __future__ import annotations

from html.parser import HTMLParser

from analysis.report import page


class Page(HTMLParser):
    """The page as tables, {caption: rows of cell texts}, and what it may load; checks that elements close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.resources: list[str] = []
        self.scripts = 0
        self.handlers: list[str] = []
        self.images: list[dict[str, str]] = []
        self._open: list[str] = []
        self._rows: list[list[str]] = []
        self._caption = ""
        self.ids: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        if name not in page.VOID:
            self._open.append(name)
        values = dict(attributes)
        self.resources += [values[key] or "" for key in ("src", "href", "action", "data") if key in values]
        self.handlers += [key for key in values if key.startswith("on")]
        self.ids += [values["id"]] if "id" in values else []
        self.scripts += name == "script"
        if name == "img":
            self.images.append(values)
        if name == "figure":
            self._caption = ""
        elif name == "table":
            self._rows = []
        elif name == "tr":
            self._rows.append([])
        elif name in ("td", "th"):
            self._rows[-1].append("")

    def handle_endtag(self, name: str) -> None:
        assert self._open.pop() == name
        if name == "table":
            title = self._caption or " ".join(self._rows[0])
            assert title not in self.tables or self._caption, f"two tables without a caption: {title}"
            self.tables.setdefault(title, []).extend(self._rows)

    def handle_data(self, text: str) -> None:
        if "figcaption" in self._open:
            self._caption += text
        elif {"td", "th"} & set(self._open):
            self._rows[-1][-1] += text

    def table(self, start: str) -> list[list[str]]:
        """Return the first table whose caption starts so."""
        return next(rows for caption, rows in self.tables.items() if caption.startswith(start))
