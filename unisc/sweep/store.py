"""Where a sweep's truth lies: a folder on a local or shared file system, or a bucket of an object store.

The one operation that must be atomic among writers is `create`. Everything else has a single writer at a time: the file of a
claim its claimer, a run's status and record the holder of its lease. So no store needs locks, nor a replacement on condition,
and a shared file system needs no more than hard links, an object store no more than a put that fails where something is.
"""

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from unisc.errors import InputError
from unisc.files import explained, make_folder, replace_quickly, write_atomic, write_once

READERS = 32
TRIES = 10


class Store(ABC):
    """Small texts by name, such as `runs/0123/record.json`. A reader sees a text whole or not at all."""

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """Return what is stored; None where nothing is, or it cannot be read."""

    def read_many(self, names: Sequence[str]) -> Iterator[bytes | None]:
        """Read several, in order."""
        return map(self.read, names)

    @abstractmethod
    def create(self, name: str, text: str, *, durable: bool = True) -> bool:
        """Store a text unless something is there; return whether this call did. Of several callers exactly one is told yes."""

    @abstractmethod
    def replace(self, name: str, text: str, *, durable: bool = False) -> None:
        """Store a text whatever is there; where not `durable`, a power cut may bring the old one back."""

    @abstractmethod
    def names(self, folder: str = "") -> list[str]:
        """Return the names directly inside a folder, sorted; none where there is no such folder."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a text, or a folder with all in it, if it is there."""

    @abstractmethod
    def at(self, folder: str) -> "Store":
        """Return the store that begins at a folder of this one."""

    @abstractmethod
    def show(self, name: str = "") -> str:
        """Return the full address of a name, for messages."""


class Folder(Store):
    """A folder; it may be on NFS, where `link` is atomic and locks are not to be relied on."""

    def __init__(self, root: Path, inside: str = ""):
        self.root, self._inside = root, inside
        self._prefix = f"{root}/{inside}/" if inside else f"{root}/"  # text: a Path costs more than opening the file

    @property
    def folder(self) -> Path:
        """Where this store begins."""
        return self.root / self._inside

    def read(self, name: str) -> bytes | None:
        try:
            with open(self._prefix + name, "rb", buffering=0) as file:  # noqa: PTH123
                return file.readall()
        except OSError:
            return None

    def create(self, name: str, text: str, *, durable: bool = True) -> bool:
        refused: InputError | None = None
        for _ in range(TRIES):
            try:
                with self._writing(name) as path:
                    return write_once(path, text, sync=durable)
            except InputError as e:
                if not isinstance(e.__cause__, FileNotFoundError | FileExistsError):
                    raise
                refused = e  # somebody removed the claims of a finished run just now; make their folder again
        raise refused or InputError(f"{self.show(name)}: cannot be written; give a folder that can be written")

    def replace(self, name: str, text: str, *, durable: bool = False) -> None:
        with self._writing(name) as path:
            (write_atomic if durable else replace_quickly)(path, text)

    def names(self, folder: str = "") -> list[str]:
        try:
            return sorted(os.listdir(self._prefix + folder))  # noqa: PTH208
        except (FileNotFoundError, NotADirectoryError):
            return []

    def remove(self, name: str) -> None:
        path = self.folder / name
        with suppress(FileNotFoundError), explained(path):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def at(self, folder: str) -> "Folder":
        return Folder(self.root, f"{self._inside}/{folder}" if self._inside else folder)

    def show(self, name: str = "") -> str:
        return (self._prefix + name).rstrip("/")

    @contextmanager
    def _writing(self, name: str) -> Iterator[Path]:
        """Give the path of a name in a folder that is there; the sweep's own folder is never made again."""
        path = self.folder / name
        if not path.parent.is_dir():
            if not self.root.exists():
                raise InputError(f"{self.root}: the folder has vanished; bring it back and type the command again")
            make_folder(path.parent)
        yield path


class ObjectStore(Store):
    """A bucket by URL (`s3://bucket/name`, `gs://`, `az://`; credentials from the environment), or a store of obstore's own."""

    def __init__(self, place: str | Any, inside: str = ""):
        try:
            import obstore
            from obstore.exceptions import AlreadyExistsError, BaseError
        except ModuleNotFoundError as e:
            raise InputError(f"{place}: object storage needs obstore; install unisc[objects]") from e
        self._api, self._exists, self._errors = obstore, AlreadyExistsError, (BaseError, OSError, ValueError)
        self._place, self._inside = place, inside.strip("/")
        with self._explained(""):
            self._bucket = obstore.store.from_url(place) if isinstance(place, str) else place

    def read(self, name: str) -> bytes | None:
        with self._explained(name):
            try:
                return bytes(self._api.get(self._bucket, self._key(name)).bytes())
            except FileNotFoundError:
                return None

    def read_many(self, names: Sequence[str]) -> Iterator[bytes | None]:
        with ThreadPoolExecutor(READERS) as pool:  # each waits for the network, not for a processor
            yield from pool.map(self.read, names)

    def create(self, name: str, text: str, *, durable: bool = True) -> bool:
        with self._explained(name):
            try:
                self._api.put(self._bucket, self._key(name), text.encode(), mode="create", use_multipart=False)
            except self._exists:
                # An answer lost on the way makes the client ask again, and the second asking finds the first one's text.
                return self.read(name) == text.encode()
            return True

    def replace(self, name: str, text: str, *, durable: bool = False) -> None:
        with self._explained(name):
            self._api.put(self._bucket, self._key(name), text.encode(), use_multipart=False)

    def names(self, folder: str = "") -> list[str]:
        with self._explained(folder):
            found = self._api.list_with_delimiter(self._bucket, self._key(folder) or None)
        keys = [*found["common_prefixes"], *(each["path"] for each in found["objects"])]
        return sorted(key.rstrip("/").rpartition("/")[2] for key in keys)

    def remove(self, name: str) -> None:
        with self._explained(name):
            pages = self._api.list(self._bucket, self._key(name))
            keys = [self._key(name), *(each["path"] for page in pages for each in page)]
            for key in keys:
                with suppress(FileNotFoundError):
                    self._api.delete(self._bucket, key)

    def at(self, folder: str) -> "ObjectStore":
        return ObjectStore(self._bucket if not isinstance(self._place, str) else self._place, self._key(folder))

    def show(self, name: str = "") -> str:
        place = self._place if isinstance(self._place, str) else type(self._place).__name__
        return "/".join(part for part in (place.rstrip("/"), self._key(name)) if part)

    def _key(self, name: str) -> str:
        return "/".join(part for part in (self._inside, name.strip("/")) if part)

    @contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        try:
            yield
        except self._errors as e:
            if isinstance(e, InputError):
                raise
            reason = " ".join(str(e).split("Debug source")[0].split())
            raise InputError(f"{self.show(name)}: {reason}; check the address and the credentials, then type it again") from e


def store_of(where: Store | Path | str) -> Store:
    """Return the store of a folder's path or a bucket's URL; a store is returned as it is."""
    if isinstance(where, Store):
        return where
    return ObjectStore(where) if isinstance(where, str) and "://" in where else Folder(Path(where))
