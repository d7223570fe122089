"""Files a killed process cannot leave half-written, and one clear line for each way a folder can fail."""

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from unisc.config import canonical
from unisc.errors import InputError

FULL = (errno.ENOSPC, errno.EDQUOT)
_counter = count()


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an operating system's refusal to write `path` into one InputError line with the remedy."""
    try:
        yield
    except OSError as e:
        reason = os.strerror(e.errno) if e.errno else str(e)
        remedy = "free some space and type the command again" if e.errno in FULL else "give a folder that can be written"
        raise InputError(f"{path}: cannot be written ({reason}); {remedy}") from e


def write_atomic(path: Path, text: str) -> None:
    """Replace a file so that a reader, even after a power cut, sees the old text or the new, never a part."""
    with explained(path):
        _replace(path, _write_beside(path, text))
        _sync_folder(path.parent)


def write_once(path: Path, text: str, *, sync: bool = True) -> bool:
    """Write a file atomically unless it is already there; return whether this call wrote it.

    By a hard link, which also NFS makes atomically; with `sync` it survives a power cut.
    """
    with explained(path):
        temporary = _write_beside(path, text, sync=sync)
        try:
            path.hardlink_to(temporary)
        except FileExistsError:
            # NFS answers so as well when it has made the link but its first answer was lost; the count of links tells.
            return temporary.stat().st_nlink == 2
        finally:
            temporary.unlink(missing_ok=True)
        if sync:
            _sync_folder(path.parent)
        return True


def replace_quickly(path: Path, text: str) -> None:
    """Replace a file atomically for readers, without the cost of a disk flush: for heartbeats and progress."""
    with explained(path):
        _replace(path, _write_beside(path, text, sync=False))


def read_object(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file, or None where the file is missing, cut short or not an object."""
    try:
        return object_in(path.read_bytes())
    except OSError:
        return None


def object_in(text: bytes | None) -> dict[str, Any] | None:
    """Return the JSON object that a text is, or None where it is none."""
    try:
        found = None if text is None else json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def dumps(value: Mapping[str, Any]) -> str:
    """Return one line of canonical JSON with its newline."""
    return canonical(value) + "\n"


def make_folder(path: Path) -> Path:
    """Create a folder and its parents, or raise one InputError line; return the path."""
    with explained(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def refuse_existing(out: Path) -> None:
    """Raise InputError if an output folder is there and holds something."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: already exists; remove it or give another output folder")


@contextmanager
def new_directory(out: Path) -> Iterator[Path]:
    """Give a folder to write in, which becomes `out` once the block ends without an error.

    Raises:
      InputError: `out` holds something, or cannot be written.
    """
    refuse_existing(out)
    aside = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
        yield aside
        aside.chmod(0o755)
        aside.rename(out)
    except OSError as e:
        raise InputError(f"{e.filename or out}: {e.strerror or e}; check that the folder is writable and has space") from e
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)


def _write_beside(path: Path, text: str, *, sync: bool = True) -> Path:
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{next(_counter)}.tmp")
    handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as f:
            f.write(text)
            f.flush()
            if sync:
                os.fsync(f.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _replace(path: Path, temporary: Path) -> None:
    try:
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
