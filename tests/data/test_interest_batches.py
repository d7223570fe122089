"""Rows of interests and of texts as batches: what they hold, where they end, and that number and seed decide them."""

from pathlib import Path

import numpy as np
import pytest

from unisc.data.documents import Documents, text_batch
from unisc.data.interest_batches import InterestBatches, Lengths, interest_batch
from unisc.data.interests import load
from unisc.data.ragged import Ragged
from unisc.data.text import BEGIN, END
from unisc.errors import InputError

LENGTHS = Lengths(query=2, history=3, shown=2, answer=4)


@pytest.fixture(scope="module")
def data(load_file, tmp_path_factory):
    tiny = load_file(Path(__file__).parent / "tiny_interests.py")
    return load(tiny.write(tmp_path_factory.mktemp("interests") / "made"))


def test_a_text_begins_ends_and_is_cut_without_an_end():
    batch = text_batch(Ragged.of([[8, 9], [], [10, 11, 12, 13]]), np.array([0, 1, 2]), 3)
    np.testing.assert_array_equal(batch.tokens, [[BEGIN, 8, 9, 0], [BEGIN, 0, 0, 0], [BEGIN, 10, 11, 12]])
    np.testing.assert_array_equal(batch.targets, [[8, 9, END, 0], [END, 0, 0, 0], [10, 11, 12, 0]])
    np.testing.assert_array_equal(
        batch.valid, [[True, True, True, False], [True, False, False, False], [True, True, True, False]]
    )


def test_a_batch_holds_its_examples(data):
    rows = np.array([7, 0, 33])
    batch = interest_batch(data.train, data.catalogue.text, rows, LENGTHS)
    for i, row in enumerate(rows):
        train, wanted = data.train, data.train.targets.row(row)[0]
        assert batch.wanted[i] == wanted
        np.testing.assert_array_equal(batch.query[i][batch.query_mask[i]], train.query.row(row)[:2])
        np.testing.assert_array_equal(batch.history[i][batch.history_mask[i]], train.history.row(row)[-3:])
        np.testing.assert_array_equal(batch.shown[i][batch.shown_mask[i]], train.shown.row(row)[:2])
        text = data.catalogue.text.row(wanted)
        np.testing.assert_array_equal(batch.answer[i][batch.answer_mask[i]], text[:4])
        ended = [*text[:4], *([END] if len(text) <= 4 else [])]
        np.testing.assert_array_equal(batch.targets[i][batch.targets_mask[i]], ended)


def test_every_pass_has_every_example_once_and_number_and_seed_decide(data):
    settings = {"batch_size": 8, "seed": 3, "num_epochs": 2, "lengths": LENGTHS}
    batches, again = InterestBatches(data, **settings), InterestBatches(data, **settings)
    assert len(batches) == 10
    whole = np.sort(data.train.targets.values)
    for epoch in (0, 1):
        np.testing.assert_array_equal(np.sort(np.concatenate([batches[5 * epoch + i].wanted for i in range(5)])), whole)
    for a, b in zip(again[6], batches[6], strict=True):
        np.testing.assert_array_equal(a, b)
    assert batches.identity == again.identity != InterestBatches(data, **{**settings, "seed": 4}).identity
    half = InterestBatches(data, **settings, fraction=0.5)
    assert len(half) == 5
    with pytest.raises(InputError, match="batch_size 64: there are 40 train examples"):
        InterestBatches(data, **{**settings, "batch_size": 64})


def test_documents_pass_over_all_texts(data):
    documents = Documents(data.corpus, name="x", batch_size=7, max_len=5, seed=1, num_epochs=3)
    count = data.corpus.num_rows // 7
    assert len(documents) == 3 * count
    passes = [[documents[count * e + i].tokens.tobytes() for i in range(count)] for e in range(3)]
    assert passes[0] != passes[1] != passes[2]
    assert [documents[count + i].tokens.tobytes() for i in range(count)] == passes[1], "asked for again, the same"
    with pytest.raises(InputError, match="batch_size 999: there are"):
        Documents(data.corpus, name="x", batch_size=999, max_len=5, seed=1, num_epochs=1)
