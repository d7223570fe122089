"""The sweep of SASRec: what it plans on some interests, and its table."""

import numpy as np
import pytest

from experiments import sasrec
from sweeps.sasrec import METRIC, PRESETS, data_dir, runs, table
from unisc.config import from_plain
from unisc.data.interests import Catalogue, Examples, save
from unisc.data.ragged import Ragged
from unisc.data.text import train_tokenizer
from unisc.errors import InputError


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("sweep")
    tokenizer = train_tokenizer(["a word", "another"], vocab_size=300)
    text, empty = tokenizer.encode([f"word {i}" for i in range(20)]), Ragged.of([[]] * 30)
    rows = np.random.default_rng(0).integers(0, 20, (30, 6))

    def split(at):
        given = {"history": Ragged.of([r[:at] for r in rows]), "targets": Ragged.of([r[at : at + 1] for r in rows])}
        return Examples(user=np.arange(30, dtype=np.int32), query=empty, shown=empty, **given)

    folder = data_dir(root, preset="smoke")
    folder.mkdir()
    unknown = np.full(20, -1, np.int32)
    save(
        folder,
        catalogue=Catalogue(item_id=np.arange(20), text=text, category=unknown, brand=unknown),
        splits={"train": split(3), "validation": split(4), "test": split(5)},
        known=Ragged.of([np.unique(r[:4]) for r in rows]),
        corpus=text,
        tokenizer=tokenizer,
        is_ordered=True,
        config={},
        quality={},
    )
    return root


def test_the_grid_is_planned_largest_first_with_its_counts(root):
    planned, preset = runs(root, preset="smoke"), PRESETS["smoke"]
    assert len({run.fingerprint for run in planned}) == len(preset.widths) * len(preset.fractions) * len(preset.seeds)
    assert [run.cost for run in planned] == sorted((run.cost for run in planned), reverse=True)
    whole = [run for run in planned if run.config["data"]["fraction"] == 1]
    assert {run.num_examples for run in whole} == {preset.num_epochs * 30 * 3}
    assert all(run.train_flops > 0 and run.num_params > 0 for run in planned)
    configs = [from_plain(sasrec.Config, run.config) for run in planned]
    assert {config.model.dim for config in configs} == set(preset.widths)


def test_the_table_has_a_row_a_width_and_a_mean_over_seeds():
    def record(width, fraction, value):
        return {
            "fingerprint": "a",
            "config": {"model": {"dim": width}, "data": {"fraction": fraction}},
            "metrics": {METRIC: value},
        }

    found = table([record(8, 1.0, 0.1), record(8, 1.0, 0.3), record(16, 0.5, 0.25)], {"a": ""}).splitlines()
    assert "0.2000 [" in found[1] and "-" in found[1] and "0.2500 (one seed)" in found[2]


def test_no_interests_and_an_unknown_preset_are_named(tmp_path):
    with pytest.raises(InputError, match="not there; call prepare first"):
        runs(tmp_path, preset="smoke")
    with pytest.raises(InputError, match="unknown preset"):
        runs(tmp_path, preset="pod")
