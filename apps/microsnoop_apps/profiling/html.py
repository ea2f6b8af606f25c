"""A report as one HTML file that needs nothing else, and as Markdown beside its pictures.

Whatever is put in is text: markup in it is shown, never obeyed, in both files.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from microsnoop.core.errors import InputError
from microsnoop.io.parts import write_atomic
from microsnoop_apps.evaluation.tables import markdown

Rows = Sequence[Sequence[object]]
_Block = Callable[[Path], tuple[str, str]]

_PNG = b"\x89PNG\r\n\x1a\n"
_SCREEN_SHARE = 96 / 150  # pixels of a screen for each of a picture, which is drawn at 150 to the inch
# control characters, halves of surrogate pairs, and marks that turn the direction of the text around them
_UNWRITABLE = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069\ufffe\uffff]")
_MARKUP = re.compile(r"[\\`*\[\]~$]|(?<!\w)_|_(?!\w)")
_BLOCK_MARKUP = re.compile(r"^(?:([#+=-])|(\d+)([.)])(?=\s|$))")
_NUMBER = re.compile(r"[<>≤≥~±+−-]?\s*\.?\d")
_NO_VALUE = {"", "-", "–", "—", "nan", "n/a"}
_CSS = """
:root { color-scheme: light dark; --ink: #1d1d22; --pale: #5f5f69; --paper: #fff; --line: #d9d9de; --band: #f4f4f7;
  --accent: #005b94; --warn: #b26a00; --warn-paper: #fff6e5; --bad: #b3261e; --bad-paper: #fdecea; }
@media (prefers-color-scheme: dark) { :root { --ink: #ececf0; --pale: #a5a5b0; --paper: #17171b; --line: #3a3a42;
  --band: #212127; --accent: #7cc4f5; --warn: #f0b04f; --warn-paper: #33270f; --bad: #ff8a80; --bad-paper: #3d1714; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.2rem 4rem; max-width: 70rem; color: var(--ink); background: var(--paper);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; overflow-wrap: anywhere; }
h1, h2, h3, h4 { line-height: 1.25; margin: 2.2rem 0 .7rem; } h1 { font-size: 1.9rem; margin-top: 0; }
h2 { font-size: 1.35rem; padding-bottom: .25rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1.1rem; } h4 { font-size: 1rem; } p, .finding li, figcaption { max-width: 46rem; }
a { color: var(--accent); } nav { background: var(--band); border-radius: 6px; padding: .8rem 1.2rem; }
nav ul { margin: 0; padding: 0; list-style: none; columns: 17rem auto; } nav .l3 { padding-left: 1rem; }
nav .l4 { padding-left: 2rem; }
.wide { overflow-x: auto; margin: 1rem 0; } table { border-collapse: collapse; font-size: .875rem; }
th, td { padding: .35rem .75rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line);
  overflow-wrap: normal; } thead th { background: var(--band); vertical-align: bottom; }
.n { text-align: right; font-variant-numeric: tabular-nums; } thead .n { white-space: normal; }
td.n { white-space: nowrap; } tr.chosen td { font-weight: 650; background: var(--band); }
pre { margin: 0; white-space: pre-wrap; font: .8rem/1.45 ui-monospace, Menlo, Consolas, monospace; }
.finding { margin: .6rem 0; padding: .6rem 1rem; border-left: 5px solid var(--warn); background: var(--warn-paper);
  border-radius: 0 5px 5px 0; } .finding b { color: var(--warn); margin-right: .5rem; }
.finding.strong { border-color: var(--bad); background: var(--bad-paper); } .finding.strong b { color: var(--bad); }
figure { margin: 1.2rem 0; } figcaption { color: var(--pale); font-size: .875rem; margin-top: .5rem; }
img { max-width: 100%; height: auto; background: #fff; border: 1px solid var(--line); border-radius: 5px; }
details { margin: .8rem 0; } summary { cursor: pointer; color: var(--accent); }
@media print { :root { --ink: #000; --paper: #fff; --pale: #444; --line: #bbb; --band: #f2f2f2; --accent: #000;
  --warn: #8a5200; --warn-paper: #fff; --bad: #a00; --bad-paper: #fff; } body { max-width: none; padding: 0;
  font-size: 10pt; } .wide { overflow: visible; } figure, .finding, tr { break-inside: avoid; }
  h2, h3, h4 { break-after: avoid; } details::details-content { content-visibility: visible; block-size: auto; } }
"""
# the policy lets the file load nothing at all, whatever else might be wrong with it
_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{css}</style>
</head>
<body>"""


class Document:
    """A report that is put together from top to bottom and then written."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._blocks: list[_Block] = []
        self._anchors: dict[str, tuple[str, int]] = {}

    def heading(self, text: str, level: int = 2) -> None:
        """Begin a section; level 2 to 4, the title of the report being level 1.

        Raises
        ------
        ValueError
            Another level.
        """
        if not 2 <= level <= 4:
            raise ValueError(f"a heading has level 2 to 4, got {level}")
        stem = re.sub(r"\W+", "-", _clean(text).lower()).strip("-") or "section"
        anchor, times = stem, 1
        while anchor in self._anchors:
            times += 1
            anchor = f"{stem}-{times}"
        self._anchors[anchor] = (text, level)
        self._add(f'<h{level} id="{_html(anchor)}">{_html(text)}</h{level}>', f"{'#' * level} {_md(text)}")

    def paragraph(self, text: str) -> None:
        """Add a paragraph."""
        self._add(f"<p>{_html(text)}</p>", _md_block(text))

    def findings(self, found: Sequence[tuple[str, str, bool]]) -> None:
        """Add a call-out for each (code, message, strong), the strong ones first and in red."""
        if not found:
            self.paragraph("Nothing was found.")
        for code, message, strong in sorted(found, key=lambda finding: not finding[2]):
            kind, name = ("finding strong", f"strong: {code}") if strong else ("finding", code)
            self._add(
                f'<div class="{kind}" role="note"><b>{_html(name)}</b> {_html(message)}</div>',
                f"> **{_md(name)}** {_md(message)}",
            )

    def table(
        self,
        header: Sequence[str],
        rows: Rows,
        *,
        numeric: Collection[int] | None = None,
        bold: int | None = None,
        best: Collection[tuple[int, int]] = (),
    ) -> None:
        """Add a table.

        Parameters
        ----------
        header, rows
            Names of the columns (c,) and their cells (r, c).
        numeric
            Columns that stand to the right; by default those that have only numbers, the first one excepted.
        bold, best
            A row, and (row, column) of cells, that are set in bold.

        Raises
        ------
        ValueError
            A row with another number of cells than the header.
        """
        self._add(*_table(header, rows, numeric, bold, best))

    def picture(self, path: Path, caption: str, *, alt: str = "") -> None:
        """Add a PNG file; ``alt`` is read out in its place, by default the caption. It is read when written."""

        def block(folder: Path) -> tuple[str, str]:
            data, width, height = _read_png(path)
            size = f'width="{width}" height="{height}"'
            image = f'<img src="data:image/png;base64,{data}" alt="{_html(alt or caption)}" {size}>'
            link = quote(os.fsencode(os.path.relpath(path, folder)))
            return (
                f"<figure>{image}<figcaption>{_html(caption)}</figcaption></figure>",
                f"![{_md(alt or caption)}]({link})\n\n{_md_block(caption)}",
            )

        self._blocks.append(block)

    def details(self, summary: str, content: Sequence[str] | tuple[Sequence[str], Rows]) -> None:
        """Add lines, or a table as (header, rows), that are folded away until somebody wants them."""
        if isinstance(content, tuple) and len(content) == 2 and not isinstance(content[0], str):
            inner = _table(content[0], content[1], None, None, ())
        else:
            lines = [str(line) for line in content]
            items = "\n".join(f"<li>{_html(line)}</li>" for line in lines)
            inner = f"<ul>\n{items}\n</ul>", "\n".join(f"- {_md_block(line)}" for line in lines)
        title = _html(summary)
        entities = _MARKUP.sub(lambda m: f"&#{ord(m[0])};", title)  # HTML within Markdown knows no backslash
        self._add(
            f"<details><summary>{title}</summary>\n{inner[0]}\n</details>",
            f"<details><summary>{entities}</summary>\n\n{inner[1]}\n\n</details>",
        )

    def provenance(self, facts: Mapping[str, Any]) -> None:
        """Add what the report was made from: names and values, nested ones as JSON."""
        texts = [(name, fact if isinstance(fact, str) else _json(fact)) for name, fact in facts.items()]
        lines = [
            f'<tr><th scope="row">{_html(name)}</th><td><pre>{_html(text, lines=True)}</pre></td></tr>'
            for name, text in texts
        ]
        table = "\n".join(['<div class="wide"><table><tbody>', *lines, "</tbody></table></div>"])
        self._add(table, _md_table(("what", "value"), [[_md(name), _md(text)] for name, text in texts], ()))

    def write(self, folder: Path) -> Path:
        """Write ``report.html`` and ``report.md``, each whole or not at all; return the path of the first.

        Raises
        ------
        InputError
            A picture that is missing or no PNG; then nothing is written.
        """
        blocks = [block(folder) for block in self._blocks]
        page = [_HEAD.format(title=_html(self._title), css=_CSS), f"<h1>{_html(self._title)}</h1>"]
        if self._anchors:
            entries = (
                f'<li class="l{level}"><a href="#{_html(anchor)}">{_html(text)}</a></li>'
                for anchor, (text, level) in self._anchors.items()
            )
            page += ['<nav aria-label="Contents"><ul>', *entries, "</ul></nav>"]
        page += ["<main>", *(html for html, _ in blocks), "</main>", "</body>", "</html>", ""]
        text = "\n\n".join([f"# {_md(self._title)}", *(md for _, md in blocks)])
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / "report.md", f"{text}\n".encode())
        write_atomic(folder / "report.html", "\n".join(page).encode())
        return folder / "report.html"

    def _add(self, html: str, md: str) -> None:
        self._blocks.append(lambda _: (html, md))


def _clean(text: object, lines: bool = False) -> str:
    """Return text in one line, or in its lines, without what a file cannot hold or must not obey."""
    parts = str(text).splitlines() if lines else [" ".join(str(text).split())]
    return "\n".join(_UNWRITABLE.sub("\ufffd", part) for part in parts)


def _html(text: object, lines: bool = False) -> str:
    return escape(_clean(text, lines))


def _md(text: object) -> str:
    return _MARKUP.sub(r"\\\g<0>", escape(_clean(text), quote=False))


def _md_block(text: object) -> str:
    """Return text that begins a block: no list, no heading."""
    return _BLOCK_MARKUP.sub(lambda m: f"\\{m[1]}" if m[1] else f"{m[2]}\\{m[3]}", _md(text))


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, default=str)


def _table(
    header: Sequence[str],
    rows: Rows,
    numeric: Collection[int] | None,
    bold: int | None,
    best: Collection[tuple[int, int]],
) -> tuple[str, str]:
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"a row of {len(row)} cells in a table of {len(header)} columns: {row!r:.200}")
    if numeric is None:
        numeric = [c for c in range(1, len(header)) if _is_numeric([row[c] for row in rows])]
    kind = [' class="n"' if c in numeric else "" for c in range(len(header))]
    names = (f'<th scope="col"{k}>{_html(name)}</th>' for k, name in zip(kind, header, strict=True))
    lines = ['<div class="wide"><table>', f"<thead><tr>{''.join(names)}</tr></thead>", "<tbody>"]
    marked = []
    for r, row in enumerate(rows):
        strong = [(r == bold or (r, c) in best) and bool(_clean(cell)) for c, cell in enumerate(row)]
        cells = [f"<b>{_html(cell)}</b>" if s else _html(cell) for cell, s in zip(row, strong, strict=True)]
        lines.append('<tr class="chosen">' if r == bold else "<tr>")
        lines += [f"<td{k}>{cell}</td>" for k, cell in zip(kind, cells, strict=True)]
        lines.append("</tr>")
        marked.append([f"**{_md(c)}**" if s else _md(c) for c, s in zip(row, strong, strict=True)])
    return "\n".join([*lines, "</tbody>", "</table></div>"]), _md_table(header, marked, numeric)


def _md_table(header: Sequence[str], rows: Rows, right: Collection[int]) -> str:
    """Return the table as Markdown; cells are escaped, but for the ``|`` that :func:`markdown` escapes."""
    names = [_md(name).replace("|", "\\|") for name in header]
    head, _, *body = markdown(names, [[str(cell) for cell in row] for row in rows]).splitlines()
    rule = "|" + "|".join("---:" if c in right else "---" for c in range(len(header))) + "|"
    return "\n".join([head, rule, *body])


def _is_numeric(cells: Sequence[object]) -> bool:
    texts = [text for cell in cells if (text := _clean(cell).lower()) not in _NO_VALUE]
    return bool(texts) and all(_NUMBER.match(text) for text in texts)


def _read_png(path: Path) -> tuple[str, int, int]:
    """Return the file as base64, and its width and height on a screen in pixels."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"the picture {path} cannot be read: {error.strerror}") from error
    if not data.startswith(_PNG) or len(data) < 24:
        raise InputError(f"the picture {path} is not a PNG file")
    width, height = (round(_SCREEN_SHARE * int.from_bytes(data[i : i + 4])) for i in (16, 20))
    return base64.b64encode(data).decode(), width, height
