"""Sections that other modules add to the page of a study: the one place that lists them.

Each is of another sweep, whose folder lies in the study's: `phase/`, `labels/` and `online/`. A module of `SECTIONS` may have
a function `study_section(work: Path) -> str | None`. It is given the study's work folder and
returns the HTML of its section, or None where the folder holds nothing of it. The easiest way to write one is a page's body:

    page = Page("")
    page.heading("Where pooling starts to hurt")
    page.text("...")
    page.figure(fig, "...")
    return page.body()

Figures and tables are numbered on from the page's own, so a section does not name its own by number. It starts with a second-
level heading, which the list of contents takes up. A module that cannot be found, or that has no such function, is
passed over.
"""

import importlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

SECTIONS = ("analysis.phase", "analysis.label_quality", "analysis.online_agreement")


def sections(work: Path | None) -> Iterator[str]:
    """Yield the HTML of every extra section that has something to say of a study's work folder."""
    for name in SECTIONS if work is not None else ():
        if importlib.util.find_spec(name) is None:
            continue
        section = getattr(importlib.import_module(name), "study_section", None)
        if section is not None and (html := section(work)):
            yield html
