"""One HTML page that needs nothing else: text, tables that sort, figures as inline SVG with text as text; light and dark."""

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from unisc.files import make_folder, write_atomic
from unisc.report import style
from unisc.report.numbers import number

Cell = str | float | None | tuple[str, float]
"""Text; a number, which is written for the reader; or what to show for a number."""

_STYLE = """
:root {
  --ink: #1b1f24; --soft: #57606a; --line: #d8dee4; --page: #ffffff; --card: #f6f8fa; --accent: #0072b2;
  --holds: #0b5d46; --look: #9a3412;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e6e8eb; --soft: #9aa4af; --line: #30363d; --page: #14171b; --card: #1c2127; --accent: #6cb6e8;
    --holds: #4cc9a0; --look: #f0883e;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, "Segoe UI", Roboto, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2rem 1.1rem 4rem; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .5rem; }
p, li { max-width: 48rem; }
p { margin: .5rem 0; }
.facts, figcaption, .note { color: var(--soft); font-size: .86rem; }
.answer { border-left: 4px solid var(--accent); background: var(--card); padding: .8rem 1.1rem; margin: 1.2rem 0; }
.answer p { margin: .35rem 0; }
.answer p:first-child { font-size: 1.08rem; font-weight: 600; }
figure { margin: 1rem 0; }
figure .paper { background: #ffffff; border: 1px solid var(--line); border-radius: 6px; padding: .5rem; overflow-x: auto; }
figure svg { display: block; width: 100%; min-width: 34rem; height: auto; margin: 0 auto; }
figcaption { margin-top: .4rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .3rem; }
.caption { color: var(--soft); font-size: .86rem; margin: 1.1rem 0 -.3rem; max-width: none; }
nav ol { columns: 2 20rem; margin: .3rem 0; padding-left: 1.4rem; font-size: .92rem; }
nav a { color: var(--accent); text-decoration: none; } nav a:hover { text-decoration: underline; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: .6rem .8rem; overflow-x: auto; }
main.numbered { counter-reset: part; }
main.numbered h2:not(.plain) { counter-increment: part; }
main.numbered h2:not(.plain)::before { content: counter(part) ". "; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; margin: .7rem 0; }
.scroll.tall { max-height: 34rem; }
table { border-collapse: collapse; width: 100%; font-size: .84rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; text-align: right; vertical-align: top; border-bottom: 1px solid var(--line); }
th { background: var(--card); font-weight: 600; }
td:not(.text), td.value, .tall th, .tall td { white-space: nowrap; }
.tall th { position: sticky; top: 0; cursor: pointer; }
th.text, td.text { text-align: left; }
tr:last-child td { border-bottom: 0; }
.holds { color: var(--holds); } .look { color: var(--look); font-weight: 700; }
@media print {
  :root { --ink: #000; --soft: #444; --line: #bbb; --page: #fff; --card: #fff; --holds: #0b5d46; --look: #9a3412; }
  main { max-width: none; padding: 0; } figure, tr { break-inside: avoid; } .scroll { max-height: none; overflow: visible; }
  table { font-size: 7.5pt; } .tall th { position: static; } th, td { padding: .15rem .3rem; }
}
""".strip()

_CONTENTS = "<!-- contents -->"
_WORDS = {"holds": "holds", "look": "look", "same sign": "holds", "opposite sign": "look"}
"""Cells that are set off, and how."""
_VALUE = re.compile(r"[+−]?[\d.,e−]+ \[[^ ]+, [^ ]+\]$")
"""A value with its interval, which stays on one line."""

# Sorting is a convenience: without scripts the table reads the same in its first order.
_SORT = """
document.querySelectorAll(".tall table").forEach(table => table.querySelectorAll("th").forEach((head, column) =>
  head.addEventListener("click", () => {
    const body = table.tBodies[0], sign = (head.dataset.up = head.dataset.up ? "" : "1") ? 1 : -1;
    const key = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
    const order = (x, y) => isNaN(x) || isNaN(y) ? (x > y) - (x < y) : x - y;
    [...body.rows].sort((a, b) => sign * order(key(a), key(b))).forEach(row => body.append(row));
  })));
""".strip()


@dataclass(slots=True)
class Page:
    """The parts of a page in order; every text given is escaped, figures are our own SVG.

    Figures are numbered, and tables that have a caption. Once `contents` was called sections are numbered, too.
    """

    title: str
    parts: list[str] = field(default_factory=list)
    figures: int = 0
    tables: int = 0
    numbered: bool = False

    def heading(self, text: str, level: int = 2) -> None:
        """Start a section, or with level 3 a part of one."""
        anchor = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
        self.parts.append(f'<h{level} id="{anchor}">{escape(text)}</h{level}>')

    def contents(self) -> None:
        """Put the list of sections here, and number them; sections before it are not in it."""
        self.numbered = True
        self.parts.append(_CONTENTS)

    def code(self, text: str) -> None:
        """Add lines to be typed."""
        self.parts.append(f"<pre><code>{escape(text)}</code></pre>")

    def add(self, html: str) -> None:
        """Add sections that another page wrote (`body`); its figures and tables take their numbers from this one."""
        found = [[int(n) for n in re.findall(rf'id="{kind}-(\d+)"', html)] for kind in ("figure", "table")]
        for kind, before in (("Figure", self.figures), ("Table", self.tables)):
            html = _shifted(html, rf"(<b>{kind} )(\d+)(\.</b>)", before)
            html = _shifted(html, rf'(id="{kind.lower()}-)(\d+)(")', before)
        html = _shifted(html, r'((?:id="|url\(#|href="#)f)(\d+)(-)', self.figures)
        self.figures += max(found[0], default=0)
        self.tables += max(found[1], default=0)
        self.parts.append(html)

    def body(self) -> str:
        """Return the parts as HTML, without a document around them."""
        html = "\n".join(self.parts)
        if _CONTENTS not in html:
            return html
        before, after = html.split(_CONTENTS)
        links = re.findall(r'<h2 id="([^"]*)">(.*?)</h2>', after)
        items = "".join(f'<li><a href="#{anchor}">{text}</a></li>' for anchor, text in links)
        return f"{before.replace('<h2 ', '<h2 class=plain ')}<nav><ol>{items}</ol></nav>{after}"

    def text(self, *paragraphs: str, kind: str = "") -> None:
        """Add paragraphs; `kind` "facts" or "note" sets them small."""
        attribute = f' class="{kind}"' if kind else ""
        self.parts += [f"<p{attribute}>{escape(paragraph)}</p>" for paragraph in paragraphs]

    def answer(self, sentences: Iterable[str]) -> None:
        """Add what the page says first, set apart."""
        body = "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)
        self.parts.append(f'<div class="answer">{body}</div>')

    def items(self, sentences: Iterable[str]) -> None:
        """Add a list of sentences."""
        self.parts.append("<ul>" + "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences) + "</ul>")

    def table(
        self,
        header: Sequence[str],
        rows: Iterable[Sequence[Cell]],
        *,
        text: Collection[int] = (0,),
        sortable: bool = False,
        caption: str = "",
    ) -> None:
        """Add a table; columns numbered in `text` align left, cells whose word says how a check went are set off.

        A `sortable` table is sorted by a click on a column's head, and scrolls within a box where it is long. One with a
        `caption` gets a number.
        """
        if caption:
            self.tables += 1
            label = f"<b>Table {self.tables}.</b> {escape(caption)}"
            self.parts.append(f'<p class="caption" id="table-{self.tables}">{label}</p>')
        head = "".join(f"<th{_classes(name, column in text)}>{escape(name)}</th>" for column, name in enumerate(header))
        body = "".join("<tr>" + "".join(_cell(c, column in text) for column, c in enumerate(row)) + "</tr>" for row in rows)
        kind = "scroll tall" if sortable else "scroll"
        self.parts.append(f'<div class="{kind}"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>')

    def figure(self, figure: Figure | Path, caption: str) -> None:
        """Inline a figure, which is closed then, or an SVG file."""
        self.figures += 1
        svg = figure.read_text() if isinstance(figure, Path) else style.svg(figure)
        self.parts.append(
            f'<figure id="figure-{self.figures}"><div class="paper">{_inline(svg, f"f{self.figures}-", caption)}</div>'
            f"<figcaption><b>Figure {self.figures}.</b> {escape(caption)}</figcaption></figure>"
        )

    def write(self, out: Path, numbers: Mapping[str, Mapping[str, Any]]) -> Path:
        """Write `index.html` and, as JSON files by name, the numbers behind it; return the page's path.

        Raises:
          InputError: `out` cannot be written.
        """
        make_folder(out)
        for name, values in numbers.items():
            write_atomic(out / name, json.dumps(values, indent=1, allow_nan=False) + "\n")
        write_atomic(out / "index.html", self.html())
        return out / "index.html"

    def html(self) -> str:
        """Return the document."""
        return (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            '<meta name="color-scheme" content="light dark">\n'
            f"<title>{escape(self.title)}</title>\n<style>\n{_STYLE}\n</style>\n</head>\n"
            f"<body>\n<main{' class=numbered' if self.numbered else ''}>\n<h1>{escape(self.title)}</h1>\n"
            + self.body()
            + f"\n</main>\n<script>\n{_SORT}\n</script>\n</body>\n</html>\n"
        )


def _shifted(html: str, pattern: str, by: int) -> str:
    return re.sub(pattern, lambda found: f"{found[1]}{int(found[2]) + by}{found[3]}", html)


def _cell(cell: Cell, text: bool) -> str:
    if isinstance(cell, str):
        return f"<td{_classes(cell, text)}>{escape(cell)}</td>"
    shown, value = cell if isinstance(cell, tuple) else (number(cell), cell)
    # A number that is missing sorts below all others.
    key = -1e308 if value is None or value != value else value
    return f'<td{_classes(shown, text)} data-value="{key:.10g}">{escape(shown)}</td>'


def _classes(shown: str, text: bool) -> str:
    classes = ([_WORDS[shown]] if shown in _WORDS else []) + (["text"] if text else [])
    classes += ["value"] if _VALUE.match(shown) else []
    return f' class="{" ".join(classes)}"' if classes else ""


def _inline(svg: str, prefix: str, label: str) -> str:
    """Return an SVG document as an element: no prologue, ids unique on the page, a label for screen readers."""
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    for before, after in ((r'\bid="', f'id="{prefix}'), (r"url\(#", f"url(#{prefix}"), (r'href="#', f'href="#{prefix}')):
        svg = re.sub(before, after, svg)
    # The page scales figures down to its width, and not far above their own; the viewBox keeps their shape.
    found = re.search(r'<svg[^>]*? width="([\d.]+)pt"', svg)
    limit = f' style="max-width: {float(found[1]) * 1.5:.0f}px"' if found else ""
    for side in ("width", "height"):
        svg = re.sub(rf'(<svg[^>]*?) {side}="[^"]*"', r"\1", svg, count=1)
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(label, quote=True)}"{limit}', 1).strip()
