"""The Open Bandit adapter on both of its forms, made by hand, through ES3, and on the real sample where it is at hand."""

import csv
import io
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_gen.es3 import ES3Config, build
from data_gen.public.adapter import convert
from data_gen.public.open_bandit import ADAPTER, CONTEXT, LOGS, SCENES, read
from unisc.data.schema import LOG_TABLES
from unisc.errors import InputError

REAL = Path(os.environ.get("UNISC_REAL_DATA", Path(__file__).parents[3] / ".." / "shared" / "data")) / "open_bandit_small"
T0 = 1_574_553_600  # 2019-11-24T00:00:00Z


def shown(t, item, position, propensity, click=0, policy="bts", campaign="men", group="a"):
    whole, part = divmod(t, 1)
    return {
        "policy": policy, "campaign": campaign,
        "timestamp": f"2019-11-24 00:{int(whole) // 60:02}:{int(whole) % 60:02}.{round(part * 1e6):06}+00:00",
        "item_id": item, "position": position, "click": click, "propensity_score": propensity,
        "user_feature_0": group, "user_feature_1": "x", "user_feature_2": "y", "user_feature_3": "z",
        "user_item_affinity_0": 0.0,
    }  # fmt: skip


def item(number, campaign="men", first="a", second="b", third="c"):
    features = {"item_feature_0": -0.5, "item_feature_1": first, "item_feature_2": second, "item_feature_3": third}
    return {"campaign": campaign, "item_id": number, **features}


ROWS = [
    shown(30.5, 1, 3, 0.25, campaign="women", policy="random"),
    shown(30.25, 0, 1, 0.5, click=1, group="b"),
    shown(30.75, 1, 2, 0.125),
    shown(30.75, 1, 2, 0.125),
    shown(90, 7, 1, 1e-6, click=1, campaign="women"),
]
ITEMS = [item(0), item(1, second="a"), item(1, "women", first="q"), item(0)]


def write(folder: Path, rows=ROWS, items=ITEMS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / LOGS)
    pq.write_table(pa.Table.from_pylist(items), folder / CONTEXT)
    return folder


def text(rows) -> str:
    """As published: an unnamed index first, without policy and campaign."""
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, ["", *(n for n in rows[0] if n not in ("policy", "campaign"))], extrasaction="ignore")
    writer.writeheader()
    writer.writerows({"": i, **row} for i, row in enumerate(rows))
    return stream.getvalue()


def publish(folder: Path, rows=ROWS, items=ITEMS) -> Path:
    for policy, campaign in {(r["policy"], r["campaign"]) for r in rows}:
        place = folder / policy / campaign
        place.mkdir(parents=True)
        (place / f"{campaign}.csv").write_text(text([r for r in rows if (r["policy"], r["campaign"]) == (policy, campaign)]))
        (place / "item_context.csv").write_text(text([i for i in items if i["campaign"] == campaign]))
    return folder


def page(rng, pages=60):
    rows = []
    for t in range(pages):
        campaign, policy = str(rng.choice(["men", "women"])), str(rng.choice(["bts", "random"]))
        propensity = 0.1 if policy == "random" else float(rng.integers(1, 100)) / 100
        rows.append(shown(30 * t, int(rng.integers(10)), int(rng.integers(1, 4)), propensity, int(rng.random() < 0.3),
                          policy, campaign, str(rng.integers(3))))  # fmt: skip
    return rows


def told(made, name):
    return [tuple(r.values()) for r in made.tables[name].to_pylist()]


def test_every_impression_is_a_list_of_one_with_its_propensity(tmp_path):
    made = read(write(tmp_path), test_share=0.25)
    assert made.kind == "logs"
    assert made.domains == ("rec",)
    scene = {names: i for i, names in enumerate(SCENES)}
    assert told(made, "requests") == [
        (0, 0, T0 + 30, "rec", None, scene["bts", "men"]), (1, 1, T0 + 30, "rec", None, scene["random", "women"]),
        (2, 2, T0 + 30, "rec", None, scene["bts", "men"]), (3, 3, T0 + 90, "rec", None, scene["bts", "women"]),
    ]  # fmt: skip
    items = {("men", 0): 0, ("men", 1): 1, ("women", 1): 2, ("women", 7): 3}
    assert told(made, "candidates") == [
        (0, items["men", 0], 0, True, 0, 0.5), (1, items["women", 1], 0, True, 2, 0.25),
        (2, items["men", 1], 0, True, 1, 0.125), (3, items["women", 7], 0, True, 0, float(np.float32(1e-6))),
    ]  # fmt: skip
    assert told(made, "events") == [(0, 0, T0 + 30, "rec", "click", 0), (3, 3, T0 + 90, "rec", "click", 3)]
    assert made.test_start == T0 + 90


def test_groups_are_segments_not_users(tmp_path):
    made = read(write(tmp_path), test_share=0.25)
    assert told(made, "users") == [(0, 2), (1, 1), (2, 1), (3, 1)]
    # Codes in the order of feature, then value: a and q of the first, a and b of the second, c of the third.
    assert told(made, "items") == [(0, [1, 4, 5]), (1, [1, 3, 5]), (2, [2, 4, 5]), (3, [])]
    assert made.quality == {
        "rows": {
            "logs": {"in": 5, "kept": 4, "dropped": {"repeats a row": 1}},
            "item_context": {"in": 4, "kept": 3, "dropped": {"repeats an item": 1}},
        },
        "impressions": {"bts men": 2, "bts women": 1, "random women": 1},
        "clicks": {"bts men": 1, "bts women": 1},
        "test_share": 0.25,
        "items without features": 1,
    }


def test_rows_that_differ_anywhere_are_not_one(tmp_path):
    row = shown(90, 1, 2, 0.125)
    others = [{"propensity_score": 0.25}, {"click": 1}, {"user_feature_3": "w"}, {"position": 3}, {"policy": "random"}]
    made = read(write(tmp_path, [*ROWS, row, *({**row, **other} for other in others), row]), test_share=0.25)
    assert made.quality["rows"]["logs"] == {"in": 12, "kept": 10, "dropped": {"repeats a row": 2}}


def test_published_files_say_the_same(tmp_path):
    one, many = read(write(tmp_path / "a"), test_share=0.25), read(publish(tmp_path / "b"), test_share=0.25)
    assert all(one.tables[name].equals(many.tables[name]) for name in LOG_TABLES)
    assert many.quality["rows"]["logs"] == one.quality["rows"]["logs"]


def test_es3_builds_and_keeps_propensities(tmp_path, check_declared):
    rows = page(np.random.default_rng(0))
    convert(
        ADAPTER, write(tmp_path / "source", rows, [item(n, c) for n in range(10) for c in ("men", "women")]), tmp_path / "logs"
    )
    check_declared(tmp_path / "logs")
    made = build(tmp_path / "logs", tmp_path / "samples", ES3Config(composition="exposed"), threads=1)
    assert made["quality"]["quarantine"] == {}
    samples = pa.concat_tables([pq.read_table(tmp_path / "samples" / split) for split in ("train", "test")])
    assert len(samples) == 60
    assert pc.sum(pc.list_value_length(samples["history_item_id"])).as_py() == 0
    found = Counter(
        (SCENES[r["scene"]], r["position"][0] + 1, round(r["propensity"][0], 4), r["click"][0]) for r in samples.to_pylist()
    )
    assert found == Counter(((r["policy"], r["campaign"]), r["position"], r["propensity_score"], r["click"]) for r in rows)


def bad(change, place=1):
    rows = [{**r} for r in ROWS]
    rows[place] |= change
    return rows


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (bad({"position": 0}), r"logs.parquet: column position holds '0' in row 2, not a number from 1 to 3"),
        (bad({"click": 2}), "column click holds '2' in row 2"),
        (bad({"propensity_score": 0.0}), "column propensity_score holds '0.0' in row 2, not a probability above 0"),
        (bad({"propensity_score": 1e-60}), "not a probability above 0"),
        (bad({"propensity_score": 1.5}), "not a probability above 0"),
        (bad({"propensity_score": float("nan")}), "every row needs a value"),
        (bad({"policy": "best"}), "column policy holds 'best' in row 2, not one of bts, random"),
        (bad({"campaign": "kids"}), "column campaign holds 'kids'"),
        (bad({"item_id": -1}), "column item_id holds '-1'"),
        (bad({"timestamp": "2019-11-24 00:00:01"}), "not a time of this century with its zone"),
        (bad({"timestamp": "2019-13-24 00:00:01Z"}), "column timestamp holds what is no time"),
        (bad({"user_feature_2": None}), "column user_feature_2 holds 'None' in row 2"),
        ([{k: v for k, v in r.items() if k != "propensity_score"} for r in ROWS], "column propensity_score is missing"),
        ([{**r, "timestamp": ROWS[0]["timestamp"]} for r in ROWS], "no request of 4 in the train split"),
    ],
)
def test_unusable_logs_are_one_clear_line(tmp_path, rows, words):
    with pytest.raises(InputError, match=words) as caught:
        read(write(tmp_path, rows))
    assert "\n" not in str(caught.value)


def test_unusable_folders_are_one_clear_line(tmp_path):
    with pytest.raises(InputError, match=r"logs.parquet: not found"):
        read(tmp_path)
    publish(write(tmp_path))
    with pytest.raises(InputError, match=r"holds logs.parquet and bts/men/men.csv"):
        read(tmp_path)
    (tmp_path / LOGS).unlink()
    (tmp_path / "bts" / "men" / "item_context.csv").unlink()
    with pytest.raises(InputError, match=r"bts/men/item_context.csv: not found"):
        read(tmp_path)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.data())
def test_fuzzed_cells_end_in_one_line_or_in_sound_tables(tmp_path_factory, data):
    rows = [{**r} for r in ROWS if r["campaign"] == "men"] + page(np.random.default_rng(1), 6)
    row = data.draw(st.sampled_from(rows))
    name = data.draw(st.sampled_from([n for n in row if n not in ("policy", "campaign")]))
    row[name] = data.draw(
        st.sampled_from(["", "nan", "-1", "0", "1e-9", "9" * 30, "2019-02-30 00:00:00Z", '"']) | st.text(max_size=6)
    )
    try:
        made = read(publish(tmp_path_factory.mktemp("fuzz"), rows, [item(1, c) for c in ("men", "women")]), test_share=0.5)
    except InputError as e:
        assert "\n" not in str(e)
    else:
        assert len(made.tables["candidates"]) == len(made.tables["requests"]) == made.quality["rows"]["logs"]["kept"]
        assert all(0 < c["propensity"] <= 1 for c in made.tables["candidates"].to_pylist())
        assert sum(made.quality["clicks"].values()) == len(made.tables["events"])


@pytest.mark.real_data
@pytest.mark.skipif(not REAL.is_dir(), reason=f"{REAL}: no Open Bandit sample there; set UNISC_REAL_DATA to its parent")
def test_real_sample(tmp_path):
    made = convert(ADAPTER, REAL, tmp_path / "logs")
    assert made["counts"] == {
        "items": 80, "users": 40_000, "queries": 0, "requests": 40_000, "candidates": 40_000, "events": 207,
    }  # fmt: skip
    names = ("bts men", "bts women", "random men", "random women")
    assert made["quality"]["impressions"] == dict.fromkeys(names, 10_000)
    assert made["quality"]["clicks"] == dict(zip(names, (69, 46, 46, 46), strict=True))
    assert made["quality"]["rows"]["logs"]["dropped"] == {}
    assert len(pc.unique(pq.read_table(tmp_path / "logs" / "users")["segment"])) == 317

    built = build(tmp_path / "logs", tmp_path / "samples", ES3Config(composition="exposed"), threads=1)
    assert built["quality"]["quarantine"] == {}
    samples = pa.concat_tables([pq.read_table(tmp_path / "samples" / split) for split in ("train", "test")])
    assert sum(c[0] for c in samples["click"].to_pylist()) == 207
    propensity = pc.list_flatten(samples["propensity"]).to_numpy()
    source = np.asarray(pq.read_table(REAL / LOGS)["propensity_score"])
    np.testing.assert_array_equal(np.sort(propensity), np.sort(source.astype(np.float32)))
    for campaign, items in (("men", 34), ("women", 46)):
        uniform = propensity[samples["scene"].to_numpy() == SCENES.index(("random", campaign))]
        assert len(uniform) == 10_000
        np.testing.assert_allclose(uniform, 1 / items, rtol=1e-4)
