"""What the encoded columns hold, and how their cache behaves."""

import json
import multiprocessing

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unisc.data import manifest
from unisc.data.columns import SPLITS, load
from unisc.data.schema import SAMPLES
from unisc.errors import InputError


def ids(columns, level, name):
    """A field's ids as its table counts them: 0 absent."""
    fields = columns.spec.at(level)
    at = [f.name for f in fields].index(name)
    values = getattr(columns, f"{level}_fields")[:, at]
    return (values - columns.spec.table_offsets()[fields[at].table]).tolist()


def numeric(columns, name):
    return columns.candidate_numeric[:, [f.name for f in columns.spec.numeric].index(name)]


@pytest.fixture(scope="module")
def one_request(tiny, tmp_path_factory):
    """A request of four candidates, the last one not shown, and one without a shown candidate."""
    row = tiny.request(
        request_id=7, user_id=3, ts=26 * 3600, query_id=1, scene=2, history=[(5, 1, 2, 60), (6, 0, 0, 90)],
        item_id=[10, 11, 12, 13], exposed=[True, True, True, False], position=[0, 1, 40, -1], rank=[0, 3, 2, 150],
        price=[1.0, 4.0, float("nan"), 2.0], touches=[0, 1, 9, 2], touch_age=[-1, 100, 7, 50], click=[0, 1, 0, 0],
        purchase=[0, 1, 0, 0],
    )  # fmt: skip
    pseudo = tiny.request(request_id=-1, domain="rec", item_id=[1, 2], exposed=[False, False], price=[9.0, 3.0])
    directory = tmp_path_factory.mktemp("one") / "samples"
    tiny.write_samples(directory, train=[row, pseudo], test=[row], num_shards=1)
    return load(directory, "train", history_len=4)


def test_request_fields_count_ids_from_one(one_request):
    got = {
        name: ids(one_request, "request", name)[0]
        for name in ("user_id", "query_id", "domain", "scene", "hour", "page_shop_id")
    }
    assert got == {"user_id": 4, "query_id": 2, "domain": 1, "scene": 3, "hour": 3, "page_shop_id": 0}


def test_absent_query_classes_are_absent_ids(one_request, tiny):
    assert ids(one_request, "request", "query_category_3")[0] == 2  # query 1 says category 1
    assert ids(one_request, "request", "query_attribute_1")[0] == 2
    assert ids(one_request, "request", "query_attribute_2")[0] == 0
    assert ids(one_request, "request", "query_id")[1] == 0  # the pseudo request has no query here


def test_item_fields_are_looked_up_in_the_item_table(one_request, tiny):
    items = tiny.random_tables()[0]
    assert ids(one_request, "candidate", "item_id")[:4] == [11, 12, 13, 14]
    assert ids(one_request, "candidate", "brand_id")[:4] == [int(items["brand_id"][i]) + 1 for i in (10, 11, 12, 13)]
    attributes = items["attribute_ids"][10].as_py()[:3]
    got = [ids(one_request, "candidate", f"attribute_{k}")[0] for k in (1, 2, 3)]
    assert got == [a + 1 for a in attributes] + [0] * (3 - len(attributes))


def test_position_rank_and_touches_are_bucketed(one_request):
    assert ids(one_request, "candidate", "position")[:4] == [1, 2, 32, 0]
    assert ids(one_request, "candidate", "touches")[:4] == [0, 1, 3, 2]
    assert ids(one_request, "candidate", "rank")[:4] == [1, 5, 4, 15]
    assert ids(one_request, "candidate", "touch_age")[:4] == [0, 7, 4, 6]  # floor(log2(seconds + 1)) + 1
    assert ids(one_request, "candidate", "price")[2] == 0
    assert numeric(one_request, "reciprocal_position")[:4] == pytest.approx([1, 1 / 2, 1 / 41, 0])


def test_list_context_is_the_shown_list(one_request):
    # Among the shown ones item 12 was touched last, then 11; the unshown 13 comes after 12 only.
    assert ids(one_request, "candidate", "touch_rank")[:4] == [0, 2, 1, 2]
    assert numeric(one_request, "reciprocal_touch_rank")[:4] == pytest.approx([0, 1 / 2, 1, 1 / 2])
    mean = np.log(4.0) / 2
    expected = [-mean, np.log(4) - mean, 0, np.log(2) - mean]
    assert numeric(one_request, "log_price_over_mean")[:4] == pytest.approx(expected, abs=1e-6)
    assert numeric(one_request, "price_rank")[:4] == pytest.approx([-1, 0, 0, 0])  # one of two known prices is lower


def test_the_last_event_on_a_candidate_and_the_slots_below_it(tiny, tmp_path):
    row = tiny.request(
        item_id=[10, 11, 12, 13], exposed=[True, True, True, False], position=[0, 1, 2, -1], touches=[0, 2, 1, 1],
        touch_age=[-1, 5, 60, 5], history=[(11, 2, 1, 5), (13, 0, 0, 5), (12, 1, 0, 60), (11, 0, 0, 90)],
    )  # fmt: skip
    columns = load(tiny.write_samples(tmp_path / "s", train=[row], test=[row]), "train", history_len=4)
    # A code is kind x 3 domains + domain, counted from 1: a purchase in the second domain, a cart and a click in the first.
    assert ids(columns, "candidate", "touch_event") == [0, 2 * 3 + 1 + 1, 1 * 3 + 0 + 1, 1]
    assert ids(columns, "candidate", "steps_below") == [8, 9, 10, 0]  # 9 is the touched slot itself, 0 not shown


def test_a_list_of_which_nothing_was_shown_is_its_own_context(one_request):
    assert numeric(one_request, "price_rank")[4:] == pytest.approx([0, -1])
    assert one_request.labels[:4].tolist() == [[0, 0], [1, 1], [0, 0], [0, 0]]


def test_history_keeps_its_order_and_says_what_happened_where(one_request):
    assert ids(one_request, "history", "history_item_id") == [6, 7]
    assert ids(one_request, "history", "history_event") == [1 + 1 * 3 + 2, 1]
    assert ids(one_request, "history", "history_age") == [1 + 5, 1 + 6]  # 60 and 90 seconds: floor(log2(seconds + 1)) + 1
    assert one_request.history_offsets.tolist() == [0, 2, 2]


def test_ages_of_events_fall_into_octaves_of_a_table_of_their_own(tiny, tmp_path):
    ages = [0, 1, 2, 3, 6, 7, 2**24 - 2, 2**24 - 1, 2**31 - 1, -1, None]
    row = tiny.request(item_id=[0], history=[(1, 0, 0, age) for age in ages])
    columns = load(tiny.write_samples(tmp_path / "s", train=[row], test=[row]), "train", history_len=4)
    assert ids(columns, "history", "history_age") == [1, 2, 2, 3, 3, 4, 24, 25, 25, 0, 0]  # 194 days and more are one
    field = next(f for f in columns.spec.at("history") if f.name == "history_age")
    assert [f.name for f in columns.spec.fields if f.table == field.table] == ["history_age"]


def test_labels_change_no_feature(tiny, tmp_path):
    rows = tiny.random_requests(20, seed=3)
    flipped = [row | {task: [1 - y for y in row[task]] for task in ("click", "purchase")} for row in rows]
    a, b = (
        load(tiny.write_samples(tmp_path / name, train=r, test=rows), "train", history_len=3)
        for name, r in (("a", rows), ("b", flipped))
    )
    assert (a.labels != b.labels).all()
    for name in ("request_fields", "candidate_fields", "history_fields", "candidate_numeric"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_a_catalog_of_bare_ids_gives_the_fields_that_remain(tiny, tmp_path):
    rows = [tiny.request(item_id=[0, 1], exposed=[False, False]), tiny.request(request_id=1, item_id=[2])]
    rows = [row | {"position": [-1] * len(row["item_id"])} for row in rows]
    bare = {"items": {"item_id": np.arange(3)}, "users": {"user_id": np.arange(1)}, "queries": {"query_id": np.arange(0)}}
    columns = load(tiny.write_samples(tmp_path / "s", train=rows, test=rows, **bare), "train", history_len=2)
    assert [f.name for f in columns.spec.at("request")] == ["user_id", "domain", "scene", "hour"]
    assert [f.name for f in columns.spec.at("candidate")] == [
        "item_id", "rank", "touches", "touch_age", "touch_rank", "touch_event"
    ]  # fmt: skip
    assert [f.name for f in columns.spec.at("history")] == ["history_item_id", "history_event", "history_age"]
    assert [f.name for f in columns.spec.numeric] == ["log_touches", "touch_decay", "reciprocal_touch_rank"]
    assert columns.history_fields.shape == (0, 3)


def test_compositions_of_one_log_have_one_layout(tiny, tmp_path):
    test = [row | {"scene": None} for row in tiny.random_requests(10, seed=1)]  # only the other domains have scenes
    extra = [tiny.request(request_id=-9, domain="shop", scene=7, shop_id=3, item_id=[4], exposed=[False])]
    plain = load(tiny.write_samples(tmp_path / "plain", train=test, test=test), "train", history_len=2)
    more = load(tiny.write_samples(tmp_path / "more", train=test + extra, test=test), "train", history_len=2)
    assert plain.spec == more.spec


def test_smaller_fractions_are_nested_in_larger_ones(samples):
    whole = load(samples, "train", history_len=3)
    parts = [load(samples, "train", history_len=3, fraction=f) for f in (0.1, 0.5)]
    assert [p.num_requests for p in parts] == [20, 100]
    for part in parts:
        np.testing.assert_array_equal(part.request_id, whole.request_id[: part.num_requests])
        np.testing.assert_array_equal(part.candidate_fields, whole.candidate_fields[: part.num_examples])
        assert part.num_examples == part.candidate_offsets[-1] == len(part.item_id)
    with pytest.raises(InputError, match="fraction"):
        load(samples, "train", history_len=3, fraction=0.0)


def test_the_cache_leaves_the_samples_verifiable_and_is_read_again(samples):
    first = load(samples, "test", history_len=3)
    manifest.read(samples, kind="samples", verify=True)
    built = (first.cache / "spec.json").stat().st_mtime_ns
    assert load(samples, "test", history_len=3).cache == first.cache
    assert (first.cache / "spec.json").stat().st_mtime_ns == built


def test_samples_made_anew_are_encoded_anew(tiny, tmp_path):
    rows = tiny.random_requests(6, seed=0)
    old = load(tiny.write_samples(tmp_path / "s", train=rows[:3], test=rows), "train", history_len=1)
    new = load(tiny.write_samples(tmp_path / "s", train=rows, test=rows), "train", history_len=1)
    assert (old.num_requests, new.num_requests) == (3, 6)
    assert not old.cache.exists()


def _digest(directory, queue):
    queue.put([int(load(directory, split, history_len=3).candidate_fields.sum()) for split in SPLITS])


def test_processes_that_race_for_the_cache_all_see_it_whole(tiny, tmp_path):
    rows = tiny.random_requests(50, seed=5)
    directory = tiny.write_samples(tmp_path / "s", train=rows, test=rows)
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = [context.Process(target=_digest, args=(directory, queue)) for _ in range(3)]
    for worker in workers:
        worker.start()
    seen = [queue.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert seen == [seen[0]] * 3
    assert len([p for p in (tmp_path / "s.columns").iterdir() if p.is_dir()]) == 1


def break_schema(schema, name, field=None):
    at = schema.get_field_index(name)
    return schema.remove(at) if field is None else schema.set(at, field)


@pytest.mark.parametrize(
    ("change", "schema", "message"),
    [
        ({"item_id": [99]}, SAMPLES, "item"),
        ({"user_id": 99}, SAMPLES, "user_id 99"),
        ({"domain": "ads"}, SAMPLES, "'ads'"),
        ({"price": [1.0, 2.0]}, SAMPLES, "price"),
        ({"click": [2]}, SAMPLES, "neither 0 nor 1"),
        ({}, break_schema(SAMPLES, "touches"), "column touches is missing"),
        ({}, break_schema(SAMPLES, "rank", pa.field("rank", pa.list_(pa.int64()))), "column rank is"),
    ],
)
def test_samples_that_break_their_declaration_are_refused_in_one_line(tiny, tmp_path, change, schema, message):
    good = tiny.request(item_id=[0], price=[1.0])
    directory = tiny.write_samples(tmp_path / "s", train=[good | change], test=[good], num_shards=1, schema=schema)
    with pytest.raises(InputError, match=message) as error:
        load(directory, "train", history_len=1)
    assert "\n" not in str(error.value)
    assert not [p for p in (tmp_path / "s.columns").iterdir() if p.is_dir()]  # nothing half-built stays


def test_a_split_without_candidates_is_named(tiny, tmp_path):
    good = tiny.request(item_id=[0])
    directory = tiny.write_samples(tmp_path / "s", train=[], test=[good], num_shards=1)
    with pytest.raises(InputError, match="train: no candidates"):
        load(directory, "train", history_len=1)


def test_a_place_that_cannot_hold_the_cache_is_named(tiny, tmp_path):
    good = tiny.request(item_id=[0])
    directory = tiny.write_samples(tmp_path / "s", train=[good], test=[good])
    (tmp_path / "s.columns").write_text("in the way")
    with pytest.raises(InputError, match="cannot write the column cache"):
        load(directory, "train", history_len=1)


def test_the_stored_layout_is_readable_json(samples):
    cache = load(samples, "test", history_len=3).cache
    assert json.loads((cache / "spec.json").read_text())["domains"] == ["search", "rec", "shop"]


def with_numbers(tiny, directory, **numbers):
    """Samples whose candidates have further lists of numbers."""
    rows = tiny.random_requests(6, seed=0)
    schema = SAMPLES
    for name, dtype in numbers.items():
        schema = schema.append(pa.field(name, dtype))
        for row in rows:
            row[name] = [float(i) / 7 for i in range(len(row["item_id"]))]
    return tiny.write_samples(directory, train=rows[:4], test=rows[4:], num_shards=1, schema=schema)


def test_further_numbers_of_candidates_are_features(tiny, tmp_path):
    columns = load(with_numbers(tiny, tmp_path / "s", number_score=pa.list_(pa.float32())), "train", history_len=4)
    assert [f.name for f in columns.spec.numeric][-1] == "score"
    slots = np.arange(len(columns.item_id)) - np.repeat(columns.candidate_offsets[:-1], np.diff(columns.candidate_offsets))
    np.testing.assert_allclose(numeric(columns, "score"), slots / 7, rtol=1e-6)


def test_numbers_of_another_type_or_of_some_files_only_are_named(tiny, tmp_path):
    with pytest.raises(InputError, match=r"column number_score is list<.*double>, not list<.*float>; make the samples again"):
        load(with_numbers(tiny, tmp_path / "a", number_score=pa.list_(pa.float64())), "train", history_len=4)
    samples = with_numbers(tiny, tmp_path / "b", number_score=pa.list_(pa.float32()))
    file = samples / "test" / "part-00000.parquet"
    pq.write_table(pq.read_table(file).drop_columns(["number_score"]), file)
    manifest.write(
        samples, kind="samples", config={}, counts={}, domains=list(tiny.DOMAINS), composition="exposed", test_start=0
    )
    with pytest.raises(InputError, match=r"part-00000\.parquet: has other numbers than .* \(number_score and none\)"):
        load(samples, "train", history_len=4)


def test_only_keeps_whole_requests_and_agrees_with_first(tiny, tmp_path):
    rows = [tiny.request(request_id=i, item_id=list(range(i + 1)), history=[(i, 1, 2, 60)] * (i % 3)) for i in range(6)]
    tiny.write_samples(tmp_path / "samples", train=rows, test=rows[:1], num_shards=1)
    columns = load(tmp_path / "samples", "train", history_len=4)
    names = ("request_id", "candidate_offsets", "history_offsets", "item_id", "labels", "history_fields", "request_fields")
    for part, same in ((columns.only(np.arange(6) < 4), columns.first(4)), (columns.only(np.ones(6, bool)), columns)):
        for name in names:
            np.testing.assert_array_equal(getattr(part, name), getattr(same, name))
    odd = columns.only(np.arange(6) % 2 == 1)
    assert odd.request_id.tolist() == columns.request_id[1::2].tolist()
    for i, k in enumerate((1, 3, 5)):
        for offsets, name in (("candidate_offsets", "item_id"), ("history_offsets", "history_fields")):
            whole, part = getattr(columns, offsets), getattr(odd, offsets)
            np.testing.assert_array_equal(
                getattr(odd, name)[part[i] : part[i + 1]], getattr(columns, name)[whole[k] : whole[k + 1]]
            )
    assert columns.only(np.zeros(6, bool)).num_examples == 0
