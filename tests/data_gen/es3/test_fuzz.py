"""Spoiled logs: each ends in one line that names what is wrong, or in exactly the samples that its sound rows make."""

import contextlib
import functools
import importlib
import importlib.util
import itertools
import random
import re
import shutil
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from data_gen.es3 import ES3Config, build
from data_gen.es3.build import Resources
from data_gen.es3.searchify import SLOTS
from data_gen.es3.tables import intake, open_logs, read_header, read_quarantine
from unisc.data.schema import KINDS
from unisc.errors import InputError


def _load_fuzz() -> None:
    folder = Path(__file__).with_name("fuzz")
    spec = importlib.util.spec_from_file_location("es3_fuzz", folder / "__init__.py", submodule_search_locations=[str(folder)])
    assert spec is not None and spec.loader is not None
    sys.modules["es3_fuzz"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


_load_fuzz()
content, drafts, oracle, structure = (
    importlib.import_module(f"es3_fuzz.{name}") for name in ("content", "draft", "oracle", "structure")
)
valid = functools.cache(drafts.valid_tables)
FOLDERS = ["c", "a b", "user_id=3", "domain=search", "it's", "[x]*", "日本", "100%"]
SMALL = {"threads": 1, "memory": "256MiB"}


def run(seed: int, root: Path, read_samples) -> int:
    """Make, spoil and judge the logs of a seed; return how many of their tables were spoiled."""
    rng = random.Random(seed)
    draft = drafts.draft(valid(rng.randrange(3)))
    if rng.random() < 0.45:
        names = ["one"]
        structure.spoil_structure(rng, draft)
    else:
        names = rng.sample(list(drafts.TABLES), rng.randrange(2, 6))
        content.spoil_content(rng, draft, names)
    if "oracle" not in names:
        del draft.parts["oracle"]
    root = root / rng.choice(FOLDERS)
    limit, whole_build = rng.choice([1.0, 1.0, 1.0, 1.0, 0.0]), rng.random() < 0.1
    try:
        _judge(draft, root, limit, whole_build, read_samples)
    except Exception as e:
        e.add_note(f"seed {seed}: {draft.done}, limit {limit}")
        raise
    return len(names)


def _judge(draft, root: Path, limit: float, whole_build: bool, read_samples) -> None:
    directory = draft.write(root / "logs")
    if draft.refusals:
        expected = oracle.Expected(refusals=draft.refusals, may_pass=draft.may_pass)
    else:
        parts = {name: list(zip(draft.names[name], of, strict=True)) for name, of in draft.parts.items()}
        whole = {name: draft.whole(name) for name in draft.parts}
        expected = oracle.expect(parts, whole, drafts.DOMAINS, limit)
    try:
        (_build if whole_build else _intake)(directory, root, expected, limit, read_samples)
    except InputError as e:
        message = str(e)
        wanted = expected.refusals
        if not wanted and whole_build and oracle.lacks_positives(expected, drafts.DOMAINS[0], drafts.TEST_START):
            wanted = [r"[^:]*logs: the (train|test) split .* has no (requests|positives)"]
        assert "\n" not in message
        assert any(re.match(pattern, message, re.DOTALL) for pattern in wanted), f"{message!r}, wanted {wanted[:5]}"
        assert "; " in message, "no remedy"
    else:
        assert not expected.refusals or expected.may_pass, f"accepted, but wanted {expected.refusals[:5]}"


def _intake(directory: Path, root: Path, expected, limit: float, _) -> None:
    header, out = read_header(directory), root / "intake"
    out.mkdir()
    engine = Resources(**SMALL, max_quarantine=limit).start()
    with engine.errors(root), contextlib.closing(engine.open(root / "scratch")) as session:
        intake(session, header, out, buckets=2, max_quarantine=limit)
        opened = open_logs(session, header, out)
        kept = {name: session.fetch(getattr(opened, name)).to_pylist() for name in drafts.FACTS}
    if expected.refusals:
        return
    oracle.check_quarantine(expected, read_quarantine(out).to_pylist())
    for name, rows in kept.items():
        for row in rows:
            row.update({"domain": drafts.DOMAINS[row["domain"]]} if "domain" in row else {})
            row.update({"kind": KINDS[row["kind"]]} if "kind" in row else {})
        oracle.check_kept(expected, name, rows)


def _build(directory: Path, root: Path, expected, limit: float, read_samples) -> None:
    out = root / "out"
    made = build(directory, out, ES3Config(composition="searchified"), max_quarantine=limit, buckets=2, **SMALL)
    if expected.refusals:
        return
    oracle.check_quarantine(expected, pq.read_table(out / "quarantine.parquet").to_pylist())
    assert made["counts"]["quarantined"] == sum(map(len, expected.aside.values()))
    splits = {split: read_samples(out, split) for split in ("train", "test")}
    oracle.check_samples(expected, splits, drafts.DOMAINS, drafts.TEST_START, SLOTS)


def fuzz(first: int, tables: int, root: Path, read_samples) -> None:
    done = 0
    for seed in itertools.count(first):
        done += run(seed, root / "case", read_samples)
        shutil.rmtree(root / "case")
        if done >= tables:
            return


@pytest.mark.parametrize("shard", range(6))
def test_spoiled_logs_are_named_or_set_aside(tmp_path, read_samples, shard):
    fuzz(shard * 1000, 50, tmp_path, read_samples)


@pytest.mark.slow
@pytest.mark.parametrize("shard", range(50))
def test_ten_thousand_spoiled_tables(tmp_path, read_samples, shard):
    fuzz(100_000 + shard * 10_000, 200, tmp_path, read_samples)
