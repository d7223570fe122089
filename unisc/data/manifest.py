"""The manifest every dataset directory carries: what it holds, how it was made, and checksums of every shard."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unisc.data.schema import SCHEMA_VERSION
from unisc.errors import InputError
from unisc.files import write_atomic

NAME = "manifest.json"
_LONGEST_NAME = 250
"""A longer one, which no program here writes, is an error of its own to the file system."""


def file_sha256(path: Path) -> str:
    """Return the hex sha256 of a file's bytes."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def write(directory: Path, *, kind: str, config: Mapping[str, Any], counts: Mapping[str, int], **extra: Any) -> dict[str, Any]:
    """Write `manifest.json` last and atomically, so that a directory with a manifest is complete.

    `kind` names the sort of dataset ("logs", "samples"), `config` is what made it (plain JSON values), `counts` its volumes.
    The `fingerprint` is the sha256 of kind, schema version, config and shard checksums: equal data, equal fingerprint.
    """
    # One search from the top would pass by a table that is a link to a folder.
    found = (p for top in directory.iterdir() for p in (top, *top.rglob("*")))
    shards = {
        str(p.relative_to(directory)): {"sha256": file_sha256(p), "bytes": p.stat().st_size}
        for p in sorted(found)
        if p.is_file() and p.name != NAME
    }
    identity = {
        "kind": kind,
        "schema_version": SCHEMA_VERSION,
        "config": dict(config),
        "shards": {name: s["sha256"] for name, s in shards.items()},
    }
    manifest = {
        "fingerprint": _digest(identity),
        **identity,
        "counts": dict(counts),
        **extra,
        "shards": shards,
    }
    write_atomic(directory / NAME, json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    return manifest


def fingerprint(manifest: Mapping[str, Any]) -> str:
    """Compute a manifest's fingerprint anew from what it covers, to compare with the one it states."""
    covered = {name: manifest[name] for name in ("kind", "schema_version", "config")}
    return _digest(covered | {"shards": {name: s["sha256"] for name, s in manifest["shards"].items()}})


def _digest(identity: Mapping[str, Any]) -> str:
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read(directory: Path, *, kind: str, verify: bool = False) -> dict[str, Any]:
    """Read a dataset's manifest and check that every shard is there with its size; with `verify`, also its checksum.

    Raises:
      InputError: no directory, no manifest, another kind, another schema version, a shard that does not match, or a Parquet
        file in a folder that is none of the shards (readers take all that lie there). A manifest that names no shard at all
        is held to none.
    """
    path = directory / NAME
    if not path.is_file():
        raise InputError(f"{directory}: no {NAME}, so not a finished {kind} directory; make it again or give another path")
    try:
        manifest = json.loads(path.read_text())
        found, version, _ = manifest["kind"], manifest["schema_version"], str(manifest["fingerprint"])
        shards = {name: (int(shard["bytes"]), shard["sha256"]) for name, shard in manifest["shards"].items()}
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as e:
        raise InputError(f"{path}: not a readable manifest ({_short(e)}); make the directory again") from e
    if found != kind:
        raise InputError(f"{directory}: holds {_short(found)}, but {kind} are needed here; give another path")
    if version != SCHEMA_VERSION:
        raise InputError(f"{directory}: schema version {_short(version)}, this program reads {SCHEMA_VERSION}; make it again")
    for name, (num_bytes, sha256) in shards.items():
        file = directory / name
        if len(name) > _LONGEST_NAME or not file.is_file():
            raise InputError(f"{directory / _short(name)}: named by the manifest but missing; make {directory} again")
        if file.stat().st_size != num_bytes or (verify and file_sha256(file) != sha256):
            raise InputError(f"{file}: does not match the manifest's size or checksum; make {directory} again")
    for file in sorted(directory.glob("*/*.parquet")) if shards else ():
        if f"{file.parent.name}/{file.name}" not in shards:
            raise InputError(f"{file}: not named by the manifest; remove it, or make {directory} again")
    return manifest


def _short(value: object) -> str:
    """Show a value from a manifest that may hold anything, in part of a line."""
    return " ".join(str(value).split())[:100]
