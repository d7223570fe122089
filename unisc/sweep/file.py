"""A sweep file: Python that says what is to be run, with `runs(root, preset=...)` and, where data are to be made, `prepare`."""

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from unisc.errors import InputError
from unisc.files import dumps, object_in
from unisc.sweep.plan import DEFAULT_PREFIXES, Run
from unisc.sweep.store import Store

NAME = "sweep.json"


@dataclass(frozen=True, slots=True)
class SweepFile:
    """A loaded sweep file.

    Beside `runs` it may have `prepare(root, *, preset)`, `data_dir(root, *, preset)`, which is `root` by default, and
    `PREFIXES`, of the names of experiment modules outside `experiments/`.
    """

    path: Path
    module: ModuleType

    @classmethod
    def load(cls, path: Path) -> "SweepFile":
        """Import a sweep file. Raises InputError for no file, one that raises, and one without `runs`."""
        if not path.is_file():
            raise InputError(f"{path}: no such sweep file; give one like sweeps/uniscale.py")
        parts = path.with_suffix("").parts
        name = ".".join(parts) if all(part.isidentifier() for part in parts) else f"sweep_file_{path.stem}"
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise InputError(f"{path}: not a Python file; give one like sweeps/uniscale.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        found = cls(path, module)
        found._guarded(lambda: spec.loader.exec_module(module))  # type: ignore[union-attr]
        if not callable(getattr(module, "runs", None)):
            raise InputError(f"{path}: has no runs(root, *, preset); add one that returns the runs of a preset")
        return found

    @property
    def prefixes(self) -> tuple[str, ...]:
        """What the names of experiment modules may begin with."""
        return (*DEFAULT_PREFIXES, *getattr(self.module, "PREFIXES", ()))

    def prepare(self, root: Path, preset: str) -> None:
        """Make what the runs need and is not there."""
        if hasattr(self.module, "prepare"):
            self._guarded(lambda: self.module.prepare(root, preset=preset))

    def runs(self, root: Path, preset: str) -> list[Run]:
        """Return the runs of a preset."""
        return list(self._guarded(lambda: self.module.runs(root, preset=preset)))

    def data_dir(self, root: Path, preset: str) -> Path:
        """Return the folder in which the runs look for their data."""
        if hasattr(self.module, "data_dir"):
            return Path(self._guarded(lambda: self.module.data_dir(root, preset=preset)))
        return root

    def claim(self, store: Store, preset: str) -> None:
        """Write whose sweep a store is. Raises InputError where it is another file's or preset's."""
        own = {"file": self.path.name, "preset": preset}
        store.create(NAME, dumps(own))
        found = object_in(store.read(NAME)) or {}
        if found != own:
            there = f"sweep {found.get('file')} with preset {found.get('preset')}"
            raise InputError(f"{store.show()}: holds the {there}, not {self.path.name} with {preset}; give another --out")

    def _guarded(self, act: Callable[[], Any]) -> Any:
        try:
            return act()
        except (InputError, OSError, KeyboardInterrupt):
            raise
        except BaseException as e:  # SystemExit too: whatever is wrong with the file, it is the file that is to be mended
            line = " ".join(f"{type(e).__name__}: {e}".split())
            trace, number = e.__traceback__, None
            while trace is not None:
                if Path(trace.tb_frame.f_code.co_filename) == self.path:
                    number = trace.tb_lineno
                trace = trace.tb_next
            where = f"{self.path}, line {number}" if number else str(self.path)
            raise InputError(f"{where}: raised {line}; mend the sweep file") from e
