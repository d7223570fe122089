"""What a finished directory promises: nested compositions, one test split, row order, determinism, nothing harmed."""

import itertools

import pyarrow.parquet as pq
import pytest

from data_gen.es3 import ES3Config, build, build_all
from data_gen.es3.__main__ import main
from unisc.data import manifest
from unisc.data.schema import COMPOSITIONS
from unisc.errors import InputError

DAY = 86400


@pytest.fixture(scope="module")
def all_built(busy_logs):
    root = busy_logs.parent / "all"
    manifests = build_all(busy_logs, root, ES3Config(composition="exposed"), threads=2, memory="512MiB")
    return root, manifests


def files(directory):
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("composition", ["exposed", "searchified"])
def test_one_composition_alone_is_the_same_bytes_whatever_the_threads(busy_logs, all_built, tmp_path, composition):
    build(busy_logs, tmp_path / "one", ES3Config(composition=composition), threads=1)
    assert files(tmp_path / "one") == files(all_built[0] / composition)


def test_the_number_of_buckets_changes_nothing(busy_logs, all_built, tmp_path):
    build(busy_logs, tmp_path / "one", ES3Config(composition="searchified"), threads=1, buckets=5)
    assert files(tmp_path / "one") == files(all_built[0] / "searchified")


def test_another_seed_draws_others(busy_logs, all_built, tmp_path, read_samples):
    build(busy_logs, tmp_path / "one", ES3Config(composition="unexposed", seed=1), threads=1)
    here, there = read_samples(tmp_path / "one"), read_samples(all_built[0] / "unexposed")
    assert here.keys() == there.keys()
    assert list(here) != list(there)
    assert any(here[r]["candidates"].keys() != there[r]["candidates"].keys() for r in here)


def test_test_split_is_the_same_and_holds_full_lists(all_built, read_samples):
    root, _ = all_built
    first = files(root / "exposed" / "test")
    assert all(files(root / name / "test") == first for name in COMPOSITIONS)
    for row in read_samples(root / "exposed", "test").values():
        assert row["ts"] >= 10 * DAY
        assert (row["domain"], row["origin"], len(row["candidates"])) == ("search", "logged", 14)
        assert all(c["click_level"] in (0, 1) for c in row["candidates"].values())


def test_each_composition_holds_the_one_before(all_built, read_samples):
    root, manifests = all_built
    sets = [read_samples(root / name) for name in COMPOSITIONS]
    changing = {f"{kind}{part}" for kind in ("click", "purchase") for part in ("", "_level", "_origin", "_ts", "_weight")}
    changing.add("probability")
    for smaller, larger in itertools.pairwise(sets):
        for request, row in smaller.items():
            other = larger[request]
            assert {k: v for k, v in row.items() if k != "candidates"} == {k: v for k, v in other.items() if k != "candidates"}
            for item, c in row["candidates"].items():
                same = other["candidates"][item]
                assert {k: v for k, v in c.items() if k not in changing} == {k: v for k, v in same.items() if k not in changing}
                for kind in ("click", "purchase"):
                    assert same[kind] >= c[kind]
                    assert c[f"{kind}_level"] in (0, same[f"{kind}_level"])
    exposed, unexposed, attributed, searchified = sets
    assert exposed.keys() == unexposed.keys() == attributed.keys() < searchified.keys()
    assert all(c["exposed"] for row in exposed.values() for c in row["candidates"].values())
    for row in unexposed.values():
        hidden = [c for c in row["candidates"].values() if not c["exposed"]]
        assert len(hidden) == 2 * 4
        assert all(c["probability"] == pytest.approx(0.8) and c["position"] == -1 for c in hidden)
    volumes = manifests["searchified"]["quality"]["volumes"]
    assert volumes["unexposed"]["samples"] == 3 * volumes["exposed"]["samples"]
    assert volumes["attributed"]["clicks"] > volumes["unexposed"]["clicks"]
    assert volumes["searchified"]["requests"] > volumes["attributed"]["requests"]


def test_rows_stand_in_one_order_so_that_a_prefix_is_a_random_subset(all_built, read_samples):
    root, _ = all_built
    order = list(read_samples(root / "searchified"))
    logged = [r for r in order if r >= 0]
    assert logged == list(read_samples(root / "exposed"))
    assert logged != sorted(logged)
    assert order[: len(order) // 2] != [*logged, *order][: len(order) // 2], "pseudo requests are mixed in"


def test_many_parts_keep_the_order(busy_logs, all_built, tmp_path, read_samples, monkeypatch):
    monkeypatch.setattr("data_gen.es3.listwise.PART_ENTRIES", 500)
    build(busy_logs, tmp_path / "parts", ES3Config(composition="searchified"), threads=1)
    assert len(list((tmp_path / "parts" / "train").iterdir())) > 3
    split, whole = read_samples(tmp_path / "parts"), read_samples(all_built[0] / "searchified")
    assert list(split) == list(whole)
    assert repr(split) == repr(whole)


def test_manifest_describes_the_directory(busy_logs, all_built):
    root, _ = all_built
    read = manifest.read(root / "attributed", kind="samples", verify=True)
    assert (read["composition"], read["domains"], read["test_start"]) == ("attributed", ["search", "rec", "shop"], 10 * DAY)
    assert read["logs"] == manifest.read(busy_logs, kind="logs")["fingerprint"]
    assert read["counts"]["train_samples"] == read["quality"]["volumes"]["attributed"]["samples"]
    table = pq.read_table(root / "attributed" / "train", columns=["item_id"])
    assert read["counts"]["train_requests"] == len(table)
    for kind in ("click", "purchase"):
        fates = dict(read["quality"]["attribution"][kind])
        assert fates.pop("events") == sum(fates.values()) > 0
    for name in ("items", "users", "queries"):
        assert files(root / "attributed" / name) == files(busy_logs / name)


def test_history_is_most_recent_first_and_touches_count_all_of_it(all_built, read_samples):
    for row in read_samples(all_built[0] / "searchified").values():
        ages = row["history_age"]
        assert ages == sorted(ages)
        assert len(ages) <= 20
        assert all(a >= 1 for a in ages)
        for item, c in row["candidates"].items():
            assert (c["touches"] == 0) == (c["touch_age"] == -1)
            if len(ages) < 20:
                assert c["touches"] == row["history_item_id"].count(item)


def test_output_that_exists_is_left_alone(busy_logs, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("kept")
    with pytest.raises(InputError, match="already exists; remove it"):
        build(busy_logs, tmp_path / "out", ES3Config(composition="exposed"))
    assert (tmp_path / "out" / "precious").read_text() == "kept"


def test_command_builds_and_reports(busy_logs, tmp_path, monkeypatch, capsys):
    command = ["es3", "build", str(busy_logs), "--composition", "unexposed", "--out", str(tmp_path / "out"), "--threads", "1"]
    monkeypatch.setattr("sys.argv", [*command, "--click-window", "2h", "--memory", "512MiB"])
    main()
    assert "unexposed" in capsys.readouterr().out
    assert manifest.read(tmp_path / "out", kind="samples")["config"]["click_window"] == 7200
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"], "nothing left aside"


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--composition", "everything", "composition 'everything': unknown; give one of exposed"),
        ("--relevance", "taste", "relevance 'taste': unknown"),
        ("--click-window", "soon", "duration 'soon': not understood"),
        ("--memory", "1KiB", "memory '1KiB': not understood"),
        ("--seed", "-1", "seed -1: out of range"),
    ],
)
def test_command_names_the_mistake_in_one_line(busy_logs, tmp_path, monkeypatch, capsys, option, value, words):
    options = {"--composition": "exposed", "--out": str(tmp_path / "out"), option: value}
    monkeypatch.setattr("sys.argv", ["es3", "build", str(busy_logs), *(x for kv in options.items() for x in kv)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
