"""The folder a build works in: finished units stay in it, so that a build that was killed continues where it was."""

import contextlib
import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from unisc.errors import InputError


class Workplace:
    """Units of one build as folders: a folder is there if its unit is finished, and is not made again."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.made: list[str] = []
        """Units made by this process, in order."""

    def unit(self, name: str, make: Callable[[Path], None]) -> Path:
        """Return the unit's folder; where it is not finished yet, `make` fills it aside and it is moved into place."""
        done = self.root / name
        if not done.is_dir():
            aside = self.root / f"{name}.part"
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir()
            make(aside)
            aside.rename(done)
            self.made.append(name)
        return done

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """Lend an empty folder that is gone afterwards."""
        folder = self.root / "scratch"
        shutil.rmtree(folder, ignore_errors=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def workplace(parent: Path, name: str, identity: Mapping[str, Any]) -> Iterator[Workplace]:
    """Open the folder of the build that `identity` describes, beside its output; remove it when the build is finished.

    A build that stops keeps its folder if some unit after the intake is finished, else it leaves nothing.

    Raises:
      InputError: another process is building the same.
    """
    text = json.dumps(dict(identity), sort_keys=True)
    root = parent / f".{name}.es3-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    root.mkdir(parents=True, exist_ok=True)
    place = Workplace(root)
    with (root / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise InputError(f"{parent / name}: another process is building it; wait for it or end it") from e
        except OSError:
            pass  # a file system without locks: two builds would do double work, not wrong work
        (root / "build.json").write_text(text)
        try:
            yield place
        except BaseException:
            if not (root / "shared").is_dir():
                shutil.rmtree(root, ignore_errors=True)
            raise
        shutil.rmtree(root, ignore_errors=True)
