"""Reads UBI documents (one JSON object a line) into queries and events (see `ubi` for what they mean)."""

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from unisc.errors import InputError

_EARLIEST, _LATEST = 946_684_800, 4_102_444_800
_LARGEST_ORDINAL = 2**15 - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Query:
    """All documents of one query_id; `ts` in unix seconds."""

    query_id: str
    client: str
    ts: int
    text: str | None
    application: str | None
    hits: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One action or impression on an item; `ordinal` as logged, None where it is no slot."""

    action: str
    query_id: str
    client: str
    item: str
    ts: int
    ordinal: int | None
    description: str


@dataclass(kw_only=True, slots=True)
class Documents:
    """What the files hold: queries by their first document, wanted events in order, and what was dropped, by reason."""

    queries: list[Query] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    num_queries: int = 0
    num_events: int = 0
    num_others: int = 0
    num_retyped: int = 0
    dropped_queries: Counter[str] = field(default_factory=Counter)
    dropped_events: Counter[str] = field(default_factory=Counter)


def read_documents(files: Collection[Path], *, wanted: Collection[str]) -> Documents:
    """Read all documents; events of actions not `wanted` are counted and left out.

    Raises:
      InputError: a file that cannot be read, a line that is no JSON object.
    """
    made = Documents()
    calls: dict[str, list[Query]] = {}
    for file in files:
        for document in _documents(file):
            if "action_name" in document:
                made.num_events += 1
                if (event := _event(document, wanted, made.dropped_events)) is not None:
                    made.events.append(event)
            elif "query_id" in document:
                made.num_queries += 1
                if (query := _query(document, made.dropped_queries)) is not None:
                    calls.setdefault(query.query_id, []).append(query)
            else:
                made.num_others += 1
    for same in calls.values():
        said = next((q for q in same if q.hits), same[0])
        hits = tuple(dict.fromkeys(h for q in sorted(same, key=lambda q: q.ts) for h in q.hits))
        made.queries.append(replace(said, ts=min(q.ts for q in same), hits=hits))
        made.dropped_queries["further document of a query_id"] += len(same) - 1
        made.num_retyped += len({q.text for q in same}) > 1
    return made


def _documents(file: Path) -> Iterator[dict[str, Any]]:
    opened = gzip.open if file.suffix == ".gz" else open
    number = 0
    try:
        with opened(file, "rt", encoding="utf-8-sig", newline="\n") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                document = json.loads(line)
                if not isinstance(document, dict):
                    raise InputError(f"{file}: line {number} is no JSON object; give one document a line")
                if (
                    len(document) == 1
                    and isinstance(next(iter(document.values())), dict)
                    and not document.keys() - {"index", "create"}
                ):
                    continue
                source = document.get("_source")
                yield source if isinstance(source, dict) else document
    except UnicodeDecodeError as e:
        raise InputError(f"{file}: not UTF-8 after line {number}; write it as UTF-8") from e
    except (ValueError, RecursionError) as e:
        if isinstance(e, InputError):
            raise
        raise InputError(f"{file}: line {number} is not JSON ({' '.join(str(e).split())[:80]}); correct or remove it") from e
    except (OSError, EOFError, zlib.error) as e:
        raise InputError(f"{file}: cannot be read after line {number} ({' '.join(str(e).split())[:80]}); fetch it again") from e


def _query(document: dict[str, Any], dropped: Counter[str]) -> Query | None:
    query_id, client, ts = (
        _name(document.get("query_id")),
        _name(document.get("client_id")),
        _seconds(document.get("timestamp")),
    )
    if query_id is None or client is None or ts is None:
        dropped["no query_id, client_id or time"] += 1
        return None
    hits, text = document.get("query_response_hit_ids"), document.get("user_query")
    return Query(
        query_id=query_id,
        client=client,
        ts=ts,
        text=_clean(text) or None if isinstance(text, str) else None,
        application=_name(document.get("application")),
        hits=tuple(h for h in map(_name, hits) if h is not None) if isinstance(hits, list) else (),
    )


def _event(document: dict[str, Any], wanted: Collection[str], dropped: Counter[str]) -> Event | None:
    action = document["action_name"]
    if not isinstance(action, str) or action not in wanted:
        dropped[f"action {_clean(str(action))[:40]}"] += 1
        return None
    about = _inside(document.get("event_attributes"))
    thing, position = _inside(about.get("object")), _inside(about.get("position"))
    query_id, client, item = _name(document.get("query_id")), _name(document.get("client_id")), _name(thing.get("object_id"))
    ts = _seconds(document.get("timestamp"))
    for missing, what in ((client, "client_id"), (item, "object_id"), (ts, "time")):
        if missing is None:
            dropped[f"{action} without {what}"] += 1
            return None
    assert client is not None and item is not None and ts is not None
    ordinal, description = position.get("ordinal"), thing.get("description")
    return Event(
        action=action,
        query_id=query_id or "",
        client=client,
        item=item,
        ts=ts,
        ordinal=ordinal if type(ordinal) is int and 0 <= ordinal <= _LARGEST_ORDINAL else None,
        description=_clean(description) if isinstance(description, str) else "",
    )


def _inside(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _name(value: Any) -> str | None:
    """An id as text; None where it is empty or no id."""
    if type(value) is int:
        return str(value)
    return _clean(value) or None if isinstance(value, str) else None


def _clean(text: str) -> str:
    """Text that UTF-8 can write: JSON may hold halves of surrogate pairs."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _seconds(value: Any) -> int | None:
    """Unix seconds, rounded down, of ISO text or of unix milliseconds; None where it is neither or not of this century."""
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
            value = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000
        except (ValueError, OverflowError):
            return None
    if type(value) not in (int, float) or not 1000 * _EARLIEST <= value < 1000 * _LATEST:
        return None
    return int(value // 1000)
