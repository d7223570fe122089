"""Write the report as one HTML file that needs nothing else: inline figures, a little style, a table that sorts."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

_STYLE = """
:root { --ink: #1b1f24; --soft: #57606a; --line: #d8dee4; --page: #ffffff; --card: #f6f8fa; --accent: #0072b2; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --soft: #9aa4af; --line: #30363d; --page: #14171b; --card: #1c2127; --accent: #6cb6e8; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 system-ui, "Segoe UI", Roboto, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2rem 1.1rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .5rem; }
p, li { max-width: 46rem; }
.facts, figcaption, .note { color: var(--soft); font-size: .86rem; }
.answer { border-left: 4px solid var(--accent); background: var(--card); padding: .8rem 1.1rem; margin: 1.2rem 0; }
.answer p { margin: .35rem 0; }
.answer p:first-child { font-size: 1.08rem; font-weight: 600; }
figure { margin: 1rem 0; }
figure .paper { background: #ffffff; border: 1px solid var(--line); border-radius: 6px; padding: .5rem; overflow-x: auto; }
figure svg { display: block; width: 100%; min-width: 34rem; height: auto; margin: 0 auto; }
figcaption { margin-top: .4rem; }
.scroll { overflow-x: auto; max-height: 34rem; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; width: 100%; font-size: .84rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { position: sticky; top: 0; background: var(--card); cursor: pointer; font-weight: 600; }
th.text, td.text { text-align: left; }
table:not(.sortable) td.text { white-space: normal; vertical-align: top; }
tr:last-child td { border-bottom: 0; }
@media print {
  :root { --ink: #000; --soft: #444; --line: #bbb; --page: #fff; --card: #fff; }
  main { max-width: none; padding: 0; } .scroll { max-height: none; overflow: visible; } figure { break-inside: avoid; }
  table { font-size: 7.5pt; } th { position: static; } th, td { padding: .15rem .3rem; }
}
""".strip()

# Sorting is a convenience: without scripts the table reads the same in plan order.
_SORT = """
document.querySelectorAll("table.sortable th").forEach((head, column) => head.addEventListener("click", () => {
  const body = head.closest("table").tBodies[0];
  const sign = (head.dataset.up = head.dataset.up ? "" : "1") ? 1 : -1;
  const key = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
  const order = (x, y) => isNaN(x) || isNaN(y) ? (x > y) - (x < y) : x - y;
  [...body.rows].sort((a, b) => sign * order(key(a), key(b))).forEach(row => body.append(row));
}));
""".strip()


@dataclass(slots=True)
class Page:
    """Collect the parts of one page in order; every text given is escaped, except figures, which are our own SVG."""

    title: str
    parts: list[str] = field(default_factory=list)
    figures: int = 0

    def heading(self, text: str) -> None:
        """Start a section."""
        anchor = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
        self.parts.append(f'<h2 id="{anchor}">{escape(text)}</h2>')

    def text(self, *paragraphs: str, kind: str = "") -> None:
        """Add paragraphs."""
        attribute = f' class="{kind}"' if kind else ""
        self.parts += [f"<p{attribute}>{escape(paragraph)}</p>" for paragraph in paragraphs]

    def answer(self, sentences: Iterable[str]) -> None:
        """Add the page's first paragraph, set apart."""
        body = "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)
        self.parts.append(f'<div class="answer">{body}</div>')

    def items(self, sentences: Iterable[str]) -> None:
        """Add a list of sentences."""
        self.parts.append("<ul>" + "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences) + "</ul>")

    def figure(self, svg_path: Path, caption: str) -> None:
        """Inline an SVG file with a caption."""
        self.figures += 1
        number = self.figures
        svg = inline_svg(svg_path.read_text(), f"f{number}-", caption)
        self.parts.append(
            f'<figure id="figure-{number}"><div class="paper">{svg}</div>'
            f"<figcaption><b>Figure {number}.</b> {escape(caption)}</figcaption></figure>"
        )

    def table(self, header: Sequence[str], rows: Iterable[Sequence[str | tuple[str, float]]], sortable: bool = False) -> None:
        """Add a table; a cell given as (text, number) sorts by its number and aligns right, plain text aligns left."""
        rows = list(rows)
        numeric = [bool(rows) and isinstance(rows[0][column], tuple) for column in range(len(header))]
        head = "".join(f"<th{'' if n else ' class=text'}>{escape(name)}</th>" for name, n in zip(header, numeric, strict=True))
        body = "".join("<tr>" + "".join(_cell(cell) for cell in row) + "</tr>" for row in rows)
        kind = ' class="sortable"' if sortable else ""
        self.parts.append(f'<div class="scroll"><table{kind}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>')

    def html(self) -> str:
        """Return the whole document."""
        return (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            '<meta name="color-scheme" content="light dark">\n'
            f"<title>{escape(self.title)}</title>\n<style>\n{_STYLE}\n</style>\n</head>\n"
            f"<body>\n<main>\n<h1>{escape(self.title)}</h1>\n"
            + "\n".join(self.parts)
            + f"\n</main>\n<script>\n{_SORT}\n</script>\n</body>\n</html>\n"
        )


def _cell(cell: str | tuple[str, float]) -> str:
    if isinstance(cell, tuple):
        text, value = cell
        return f'<td data-value="{value if value == value else -1e308:.10g}">{escape(text)}</td>'
    return f'<td class="text">{escape(cell)}</td>'


def inline_svg(svg: str, prefix: str, label: str) -> str:
    """Return an SVG document as an element: no prologue, ids made unique on the page, a label for screen readers."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    svg = re.sub(r"url\(#", f"url(#{prefix}", svg)
    svg = re.sub(r'href="#', f'href="#{prefix}', svg)
    # The page scales figures down to its width, and not far above their own; the viewBox keeps their shape.
    found = re.search(r'<svg[^>]*? width="([\d.]+)pt"', svg)
    limit = f' style="max-width: {float(found[1]) * 1.5:.0f}px"' if found else ""
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(label, quote=True)}"{limit}', 1).strip()
