"""One light HTML page that needs nothing else: tables, figures as inline SVG with text as text, and how numbers are written."""

import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from unisc.errors import InputError
from unisc.files import write_atomic

_STYLE = """
:root { --ink: #1b1f24; --soft: #57606a; --line: #d8dee4; --card: #f6f8fa; --look: #9a3412; --holds: #0b5d46; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink); font: 16px/1.5 system-ui, "Segoe UI", Roboto, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2rem 1.1rem 4rem; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .5rem; }
p { max-width: 48rem; margin: .5rem 0; }
.facts, figcaption { color: var(--soft); font-size: .86rem; }
figure { margin: 1rem 0; }
figure svg { display: block; width: 100%; height: auto; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; margin: .7rem 0; }
table { border-collapse: collapse; width: 100%; font-size: .84rem; font-variant-numeric: tabular-nums; }
td:not(.text) { white-space: nowrap; }
th, td { padding: .3rem .6rem; text-align: right; vertical-align: top; border-bottom: 1px solid var(--line); }
th { background: var(--card); font-weight: 600; }
th.text, td.text { text-align: left; }
tr:last-child td { border-bottom: 0; }
.holds { color: var(--holds); } .look { color: var(--look); font-weight: 700; }
@media print { main { max-width: none; padding: 0; } figure, tr { break-inside: avoid; } table { font-size: 7.5pt; } }
""".strip()


@dataclass(slots=True)
class Page:
    """The parts of a page in order; every text given is escaped, figures are our own SVG."""

    title: str
    parts: list[str] = field(default_factory=list)
    figures: int = 0

    def heading(self, text: str) -> None:
        """Start a section."""
        anchor = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
        self.parts.append(f'<h2 id="{anchor}">{escape(text)}</h2>')

    def text(self, *paragraphs: str, kind: str = "") -> None:
        """Add paragraphs; `kind` "facts" sets them small."""
        attribute = f' class="{kind}"' if kind else ""
        self.parts += [f"<p{attribute}>{escape(paragraph)}</p>" for paragraph in paragraphs]

    def table(self, header: Sequence[str], rows: Iterable[Sequence[Any]], text: Sequence[int] = (0,)) -> None:
        """Add a table; columns numbered in `text` align left, "holds" and "look" are set off."""
        head = "".join(_cell("th", name, column in text) for column, name in enumerate(header))
        body = "".join(
            "<tr>" + "".join(_cell("td", cell, column in text) for column, cell in enumerate(row)) + "</tr>" for row in rows
        )
        self.parts.append(f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>')

    def figure(self, fig: Figure, caption: str) -> None:
        """Inline a figure, at most as large as drawn, and close it."""
        self.figures += 1
        label = f"Figure {self.figures}. {caption}"
        self.parts.append(f"<figure>{_svg(fig, f'f{self.figures}-', label)}<figcaption>{escape(label)}</figcaption></figure>")

    def write(self, out: Path, numbers: Mapping[str, Any]) -> None:
        """Write the page as `index.html` and the numbers behind it as `quality.json`. Raises InputError if it cannot be."""
        try:
            out.mkdir(parents=True, exist_ok=True)
            text = json.dumps(numbers, indent=1, sort_keys=True, allow_nan=False) + "\n"
            write_atomic(out / "quality.json", text)
            write_atomic(out / "index.html", self.html())
        except OSError as e:
            raise InputError(f"{e.filename or out}: {e.strerror or e}; check that the folder is writable and has space") from e

    def html(self) -> str:
        """Return the document."""
        return (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="color-scheme" content="light">\n'
            f"<title>{escape(self.title)}</title>\n<style>\n{_STYLE}\n</style>\n</head>\n"
            f"<body>\n<main>\n<h1>{escape(self.title)}</h1>\n" + "\n".join(self.parts) + "\n</main>\n</body>\n</html>\n"
        )


def _cell(tag: str, value: Any, text: bool) -> str:
    shown = value if isinstance(value, str) else number(value)
    classes = ([shown] if shown in ("holds", "look") else []) + (["text"] if text else [])
    attribute = f' class="{" ".join(classes)}"' if classes else ""
    return f"<{tag}{attribute}>{escape(shown)}</{tag}>"


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Name every leaf of nested numbers and words by its path, as rows of a table."""
    for name, value in values.items():
        path = f"{prefix}{name}".replace("_", " ")
        if isinstance(value, Mapping):
            yield from flatten(value, f"{path}, ")
        elif isinstance(value, list | tuple):
            yield path, ", ".join(str(v) for v in value)
        else:
            yield path, number(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def number(value: float | None, digits: int = 3) -> str:
    """Write a whole number with its thousands, another to some significant digits; None as n/a."""
    if value is None or value != value:
        return "n/a"
    if value == 0 or isinstance(value, int) or (value == round(value) and abs(value) >= 10 ** (digits - 1)):
        return f"{round(value):,}".replace("-", "−")
    return (f"{value:.{digits}g}" if abs(value) >= 1e-4 else f"{value:.1e}").replace("-", "−")


def percent(share: float | None) -> str:
    """Write a share in per cent, to a tenth where that says something; None as n/a."""
    if share is None:
        return "n/a"
    return f"{share:.0%}" if share in (0, 1) else f"{share:.1%}" if 0.001 <= share <= 0.999 else f"{share:.2%}"


def duration(seconds: float | None) -> str:
    """Write seconds in the largest unit that leaves at least one of it."""
    if seconds is None:
        return "n/a"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def _svg(fig: Figure, prefix: str, label: str) -> str:
    """Return a figure as an element: no prologue, ids unique on the page, a label for screen readers."""
    buffer = io.StringIO()
    fig.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    width = fig.get_figwidth() * 96
    plt.close(fig)
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    for before, after in ((r'\bid="', f'id="{prefix}'), (r"url\(#", f"url(#{prefix}"), (r'href="#', f'href="#{prefix}')):
        svg = re.sub(before, after, svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    start = f'<svg role="img" aria-label="{escape(label, quote=True)}" style="max-width: {width:.0f}px"'
    return svg.replace("<svg", start, 1).strip()
