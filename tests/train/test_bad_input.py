"""What is wrong with the data, the sizes or the devices is one line that names it, as early as it can be known."""

import dataclasses
import re
import shutil

import jax
import numpy as np
import pytest
from flax import nnx

from unisc.data.columns import load
from unisc.data.pack import BatchShape, plan
from unisc.errors import InputError
from unisc.mesh import make_mesh
from unisc.models import zoo
from unisc.train.checkpoint import Checkpoints
from unisc.train.evaluate import EvalConfig, score
from unisc.train.loop import Runtime
from unisc.train.progress import DivergedError
from unisc.train.ranking import train, train_mesh

NAN = float("nan")
ENTRY = (5, 1, 2, 60)  # item, kind, domain, age


def faulty(tiny, **changes):
    """One good request, then request 7 with a fault."""
    good = tiny.request(request_id=3, item_id=[0, 1], price=[1.0, NAN], history=[ENTRY])
    bad = tiny.request(request_id=7, item_id=[0, 1], price=[1.0, NAN], history=[ENTRY])
    if changes.get("item_id") in ([], None) and "item_id" in changes:
        changes = {name: changes["item_id"] for name in bad if isinstance(bad[name], list) and not name.startswith("history_")}
    return [good, bad | changes], [good]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"item_id": [0, 99]}, "item_id 99 of request 7 is not in its table of 50"),
        ({"item_id": [0, -3]}, "item_id -3 of request 7 is negative"),
        ({"item_id": [None, 0]}, "item_id of request 7 is missing"),
        ({"user_id": 99}, "user_id 99 of request 7 is not in its table of 20"),
        ({"user_id": None}, "user_id of request 7 is missing"),
        ({"query_id": 99}, "query_id 99 of request 7 is not in its table of 10"),
        ({"scene": -9}, "scene -9 of request 7 is not in its table"),
        ({"ts": None}, "ts of request 7 is missing"),
        ({"history_item_id": [99]}, "history_item_id 99 of request 7 is not in its table of 50"),
        ({"history_kind": [9]}, "history_event 29 of request 7 is not in its table of 9"),
        ({"history_age": [-60]}, "history_age -60 of request 7 is negative"),
        ({"history_age": []}, "history_age of request 7 is not as long as history_item_id"),
        ({"position": [0, -5]}, "position -5 of request 7 is negative"),
        ({"domain": "ads"}, "domain 'ads' of request 7 is not one of the manifest's ['search', 'rec', 'shop']"),
        ({"domain": None}, "domain None of request 7 is not one of the manifest's"),
        ({"item_id": []}, "item_id of request 7 is empty: a request needs candidates"),
        ({"item_id": None}, "item_id of request 7 is empty: a request needs candidates"),
        ({"price": [1.0]}, "price of request 7 is not as long as item_id"),
        ({"click": [0, 2]}, "click 2 of request 7 is neither 0 nor 1"),
        ({"purchase": [None, 0]}, "purchase -1 of request 7 is neither 0 nor 1"),
        ({"click_weight": [1.0, NAN]}, "click_weight nan of request 7 is negative or not a number"),
        ({"purchase_weight": [-1.0, 1.0]}, "purchase_weight -1.0 of request 7 is negative or not a number"),
        ({"click_weight": [float("inf"), 1.0]}, "click_weight inf of request 7 is negative or not a number"),
    ],
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_fault_of_a_request_is_named_when_samples_are_loaded(tiny, tmp_path, split, changes, message):
    bad, good = faulty(tiny, **changes)
    rows = {"train": good, "test": good} | {split: bad}
    directory = tiny.write_samples(tmp_path / "s", **rows, num_shards=1)
    with pytest.raises(InputError) as error:
        load(directory, "train", history_len=2)
    assert str(error.value).startswith(f"{directory / split}: {message}")
    assert str(error.value).endswith("; make the samples again") and "\n" not in str(error.value)


def test_lists_whose_lengths_differ_but_agree_in_sum_are_refused(tiny, tmp_path):
    rows = [tiny.request(request_id=i, item_id=[0, 1], price=price) for i, price in enumerate([[1.0], [1.0, 2.0, 3.0]])]
    with pytest.raises(InputError, match="price of request 0 is not as long as item_id"):
        load(tiny.write_samples(tmp_path / "s", train=rows, test=rows, num_shards=1), "train", history_len=2)


def test_unknown_prices_absent_values_and_empty_histories_are_no_fault(tiny, tmp_path):
    rows = [tiny.request(item_id=[0, 1], price=[NAN, -1.0], history=[(1, 0, 0, None)]), tiny.request(request_id=1, item_id=[2])]
    columns = load(tiny.write_samples(tmp_path / "s", train=rows, test=rows), "train", history_len=2)
    assert np.isfinite(columns.candidate_numeric).all() and columns.history_offsets.tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("table", "column", "values", "message"),
    [
        ("items", "item_id", [0, -1], "items: item_id of row 1 is missing or negative"),
        ("items", "item_id", [0, None], "items: item_id of row 1 is missing or negative"),
        ("users", "user_id", [0, 0], "users: user_id 0 is there twice"),
        ("items", "item_id", [0, 2_000_000_000], "items: item_id 2000000000 in a table of 2 rows; number them densely from 0"),
        ("items", "brand_id", ["a", "b"], "items: column brand_id is string, not int32"),
        ("items", "brand_id", [0, 2**31 - 1], "codes of brand up to 2147483647, too large for a table"),
    ],
)
def test_a_fault_of_a_catalogue_is_named(tiny, tmp_path, table, column, values, message):
    rows = [tiny.request(item_id=[0])]
    bare = {"item_id": [0, 1]} if table == "items" else {"user_id": [0, 1]}
    with pytest.raises(InputError, match=re.escape(message)):
        load(
            tiny.write_samples(tmp_path / "s", train=rows, test=rows, **{table: bare | {column: values}}),
            "train",
            history_len=1,
        )


def test_a_list_that_no_batch_can_hold_is_refused_before_it_is_packed(train_columns, config):
    shape = BatchShape.of(train_columns.spec, candidates=16, mean_list_len=4, list_len=5)
    with pytest.raises(InputError, match="list of 6 candidates: more than the 5 that fit"):
        plan(np.array([3, 6, 2]), shape)
    with pytest.raises(InputError, match="list_len 40: give at least 0 and at most the 32 candidates of a part"):
        BatchShape.of(train_columns.spec, candidates=64, mean_list_len=4, list_len=40, parts=2)
    for changes, message in (
        ({"list_len": 2000}, "list_len 2000: give at least 0 and at most batch_candidates 1024"),
        ({"batch_candidates": 0}, "batch_candidates 0: give at least 1"),
        ({"num_full_requests": -1}, "num_full_requests -1: give at least 0"),
    ):
        with pytest.raises(InputError, match=message):
            EvalConfig(**changes)


@pytest.mark.parametrize(
    ("model", "field", "message"),
    [
        ("hhsft", "num_heads", "hfa_dim: 12 does not divide into num_heads=7"),
        ("hhsft", "num_gfa_heads", "gfa_dim: 24 does not divide into num_gfa_heads=7"),
        ("hiformer", "num_heads", "does not divide into num_heads=7"),
        ("onetrans", "num_heads", "does not divide into num_heads=7"),
        ("transformer", "num_heads", "does not divide into num_heads=7"),
        ("rankmixer", "num_tokens", "does not divide into num_tokens=7"),
        ("tokenmixer_large", "num_tokens", "does not divide into num_tokens=7"),
    ],
)
def test_widths_that_do_not_divide_are_refused_when_they_are_written_down(model, field, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(zoo.config_of(model, "m", embed_dim=16), **{field: 7})


def test_a_mesh_that_does_not_fit_the_devices_is_refused(monkeypatch):
    with pytest.raises(InputError, match="mesh: 1 devices cannot be split 2 ways along the model axis; give a divisor of 1"):
        make_mesh(model=2)
    monkeypatch.setattr(jax, "device_count", lambda: 3)
    with pytest.raises(InputError, match="num_parts 4: 3 devices cannot share them out; give a multiple of 3, or 1"):
        train_mesh(4)


def test_a_model_of_other_features_is_refused(train_columns, config):
    model = zoo.build(zoo.config_of("dlrm", "xxs", embed_dim=4), train_columns.spec, rngs=nnx.Rngs(0))
    with pytest.raises(InputError, match="model: built for other features than the data's as stored"):
        train(model, train_columns, dataclasses.replace(config, hash_rows=16), embed_dim=4)
    with pytest.raises(InputError, match="history_len -1: give at least 0"):
        load(train_columns.cache.parent.with_suffix(""), "train", history_len=-1)


def test_a_number_gone_bad_is_named_and_the_run_goes_on_once_it_is_mended(make_model, samples, config, tmp_path):
    """The bytes of a cached column are damaged; the cache is made again, and the run ends as if nothing had been."""
    copy = tmp_path / "samples"
    shutil.copytree(samples, copy)
    columns = load(copy, "train", history_len=3)
    config = dataclasses.replace(config, num_epochs=1)
    whole = train(make_model(), columns, config, embed_dim=4)

    numeric = np.load(columns.cache / "train" / "candidate_numeric.npy", mmap_mode="r+")
    numeric[-1, 1] = np.nan
    numeric.flush()
    name = columns.spec.numeric_at("candidate")[1].name
    runtime = Runtime(directory=tmp_path / "run", checkpoint_every_steps=4)
    message = rf"feature {name}: not a number in the batch of step \d+; correct the samples, or remove .*samples\.columns"
    with pytest.raises(InputError, match=message) as e:
        train(make_model(), load(copy, "train", history_len=3), config, embed_dim=4, runtime=runtime)
    step = int(re.findall(r"step (\d+)", str(e.value))[0])
    (kept,) = (tmp_path / "run" / "checkpoint").glob("[0-9]*")
    last = (step - 1) // 4 * 4
    assert int(kept.name) == last > 0, "the last good one"

    shutil.rmtree(columns.cache)
    resumed = []
    runtime = dataclasses.replace(runtime, on_step=lambda counts, _: resumed.append(counts.num_steps))
    mended = train(make_model(), load(copy, "train", history_len=3), config, embed_dim=4, runtime=runtime)
    assert resumed[0] == last + 1
    for a, b in zip(jax.tree.leaves(mended.state), jax.tree.leaves(whole.state), strict=True):
        np.testing.assert_array_equal(a, b)


def test_labels_weights_and_the_features_of_the_test_day_are_named_too(make_model, train_columns, test_columns, config):
    weights = np.array(train_columns.label_weights)
    weights[:, 1] = np.nan
    with pytest.raises(InputError, match="weights of task purchase: not a number in the batch of step 1; correct the samples"):
        train(make_model(), dataclasses.replace(train_columns, label_weights=weights), config, embed_dim=4)
    trained = train(make_model(), train_columns.first(40), config, embed_dim=4)
    numeric = np.array(test_columns.candidate_numeric)
    numeric[-1, 0] = np.nan
    spoiled = dataclasses.replace(test_columns, candidate_numeric=numeric)
    with pytest.raises(InputError, match=r"feature log_price_over_mean: not a number in batch \d+ of the test day"):
        score(trained.model, trained.state, spoiled, EvalConfig())


def test_parameters_that_are_no_numbers_are_never_saved(make_model, train_columns, config, tmp_path, monkeypatch):
    """The loss of a step is that of the parameters before it: one that ruins them still has a good one."""
    saved = []
    monkeypatch.setattr(Checkpoints, "save", lambda self, state: saved.append(state))
    wild = dataclasses.replace(config, table_learning_rate=3e38, warmup_frac=0.0, decay="constant", table_init_std=0.0)
    with pytest.raises(DivergedError, match=r"not a number at step 1: lower learning_rate or table_learning_rate"):
        train(make_model(), train_columns, wild, embed_dim=4, runtime=Runtime(directory=tmp_path, checkpoint_every_steps=1))
    assert not saved
