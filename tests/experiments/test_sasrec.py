"""SASRec end to end on sequences with a rule: it learns what the last item alone cannot say, and resumes bit by bit."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from experiments import sasrec
from unisc import metrics
from unisc.config import Runtime, override
from unisc.data.interests import Catalogue, Examples, load, save
from unisc.data.ragged import Ragged
from unisc.data.text import train_tokenizer
from unisc.errors import InputError, Stopped
from unisc.models.sasrec import ItemText, SASRec
from unisc.train import loop
from unisc.train.encoder import train_encoder

NUM_ITEMS, STEPS, LENGTH = 48, 12, 9


def sequences(num_users=240, seed=0):
    """Each user walks the circle of items in strides of one length: two items say which, one does not."""
    rng = np.random.default_rng(seed)
    start, stride = rng.integers(0, NUM_ITEMS, (num_users, 1)), rng.integers(1, STEPS + 1, (num_users, 1))
    return (start + stride * np.arange(LENGTH)) % NUM_ITEMS


def examples(users, histories, targets):
    empty = Ragged.of([[]] * len(users))
    given = {"history": Ragged.of(histories), "targets": Ragged.of([[t] for t in targets])}
    return Examples(user=np.array(users, np.int32), query=empty, shown=empty, **given)


def write(folder, rows, *, is_ordered=True):
    train = [(u, row[:p], row[p]) for u, row in enumerate(rows) for p in range(1, LENGTH - 2)]
    held = [[(u, row[:at], row[at]) for u, row in enumerate(rows)] for at in (LENGTH - 2, LENGTH - 1)]
    texts = [f"item {i % 7} of kind {i % 5}" for i in range(NUM_ITEMS)]
    tokenizer = train_tokenizer(texts, vocab_size=300)
    unknown = np.full(NUM_ITEMS, -1, np.int32)
    folder.mkdir()
    save(
        folder,
        catalogue=Catalogue(item_id=np.arange(NUM_ITEMS), text=tokenizer.encode(texts), category=unknown, brand=unknown),
        splits={
            name: examples(*zip(*part, strict=True))
            for name, part in zip(("train", "validation", "test"), (train, *held), strict=True)
        },
        known=Ragged.of([np.unique(row[:-2]) for row in rows]),
        corpus=tokenizer.encode(texts),
        tokenizer=tokenizer,
        is_ordered=is_ordered,
        config={},
        quality={},
    )
    return folder


@pytest.fixture(scope="module")
def interests(tmp_path_factory):
    return write(tmp_path_factory.mktemp("rule") / "interests", sequences())


def configured(interests, **changes):
    small = {"model.max_len": 12, "model.dropout": 0.1, "train.batch_size": 16, "train.num_epochs": 60}
    small |= {"train.learning_rate": 0.01}
    return override(sasrec.default(interests, size="s"), small | changes)


def by_last_item(rows):
    """Rank by how often each item followed a history's last one in train."""
    follows = np.zeros((NUM_ITEMS, NUM_ITEMS))
    for row in rows:
        np.add.at(follows, (row[: LENGTH - 3], row[1 : LENGTH - 2]), 1)
    labels = np.zeros((len(rows), NUM_ITEMS))
    labels[np.arange(len(rows)), rows[:, -1]] = 1
    offsets = np.arange(len(rows) + 1) * NUM_ITEMS
    return float(np.mean(metrics.hr_at(5, labels.ravel(), follows[rows[:, -2]].ravel(), offsets)))


def test_it_learns_what_the_last_item_alone_cannot_say(interests, tmp_path):
    config = configured(interests)
    found = sasrec.run(config, Runtime(data_dir=str(interests), work_dir=str(tmp_path)))
    reached = found["metrics"]["eval/test/recall@5"]
    assert reached > by_last_item(sequences()) + 0.2
    assert reached > found["metrics"]["eval/popularity/recall@5"] + 0.4
    assert found["metrics"]["eval/validation/recall@5"] > 0.6
    assert found["metrics"]["eval/test_unseen/recall@10"] >= found["metrics"]["eval/test/recall@10"]
    assert found["counts"]["num_examples"] == 60 * 240 * (LENGTH - 3)
    assert (tmp_path / "eval.npz").exists()


def test_a_sampled_catalogue_teaches_it_in_part(interests, tmp_path):
    config = configured(interests, **{"objective.loss": "sampled_softmax", "train.num_epochs": 25})
    found = sasrec.run(config, Runtime(data_dir=str(interests), work_dir=str(tmp_path)))
    assert found["metrics"]["eval/test/recall@5"] > found["metrics"]["eval/popularity/recall@5"] + 0.15


def test_a_run_with_dropout_that_was_interrupted_ends_bit_by_bit_as_one_that_was_not(interests, tmp_path):
    config = configured(interests, **{"model.vocab_size": 300, "train.num_epochs": 2, "model.dropout": 0.5})
    data = load(interests)
    text = ItemText.of(data.catalogue.text, vocab_size=300)

    def train(runtime):
        model = SASRec(config.model, rngs=nnx.Rngs(0))
        source = sasrec.batches(config, data)
        return train_encoder(model, source, config.train, loss=sasrec.softmax_loss, shared=text, runtime=runtime)

    whole = train(loop.Runtime())
    taken = []
    stopping = loop.Runtime(
        directory=tmp_path,
        checkpoint_every_steps=2,
        on_step=lambda counts, num_steps: taken.append(counts.num_steps),
        should_stop=lambda: len(taken) == 5,
    )
    with pytest.raises(Stopped):
        train(stopping)
    resumed = train(loop.Runtime(directory=tmp_path, checkpoint_every_steps=2))
    for a, b in zip(jax.tree.leaves(resumed.state.dense), jax.tree.leaves(whole.state.dense), strict=True):
        np.testing.assert_array_equal(a, b)
    assert resumed.num_steps > 5


def test_a_share_of_the_users_is_the_same_users_in_a_larger_share(interests):
    data = load(interests)
    half, most = (sasrec.batches(configured(interests, **{"data.fraction": f}), data).sequences for f in (0.5, 0.8))
    rows = [{tuple(s.row(i).tolist()) for i in range(s.num_rows)} for s in (half, most)]
    assert rows[0] < rows[1] and 80 < half.num_rows < 160


def test_a_mistake_is_named(interests, tmp_path):
    runtime = Runtime(data_dir=str(interests), work_dir=str(tmp_path))
    other = dataclasses.replace(configured(interests), data=sasrec.DataConfig(interests="0" * 16))
    unordered = write(tmp_path / "unordered", sequences(num_users=5), is_ordered=False)
    for call, message in (
        (lambda: sasrec.run(other, runtime), "this run is of 0000"),
        (lambda: sasrec.run(configured(unordered), Runtime(data_dir=str(unordered), work_dir="")), "pairs have no order"),
        (lambda: sasrec.default(interests, model="hhsft"), "model 'hhsft': unknown"),
        (lambda: sasrec.default(interests, size="xxl"), "size 'xxl': unknown"),
        (lambda: configured(interests, **{"objective.loss": "hinge"}), "objective.loss"),
        (lambda: sasrec.DataConfig(interests="", fraction=0.0), "data.fraction"),
    ):
        with pytest.raises(InputError, match=message):
            call()
