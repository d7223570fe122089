"""Two towers end to end on a tiny taste that popularity cannot see, in every mode."""

from pathlib import Path

import numpy as np
import pytest

from experiments import two_tower
from sweeps import two_tower as sweep
from unisc.config import Runtime, fingerprint, override
from unisc.data.interests import SPLITS, Catalogue, Examples, save
from unisc.data.ragged import Ragged
from unisc.data.text import train_tokenizer
from unisc.errors import InputError

NUM_ITEMS, NUM_USERS, TASTES = 60, 40, 6
FAST = {
    "train.batch_size": 32,
    "train.num_epochs": 12,
    "train.learning_rate": 0.01,
    "train.table_learning_rate": 0.1,
    "data.history_len": 8,
    "evaluate.ks": [5, 10],
}


def write(path: Path, *, is_ordered: bool) -> Path:
    """Users want items of one of six tastes, which an item's words and its picture tell; every item is as popular."""
    rng = np.random.default_rng(0)
    taste = np.arange(NUM_ITEMS) % TASTES
    titles = [f"{['red', 'blue', 'green', 'gold', 'grey', 'pink'][t]} thing {i}" for i, t in enumerate(taste)]
    tokenizer = train_tokenizer(titles, vocab_size=300)
    liked = [rng.permutation(np.flatnonzero(taste == u % TASTES)) for u in range(NUM_USERS)]
    held = {"train": slice(0, 7), "validation": slice(7, 8), "test": slice(7, 10)}
    splits = {}
    for split in SPLITS:
        rows = [(u, items[:7], [i]) for u, items in enumerate(liked) for i in items[held[split]]]
        if split == "test":
            rows = [(u, items[:7], items[held[split]]) for u, items in enumerate(liked)]
        splits[split] = Examples(
            user=np.array([u for u, _, _ in rows], np.int32),
            query=tokenizer.encode(["thing" if is_ordered else ""] * len(rows)),
            history=Ragged.of([[i for i in h if i not in t] if is_ordered else [] for _, h, t in rows]),
            targets=Ragged.of([t for _, _, t in rows]),
            shown=Ragged.of([rng.choice(np.flatnonzero(taste != taste[t[0]]), 2) if is_ordered else [] for _, _, t in rows]),
        )
    path.mkdir()
    save(
        path,
        catalogue=Catalogue(
            item_id=np.arange(NUM_ITEMS),
            text=tokenizer.encode(titles),
            category=taste.astype(np.int32),
            brand=np.full(NUM_ITEMS, -1, np.int32),
            visual=np.eye(TASTES, dtype=np.float32)[taste] + 0.1 * rng.standard_normal((NUM_ITEMS, TASTES), np.float32),
        ),
        splits=splits,
        known=Ragged.of([np.sort(items[:7]) for items in liked]),
        corpus=tokenizer.encode(titles),
        tokenizer=tokenizer,
        is_ordered=is_ordered,
        config={"is_ordered": is_ordered},
        quality={},
    )
    return path


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = tmp_path_factory.mktemp("interests")
    return {ordered: write(made / str(ordered), is_ordered=ordered) for ordered in (True, False)}


def run(folder, out, model="id", **changes):
    config = override(two_tower.default(folder, model=model, size="xs"), {**FAST, **changes})
    out.mkdir(exist_ok=True)
    return config, two_tower.run(config, Runtime(work_dir=str(out), data_dir=str(folder), checkpoint_every_steps=0))


MODES = {
    "ids of pairs": (False, "id", {}),
    "content, shown negatives, prefixes": (True, "content", {"model.widths": [8], "contrast.num_chunks": 2}),
    "all, sampled": (True, "all", {"contrast.loss": "sampled", "contrast.num_drawn": 2, "contrast.draw_power": 0.5}),
    "full": (False, "id", {"contrast.loss": "full"}),
    "sigmoid": (False, "id", {"contrast.loss": "sigmoid", "model.learned_bias": True, "model.learned_temperature": True}),
}


@pytest.mark.parametrize("mode", MODES)
def test_it_finds_what_popularity_does_not(folders, tmp_path, mode):
    is_ordered, model, changes = MODES[mode]
    if changes.get("contrast.loss") == "full":
        changes = {**changes, "contrast.num_shown": 0}
    _, found = run(folders[is_ordered], tmp_path, model, **changes)
    reached = found["metrics"]
    assert reached["eval/recall@10"] > 0.6 > 0.35 > reached["eval/popularity/recall@10"]
    saved = np.load(tmp_path / "eval.npz")
    assert saved["recall@10"].shape == (NUM_USERS,) and saved["recall@10"].mean() == pytest.approx(reached["eval/recall@10"])
    assert found["counts"]["train_flops"] > 0 and found["counts"]["num_examples"] == 32 * found["counts"]["num_steps"]


def test_rounds_of_hard_negatives_each_train_anew_and_the_last_is_the_runs(folders, tmp_path):
    mining = {"mining.num_rounds": 1, "mining.first_rank": 3, "mining.last_rank": 40, "mining.num_hard": 4}
    _, found = run(folders[False], tmp_path, **mining)
    reached = found["metrics"]
    _, alone = run(folders[False], tmp_path / "alone")
    assert reached["eval/round_0/recall@10"] == pytest.approx(alone["metrics"]["eval/recall@10"], abs=1e-6)
    assert reached["eval/recall@10"] == reached["eval/round_1/recall@10"] > 0.6
    assert 0 < reached["round_1/hard/mean"] <= 4
    assert found["counts"]["num_steps"] == 2 * alone["counts"]["num_steps"]


def test_a_sweep_plans_rounds_and_shares(folders):
    preset = sweep.PRESETS["smoke"]
    planned = sweep.grid(folders[False], preset)
    assert [run.label for run in planned] == [
        "all xs rounds 1 share 1 seed 0",
        "all xs rounds 0 share 1 seed 0",
        "all xs rounds 0 share 0.5 seed 0",
    ]
    assert len({run.fingerprint for run in planned}) == 3 and planned[0].cost > planned[1].cost


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"contrast.loss": "sigmoid"}, "contrast.loss sigmoid: model.learned_bias goes with sigmoid"),
        ({"contrast.loss": "full", "mining.num_rounds": 1}, "contrast.loss full: has every item"),
        ({"contrast.loss": "sampled"}, "num_drawn 0: goes with loss sampled"),
        ({"model.text": None, "model.item_features": ["text"]}, "text: goes with text among item_features"),
    ],
)
def test_settings_that_do_not_fit(folders, changes, message):
    with pytest.raises(InputError, match=message):
        override(two_tower.default(folders[False], model="id"), changes)


def test_other_interests_or_unknown_names_are_one_line(folders, tmp_path):
    config = override(two_tower.default(folders[True], model="id"), FAST)
    with pytest.raises(InputError, match="give those"):
        two_tower.run(config, Runtime(work_dir=str(tmp_path), data_dir=str(folders[False])))
    with pytest.raises(InputError, match="model 'hhsft': unknown; give one of id, ids, text"):
        two_tower.default(folders[True], model="hhsft")
    assert fingerprint(config, version=two_tower.VERSION) != fingerprint(override(config, {"train.seed": 1}), version=1)
