"""From a source to a directory of interests: a tokenizer learned on the train side's texts, and everything in its ids."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_gen.interests import logs, sequences
from data_gen.interests.config import VERSION, InterestsConfig
from data_gen.interests.found import Found
from data_gen.public.dataset import read_manifest
from unisc.data import manifest
from unisc.data.interests import Catalogue, Examples, save
from unisc.data.ragged import Ragged
from unisc.data.text import train_tokenizer
from unisc.errors import InputError
from unisc.files import new_directory, refuse_existing


def build(path: Path, out: Path, config: InterestsConfig) -> dict[str, Any]:
    """Write the interests of log tables, or of a converted directory of sequences or interactions; return their manifest.

    Spaces around texts are cut. An item without text is a row without tokens, a page without a query one without query tokens;
    items of equal titles stay apart. `quality` counts these, and what was cut or left out.

    Raises:
      InputError: a directory of another kind, a source with a fault or without examples, a vocabulary too small for bytes, an
        output folder that holds something or cannot be written.
    """
    refuse_existing(out)
    found, made_from = _read(path, config)
    titles, queries = ([text.strip() for text in texts] for texts in (found.titles, found.queries))
    corpus = list(dict.fromkeys(text for text in (*titles, *(queries[q] for q in found.train_queries)) if text))
    tokenizer = train_tokenizer(corpus, vocab_size=config.vocab_size)
    with new_directory(out) as aside:
        return save(
            aside,
            catalogue=Catalogue(
                item_id=np.arange(len(titles)),
                text=tokenizer.encode(titles),
                category=found.category,
                brand=found.brand,
                visual=found.visual,
            ),
            splits=_examples(found, tokenizer.encode([*queries, ""])),
            known=found.known,
            corpus=tokenizer.encode(corpus),
            tokenizer=tokenizer,
            is_ordered=found.is_ordered,
            config={**asdict(config), "domains": list(config.domains), "version": VERSION, "made_from": made_from},
            quality={**_text_quality(titles, queries), **found.quality},
        )


def _read(path: Path, config: InterestsConfig) -> tuple[Found, dict[str, Any]]:
    try:
        kind = json.loads((path / manifest.NAME).read_text())["kind"]
    except (OSError, ValueError, LookupError, TypeError):
        kind = "logs"  # the reader of logs says what is wrong
    if kind == "sequences":
        about = read_manifest(path, verify=True)
        found = sequences.read(path, config)
    elif kind == "logs":
        about = {} if not (path / manifest.NAME).is_file() else manifest.read(path, kind="logs")
        found = logs.read(path, config, generator=about.get("generator"), converted="source" in about.get("config", {}))
    else:
        raise InputError(
            f"{path}: holds {str(kind)[:40]}; give log tables, or a converted directory of sequences or interactions"
        )
    source = about["config"].get("source", about.get("generator"))
    return found, {"kind": kind, "source": source, "fingerprint": about["fingerprint"]}


def _examples(found: Found, queries: Ragged) -> dict[str, Examples]:
    """Put query tokens in; the last row of `queries` is the empty one, which NO_QUERY means."""
    return {
        name: Examples(
            user=rows.user.astype(np.int32),
            query=queries.take(rows.query % queries.num_rows),
            history=rows.history,
            targets=rows.targets,
            shown=rows.shown,
        )
        for name, rows in found.splits.items()
    }


def _text_quality(titles: Iterable[str], queries: list[str]) -> dict[str, Any]:
    _, counts = np.unique(np.array([t for t in titles if t], dtype=object), return_counts=True)
    wordless = pc.invert(pc.match_substring_regex(pa.array(queries, pa.string()), r"[\pL\pN]"))
    return {
        "items without text": sum(not t for t in titles),
        "items whose title another has": int(counts[counts > 1].sum()),
        "queries without a letter or digit": int(pc.sum(wordless).as_py() or 0) - sum(not q for q in queries),
    }
