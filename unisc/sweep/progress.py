"""The time left, on screen all along: one live line on a terminal, a plain line every few seconds elsewhere."""

import sys
import time
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from unisc.sweep.status import Summary

LINE_SECS = 5.0


class Display:
    """Shows summaries of a sweep under a title; a context manager and a callable."""

    def __init__(self, title: str = "sweep", *, file: TextIO | None = None, line_secs: float = LINE_SECS) -> None:
        self._title = title
        self._line_secs = line_secs
        self._console = Console(file=file or sys.stderr)
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None
        self._shown_at = -float("inf")
        self._last = ""

    def __enter__(self) -> "Display":
        if self._live is not None:
            self._live.start()
        return self

    def __call__(self, summary: Summary) -> None:
        """Show a summary: at once on a terminal, elsewhere when the last line is old enough or nothing is left to do."""
        text = f"{self._title}: {summary}"
        if self._live is not None:
            row = Table.grid(padding=(0, 1))
            row.add_row(text, ProgressBar(total=max(summary.total, 1), completed=summary.done, width=30))
            self._live.update(row, refresh=True)
            return
        is_over = not (summary.running or summary.pending)
        if text != self._last and (is_over or time.monotonic() - self._shown_at >= self._line_secs):
            self._shown_at, self._last = time.monotonic(), text
            print(text, file=self._console.file, flush=True)

    def note(self, text: str) -> None:
        """Print one line that stays."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()
