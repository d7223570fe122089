"""A small shop with its samples and two small rankers trained on them, made once a session."""

import json
from pathlib import Path
from typing import NamedTuple

import pytest

from data_gen import es3
from data_gen.es3.config import ES3Config
from data_gen.marketplace.config import preset
from data_gen.marketplace.generate import generate
from experiments import rankers
from unisc.config import Runtime, override

SMALL = {
    "requests": 1_500, "users": 120, "users_per_shard": 40, "items": 2_000, "new_items_per_day": 60, "category_1": 3,
    "category_2": 9, "category_3": 30, "brands": 25, "shops": 8, "attributes": 24, "queries": 90, "segments": 8,
    "candidates_max": 80,
}  # fmt: skip


class SmallShop(NamedTuple):
    """Folders of the logs, of samples made of them, and of rankers trained on these."""

    logs: Path
    samples: Path
    rankers: dict[str, Path]


@pytest.fixture(scope="session")
def small_shop(tmp_path_factory) -> SmallShop:
    root = tmp_path_factory.mktemp("online")
    generate(preset("default", seed=4, **SMALL), root / "logs", workers=1)
    es3.build(root / "logs", root / "exposed", ES3Config(composition="exposed"), threads=1)
    made = {}
    for name, hash_rows in (("dlrm", 0), ("din", 300)):
        config = rankers.default(root / "exposed", model=name, size="xxs")
        changes = {"train.batch_candidates": 128, "train.hash_rows": hash_rows, "evaluate.batch_candidates": 256}
        made[name] = root / name
        made[name].mkdir()
        found = rankers.run(override(config, changes), Runtime(data_dir=str(root / "exposed"), work_dir=str(made[name])))
        (made[name] / "record.json").write_text(json.dumps(found))
    return SmallShop(root / "logs", root / "exposed", made)
