"""The metrics file of a run: one JSON object a line, never two for one step."""

import json
from pathlib import Path
from types import TracebackType
from typing import Any

from unisc.files import write_atomic


class MetricsLogger:
    """Appends lines to `path`; a run resumed at a step first drops the lines its lost steps had written. No path, no log."""

    def __init__(self, path: Path | None, *, resumed_step: int = 0):
        self._file = None
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line in _whole_lines(path) if json.loads(line)["step"] <= resumed_step]
        write_atomic(path, "".join(kept if resumed_step else []))
        self._file = path.open("a")

    def write(self, step: int, **values: Any) -> None:
        """Write one line and hand it to the system, so that a follower sees it."""
        if self._file is not None:
            self._file.write(json.dumps({"step": step, **values}, allow_nan=False) + "\n")
            self._file.flush()

    def __enter__(self) -> "MetricsLogger":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()


def _whole_lines(path: Path) -> list[str]:
    """Lines that were written to their end; a killed process may leave a torn last one."""
    return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")] if path.is_file() else []
