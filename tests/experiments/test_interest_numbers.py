"""A KARMA's opinion of candidates as a number of samples: of the right row, of later rows alone, and refused elsewhere."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
import pytest
from flax import nnx

from data_gen.interests.build import build
from data_gen.interests.config import InterestsConfig
from experiments import karma
from unisc.data import manifest
from unisc.data.columns import load as load_columns
from unisc.data.interests import load
from unisc.data.schema import KINDS
from unisc.data.text import load_tokenizer
from unisc.errors import InputError
from unisc.models.karma import Context, Karma, KarmaConfig
from unisc.models.served import load_karma, save_karma
from unisc.train.interest_numbers import add_interests, train_end


@pytest.fixture(scope="module")
def interests(small_shop, tmp_path_factory):
    out = tmp_path_factory.mktemp("interests") / "half"
    build(small_shop.logs, out, InterestsConfig(validation_share=0.5, vocab_size=400))
    return out


@pytest.fixture(scope="module")
def scorer(interests, tmp_path_factory):
    """An untrained KARMA with features drawn at random: any model has an opinion."""
    found, out = load(interests), tmp_path_factory.mktemp("served") / "karma"
    decoder = karma.default(interests, model="act", size="xxs").language.model
    config = KarmaConfig(decoder=decoder, feature_dim=5, embed_dim=8, hidden_dim=16)
    features = np.random.default_rng(0).standard_normal((found.catalogue.num_items, 5), np.float32)
    save_karma(Karma(config, rngs=nnx.Rngs(0)), out, features=features)
    return out


@pytest.fixture(scope="module")
def scored(small_shop, interests, scorer, tmp_path_factory):
    out = tmp_path_factory.mktemp("scored") / "samples"
    return out, add_interests(small_shop.samples, out, scorers={"karma": scorer}, interests=interests)


def rows_of(folder, split):
    return pq.read_table(folder / split).to_pylist()


def without_number(rows):
    """As text: a price may be NaN, which is not itself."""
    return [repr({name: value for name, value in row.items() if name != "number_karma"}) for row in rows]


def test_a_number_is_the_rows_interest_times_the_candidate(small_shop, interests, scorer, scored):
    model, features = load_karma(scorer)
    tokenizer = load_tokenizer(load(interests).tokenizer)
    texts = {row["query_id"]: row["text"] for row in pq.read_table(small_shop.samples / "queries").to_pylist()}
    raw, given = [], []
    rows = rows_of(scored[0], "train")[:12] + rows_of(scored[0], "test")[:12]
    assert {len(row["history_item_id"]) > 0 for row in rows} and any(row["query_id"] is not None for row in rows)
    for row in rows:
        text = "" if row["query_id"] is None else texts[row["query_id"]]
        query = tokenizer.encode([text]).values[None].astype(np.int32)
        events = list(zip(row["history_item_id"], row["history_kind"], strict=True))[::-1]
        clicks = [item for item, kind in events if KINDS[kind] == "click"][-20:]
        history = features[np.array(clicks, int)][None]
        parts = query, np.ones(query.shape, bool), history, np.ones((1, len(clicks)), bool)
        interest = model(Context(*map(jnp.asarray, parts)))[0]
        raw += list(np.asarray(model.item(jnp.asarray(features[row["item_id"]])) @ interest))
        given += row["number_karma"]
    slope, level = np.polyfit(raw, given, 1)
    np.testing.assert_allclose(given, slope * np.array(raw) + level, atol=2e-3)
    assert slope > 0
    everywhere = np.concatenate([row["number_karma"] for row in rows_of(scored[0], "train")])
    assert abs(everywhere.mean()) < 1e-4 and abs(everywhere.std() - 1) < 1e-4


def test_nothing_that_karma_learned_from_is_trained_on_and_the_rest_is_as_it_was(small_shop, interests, scored):
    out, about = scored
    since = train_end(interests)
    before, after = rows_of(small_shop.samples, "train"), rows_of(out, "train")
    assert 0.2 < len(after) / len(before) < 0.8 and min(row["ts"] for row in after) >= since
    assert without_number(after) == without_number(row for row in before if row["ts"] >= since)
    assert len(rows_of(out, "test")) == len(rows_of(small_shop.samples, "test"))
    counts = manifest.read(out, kind="samples", verify=True)["counts"]
    assert counts == about["counts"] and counts["train_requests"] == len(after)
    assert counts["train_clicks"] == sum(sum(row["click"]) for row in after)
    assert load_columns(out, "train", history_len=20).spec.numeric[-1].name == "karma"


def test_without_a_scorer_the_rows_alone_are_chosen(small_shop, interests, scored, tmp_path):
    add_interests(small_shop.samples, tmp_path / "out", scorers={}, interests=interests)
    assert list(map(repr, rows_of(tmp_path / "out", "train"))) == without_number(rows_of(scored[0], "train"))


def test_what_does_not_fit_is_one_line(small_shop, interests, scorer, scored, tmp_path, load_file):
    with pytest.raises(InputError, match="has number_karma already"):
        add_interests(scored[0], tmp_path / "out", scorers={"karma": scorer}, interests=interests)
    with pytest.raises(InputError, match=r"exists|not empty|holds"):
        add_interests(small_shop.samples, scored[0], scorers={}, interests=interests)
    model, features = load_karma(scorer)
    save_karma(model, tmp_path / "fewer", features=features[:-1])
    with pytest.raises(InputError, match="give the interests it learned from"):
        add_interests(small_shop.samples, tmp_path / "out", scorers={"karma": tmp_path / "fewer"}, interests=interests)
    other = tmp_path / "other"
    tiny = load_file(Path(__file__).parent.parent / "data" / "tiny_interests.py")
    tiny.write(other, num_train=60, num_other=10)
    with pytest.raises(InputError, match="give those of one shop"):
        add_interests(small_shop.samples, tmp_path / "out", scorers={}, interests=other)
    assert not (tmp_path / "out").exists()
