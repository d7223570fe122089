"""Any text has tokens and comes back; the same texts make the same vocabulary; what is no tokenizer is named in one line."""

import json
import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unisc.data import text
from unisc.data.text import SPECIALS, check_vocab, load_tokenizer, train_tokenizer
from unisc.errors import InputError

TEXTS = [
    f"{brand} {colour} {thing}" for brand in ("acme", "zeta") for colour in ("red", "blue") for thing in ("shoe", "lamp 🛋")
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, vocab_size=300)


def test_special_tokens_are_the_first_ids_and_have_names():
    assert [getattr(text, name) for name in ("PAD", "END", "BEGIN", "QUERY", "HISTORY", "INTEREST", "TEXT", "UNUSED")] == list(
        range(8)
    )
    assert SPECIALS[text.PAD] == "<pad>" and SPECIALS[text.INTEREST] == "<interest>"


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"]))))
def test_any_text_comes_back_from_its_tokens(tokenizer, texts):
    encoded = tokenizer.encode(texts)
    assert encoded.num_rows == len(texts) and encoded.values.dtype == np.int32
    assert [tokenizer.decode(encoded.row(i)) for i in range(len(texts))] == texts
    assert not np.any(encoded.values < len(SPECIALS)) and not np.any(encoded.values >= tokenizer.vocab_size)


@pytest.mark.parametrize(
    "said", ["", "👍", "👩‍👩‍👧‍👦🏳️‍🌈", "  two  spaces ", "ß≠ss", "عربى", "\x00\n", "<pad><end>", "\N{COMBINING ACUTE ACCENT}"]
)
def test_emoji_empty_texts_and_spelled_out_specials_come_back(tokenizer, said):
    row = tokenizer.encode([said]).row(0)
    assert tokenizer.decode(row) == said and (len(row) == 0) == (said == "")
    assert not np.any(row < len(SPECIALS))


def test_merges_make_words_of_the_texts_short(tokenizer):
    unseen, seen = tokenizer.encode(["qqqqxxxx", "acme red"]).lengths
    assert (unseen, seen) == (8, 2)


def test_the_same_texts_make_the_same_file_in_any_order_and_any_process(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "here.json")
    shuffled = random.Random(3).sample(TEXTS, len(TEXTS))
    train_tokenizer(shuffled, vocab_size=300).save(tmp_path / "shuffled.json")
    code = f"from unisc.data.text import train_tokenizer as t; from pathlib import Path; t({TEXTS!a}, vocab_size=300)"
    subprocess.run([sys.executable, "-c", f"{code}.save(Path({str(tmp_path / 'there.json')!r}))"], check=True)
    here = (tmp_path / "here.json").read_bytes()
    assert here == (tmp_path / "shuffled.json").read_bytes() == (tmp_path / "there.json").read_bytes()


def test_a_saved_tokenizer_encodes_as_before(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    texts = [*TEXTS, "<pad> é 🛋", ""]
    for a, b in zip(loaded.encode(texts), tokenizer.encode(texts), strict=True):
        np.testing.assert_array_equal(a, b)
    assert loaded.vocab_size == tokenizer.vocab_size


def test_a_long_text_keeps_its_first_tokens(tokenizer):
    whole, cut = tokenizer.encode(["acme red lamp", "", "x"]), tokenizer.encode(["acme red lamp", "", "x"], max_len=2)
    assert cut.lengths.tolist() == [2, 0, 1]
    np.testing.assert_array_equal(cut.row(0), whole.row(0)[:2])


def test_many_texts_are_encoded_as_one_by_one(tokenizer, monkeypatch):
    monkeypatch.setattr(text, "_TEXTS_AT_ONCE", 3)
    rows = tokenizer.encode(TEXTS)
    assert [rows.row(i).tolist() for i in range(len(TEXTS))] == [tokenizer.encode([t]).values.tolist() for t in TEXTS]


def test_decoding_leaves_out_specials_and_ids_of_no_token(tokenizer):
    row = tokenizer.encode(["lamp"]).row(0).tolist()
    assert tokenizer.decode([text.TEXT, *row, text.END, 10**9, -1]) == "lamp"
    assert tokenizer.decode(tokenizer.encode(["é"]).row(0)[:1]) == "�"


def test_no_texts_leave_bytes_and_specials():
    assert train_tokenizer([], vocab_size=5000).vocab_size == text.FEWEST == 264


@pytest.mark.parametrize("vocab_size", [0, 263])
def test_a_vocabulary_without_room_for_bytes_is_refused(vocab_size):
    with pytest.raises(InputError, match=f"vocab_size {vocab_size}: .* give at least that"):
        train_tokenizer(TEXTS, vocab_size=vocab_size)


@pytest.mark.parametrize("bad, said", [("\ud83d", "text 1: '.ud83d' holds half a surrogate"), (3, "text 1: is int")])
def test_what_is_no_text_is_named(tokenizer, bad, said):
    for encode in (tokenizer.encode, lambda texts: train_tokenizer(texts, vocab_size=300)):
        with pytest.raises(InputError, match=said):
            encode(["fine", bad])


def test_a_tokenizer_must_fit_the_models_vocabulary(tokenizer):
    check_vocab(tokenizer, 289)
    with pytest.raises(InputError, match=r"vocab_size 288: the tokenizer has ids up to 288; give at least 289"):
        check_vocab(tokenizer, 288)


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff\xfe", b"\x80\x04pickle", b'{"version": "1.0", "model": 3}'])
def test_a_file_that_is_no_tokenizer_is_one_line(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"tokenizer.json: not a tokenizer \(.*\); give a tokenizer.json") as e:
        load_tokenizer(path)
    assert "\n" not in str(e.value)


def test_a_missing_file_and_a_folder_are_one_line(tmp_path):
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            load_tokenizer(path)


def test_a_tokenizer_of_somebody_else_is_refused(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.json")
    other = json.loads((tmp_path / "tokenizer.json").read_text())
    other["added_tokens"], other["model"]["vocab"]["<s>"] = [], other["model"]["vocab"].pop("<pad>")
    (tmp_path / "tokenizer.json").write_text(json.dumps(other))
    with pytest.raises(InputError, match=r"ids 0 to 7 are <s>, <end>.* give one that `train_tokenizer` made"):
        load_tokenizer(tmp_path / "tokenizer.json")
