"""The report: it finds what is planted, says what is absent, and its page holds the numbers that its JSON holds."""

import json
import re
import shutil
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_gen.es3 import ES3Config, build_all
from data_gen.es3.__main__ import main
from data_gen.es3.facts import write_facts
from data_gen.es3.report import examine, report, write_report
from data_gen.es3.sql import bin_start, wilson
from data_gen.public.adapter import Adapter, Converted, convert
from unisc.data import manifest
from unisc.data.schema import SAMPLES


@pytest.fixture(scope="module")
def built(tmp_path_factory, busy_logs):
    root = tmp_path_factory.mktemp("built")
    build_all(busy_logs, root, ES3Config(composition="searchified"), ("exposed", "searchified"), threads=2)
    return root


@pytest.fixture(scope="module")
def reported(built, busy_logs):
    out = built / "full"
    return write_report(built / "searchified", out, logs=busy_logs), out


@pytest.fixture
def spoil(built, tmp_path):
    """Rewrite the train rows of a copy by a function of their Python rows; the manifest's counts stay as they were."""

    def change(edit):
        directory = tmp_path / "samples"
        shutil.copytree(built / "searchified", directory)
        file = next((directory / "train").glob("*.parquet"))
        rows = pq.read_table(file).to_pylist()
        edit(rows)
        pq.write_table(pa.Table.from_pylist(rows, schema=SAMPLES), file)
        _restate(directory)
        return directory

    return change


def _restate(directory):
    about = json.loads((directory / "manifest.json").read_text())
    for name in about["shards"]:
        file = directory / name
        about["shards"][name] = {"sha256": manifest.file_sha256(file), "bytes": file.stat().st_size}
    (directory / "manifest.json").write_text(json.dumps(about))


def _verdict(numbers, check):
    found = [row for row in numbers["verdicts"] if check in row["check"]]
    assert len(found) == 1, [row["check"] for row in numbers["verdicts"]]
    return found[0]


def _logged(rows):
    return next(row for row in rows if row["origin"] == "logged" and len(row["item_id"]) > 2)


def _page(out):
    return (out / "index.html").read_text()


def test_a_sound_build_breaks_no_rule_but_those_on_its_own_text(reported):
    numbers, out = reported
    look = [row["check"] for row in numbers["verdicts"] if row["verdict"] == "look"]
    assert look in ([], ["pseudo requests whose query is only the nearest by text"])
    assert json.loads((out / "quality.json").read_text()) == json.loads(json.dumps(numbers))
    assert numbers["faults"]["logs"]["labels"]["labels"] > 100
    assert numbers["faults"]["logs"]["touches"]["touched"] > 20
    assert numbers["faults"]["features"]["in the history"] > 20


def test_measured_counts_are_those_of_the_rows(reported, built):
    numbers, _ = reported
    train = pq.read_table(built / "searchified" / "train").to_pylist()
    lags = {}
    for row in train:
        for level, origin, ts in zip(row["click_level"], row["click_origin"], row["click_ts"], strict=True):
            if level:
                lags.setdefault((row["origin"], level, origin), []).append(ts - row["ts"])
    measured = [row for row in numbers["measured"]["lags"] if row["kind"] == "click"]
    domains = manifest.read(built / "searchified", kind="samples")["domains"]
    assert len(measured) == len(lags) > 2
    for row in measured:
        seconds = lags[row["made"], row["level"], domains.index(row["origin"])]
        assert (row["n"], row["median"], row["longest"]) == (len(seconds), np.median(seconds), max(seconds))
        assert row["within_1h"] == pytest.approx(np.mean(np.array(seconds) <= 3600))
        for place, n in row["bins"]:
            assert n == sum(bin_start(place) <= s < bin_start(place + 1) for s in seconds)
    shown = [(p, level == 1) for r in train if r["origin"] == "logged"
             for p, e, level in zip(r["position"], r["exposed"], r["click_level"], strict=True) if e]  # fmt: skip
    for row in (r for r in numbers["measured"]["positions"] if r["split"] == "train"):
        here = [clicked for position, clicked in shown if position == row["position"]]
        assert (row["n"], row["clicks"]) == (len(here), sum(here))


def test_rates_by_rank_stand_for_the_full_lists(reported, busy_logs):
    """Weighted by 1 / probability, the sampled unexposed candidates estimate how many there were."""
    numbers, _ = reported
    logs = {name: pq.read_table(busy_logs / name) for name in ("requests", "candidates")}
    start = manifest.read(busy_logs, kind="logs")["test_start"]
    requests = {r["request_id"] for r in logs["requests"].to_pylist() if r["domain"] == "search" and r["ts"] < start}
    unexposed = sum(c["request_id"] in requests and not c["exposed"] for c in logs["candidates"].to_pylist())
    some = [row for row in numbers["measured"]["ranks"] if row["split"] == "train" and not row["exposed"]]
    assert sum(row["n"] for row in some) < unexposed
    assert sum(row["weighted"] for row in some) == pytest.approx(unexposed, rel=0.05)


def _twice(rows):
    row = _logged(rows)
    row["item_id"][1] = row["item_id"][0]


def _label_without_level(rows):
    row = _logged(rows)
    at = row["click_level"].index(0)
    row["click"][at] = 1


def _late_label(rows):
    row = next(r for r in rows if r["origin"] == "logged" and 1 in r["click_level"])
    row["click_ts"][row["click_level"].index(1)] = 10**9


def _early_label(rows):
    row = next(r for r in rows if r["origin"] == "logged" and 1 in r["click_level"])
    row["click_ts"][row["click_level"].index(1)] = row["ts"] - 1


def _history_of_now(rows):
    next(r for r in rows if r["history_age"])["history_age"][0] = 0


def _touch_of_the_future(rows):
    row = next(r for r in rows if r["origin"] == "logged" and 0 in r["touches"] and len(r["history_age"]) > 0)
    at = row["touches"].index(0)
    row["touches"][at], row["touch_age"][at] = 1, 1


def _touch_skipped_by_a_full_history(rows):
    row = next(r for r in rows if len(r["history_age"]) == 20 and 0 in r["touches"])
    at = row["touches"].index(0)
    row["touches"][at], row["touch_age"][at] = 1, row["history_age"][-1] - 1


def _same_request(rows):
    rows.append(dict(rows[0]))


def _zero_probability(rows):
    row = _logged(rows)
    row["probability"][row["exposed"].index(False)] = 0.0


@pytest.mark.parametrize(
    ("edit", "check"),
    [
        (_twice, "items met twice"),
        (_label_without_level, "contradict each other"),
        (_late_label, "leaks"),
        (_early_label, "leaks"),
        (_history_of_now, "leaks"),
        (_touch_of_the_future, "touches that the history contradicts"),
        (_touch_skipped_by_a_full_history, "touches that the history contradicts"),
        (_same_request, "request ids met twice"),
        (_zero_probability, "contradict each other"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_planted_fault_is_found(spoil, edit, check):
    directory = spoil(edit)
    found = _verdict(examine(directory)[1], check)
    assert found["verdict"] == "look"
    assert not found["number"].startswith("0")


def test_logs_show_what_samples_alone_cannot(spoil, busy_logs):
    """An event moved by a second, and a touch that never was of an item too old to be in the history."""

    def edit(rows):
        row = next(r for r in rows if r["origin"] == "logged" and 1 in r["click_level"])
        row["click_ts"][row["click_level"].index(1)] += 1
        full = next(r for r in rows if len(r["history_age"]) == 20 and 0 in r["touches"])
        at = full["touches"].index(0)
        full["touches"][at], full["touch_age"][at] = 3, full["history_age"][-1] + 5

    _, numbers = examine(spoil(edit), logs=busy_logs)
    assert _verdict(numbers, "labels without their event")["number"].startswith("1 of")
    assert _verdict(numbers, "touches counted anew")["number"].startswith("1 of")
    assert _verdict(numbers, "touches that the history contradicts")["verdict"] == "holds"


def test_counts_that_do_not_add_up_are_looked_at(built, tmp_path):
    directory = tmp_path / "samples"
    shutil.copytree(built / "searchified", directory)
    about = json.loads((directory / "manifest.json").read_text())
    about["quality"]["attribution"]["click"]["attributed"] += 1
    about["counts"]["train_clicks"] += 1
    about["quality"]["quarantine"] = {"events: unknown item": 3}
    (directory / "manifest.json").write_text(json.dumps(about))
    _, numbers = examine(directory)
    for check in (
        "click events from elsewhere, and",
        "as the build counted",
        "click labels from elsewhere in the",
        "set aside",
    ):
        assert _verdict(numbers, check)["verdict"] == "look", check


def test_the_page_stands_alone_and_shows_the_paper_beside(reported):
    _, out = reported
    page = _page(out)
    assert {p.name for p in out.iterdir()} == {"index.html", "quality.json"}
    assert not re.findall(r'(?:src|href)="(?!#)[^"]*"|@import|url\((?!#)', page)
    svgs = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(svgs) >= 7
    for svg in svgs:
        ElementTree.fromstring(svg.replace("xlink:href", "href"))
    assert "<text" in svgs[0] and ">searchified<" in svgs[0]
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert "the paper&#x27;s 1/3/3/5" in page
    assert page.index(">exposed<") < page.index(">unexposed<") < page.index(">attributed<")


def test_exposed_samples_say_what_they_leave_out(built):
    numbers = write_report(built / "exposed", built / "exposed-report")
    page = _page(built / "exposed-report")
    for sentence in (
        "Train has no unexposed candidate",
        "No label comes from elsewhere",
        "No pseudo request",
        "logs were not given",
    ):
        assert sentence in page
    assert "Searchification" not in page
    assert all(row["verdict"] != "look" for row in numbers["verdicts"])


def test_logs_without_purchases_and_other_lists(shop, tmp_path):
    """Like a hotel search: clicks elsewhere on no list, nothing bought, all candidates shown."""
    shop.domains = ("search", "browse")
    user = shop.user()
    for day, start in enumerate((1000, 90_000, shop.test_start + 10)):
        request = shop.request(user, start, shown=[0, 1, 2])
        shop.event(user, day, start, request=request)
        shop.event(user, 2 - day, start + 50, "browse")
    build_all(shop.write(tmp_path / "logs"), tmp_path, ES3Config(composition="searchified"), ("searchified",), threads=2)
    numbers = write_report(tmp_path / "searchified")
    page = _page(tmp_path / "searchified.report")
    assert "No candidate has a purchase label." in page
    assert "No pseudo request: no click of another domain" in page
    assert all(row["verdict"] != "look" for row in numbers["verdicts"])


def test_truth_is_shown_with_intervals_where_it_is_known(built, tmp_path):
    directory = tmp_path / "samples"
    shutil.copytree(built / "searchified", directory)
    about = json.loads((directory / "manifest.json").read_text())
    about["quality"]["oracle"] = {
        "purchase": {
            "level 2, rec": {"labels": 100, "right": 30, "precision": 0.3, "recall": 0.2, "mean_probability": 0.1},
            "level 3, rec": {"labels": 5, "right": 0, "precision": 0.0, "recall": 0.0, "mean_probability": 0.05},
            "unlabelled": {"exposed": {"mean_probability": 0.02}},
        }
    }
    about["quality"]["duplicates"] = {"events": 4}
    (directory / "manifest.json").write_text(json.dumps(about))
    found = _verdict(write_report(directory), "lowest precision of purchase")
    low, high = wilson(30, 100)
    assert found["number"] == f"0.30 [{low:.2f}, {high:.2f}] at level 2, rec (n = 100)"
    assert found["verdict"] == "look"
    page = _page(tmp_path / "samples.report")
    assert "duplicates, events" in page
    assert ">0 [0.00, 0.43]<" in page


@pytest.fixture
def events(tmp_path):
    """A source of events without lists."""
    seen = [(0, 5, 100, "click"), (0, 5, 160, "cart"), (0, 5, 400, "purchase"), (1, 5, 50, "purchase"), (1, 5, 90, "click"),
            (1, 6, 90_000, "click"), (1, 6, 90_500, "click")]  # fmt: skip
    user, item, ts, kind = zip(*seen, strict=True)
    table = pa.table(
        {"user_id": pa.array(user, pa.int32()), "item_id": pa.array(item, pa.int32()), "ts": pa.array(ts, pa.int64()),
         "domain": pa.repeat("shop", len(seen)), "kind": list(kind)}
    )  # fmt: skip
    ids = {
        "items": pa.table({"item_id": pa.array(range(7), pa.int32())}),
        "users": pa.table({"user_id": pa.array([0, 1], pa.int32())}),
    }
    adapter = Adapter(
        name="cards", title="", source="", licence="", gives=("events",), cannot_give=("lists <shown>",), columns={},
        read=lambda path: Converted(tables={**ids, "events": table}, domains=("shop",), quality={"rows": {"left_out": 2}}),
    )  # fmt: skip
    convert(adapter, tmp_path, tmp_path / "events")
    return tmp_path / "events"


def test_events_without_lists_get_a_page_of_facts(events):
    where, numbers = report(events)
    steps = {(row["first"], row["then"]): row for row in numbers["steps"]}
    bought = steps["click", "purchase"]
    assert (bought["pairs"], bought["went_on"], bought["backwards"], bought["median"]) == (3, 1, 1, 300)
    assert [row["n"] for row in numbers["kinds"]] == [4, 1, 2]
    assert numbers["kinds"][0]["repeats"] == 1
    assert {(r["kind"], r["day"]): r["n"] for r in numbers["days"]}["click", 1] == 2
    page = _page(where)
    for text in ("no samples can be built", "lists &lt;shown&gt;", "rows, left out", "click to purchase"):
        assert text in page


def test_logs_get_facts_with_their_lists(busy_logs, tmp_path):
    numbers = write_facts(busy_logs, tmp_path / "facts")
    lists = {row["domain"]: row for row in numbers["lists"]}
    assert set(lists) == {"search", "rec", "shop"}
    assert sum(row["candidates"] for row in lists.values()) == numbers["counts"]["candidates"]
    assert lists["search"]["exposed"] == 4 * lists["search"]["requests"]
    assert "Lists" in _page(tmp_path / "facts")


def test_mistakes_are_one_line(built, busy_logs, shop, tmp_path, capsys, monkeypatch):
    def run(*argv):
        monkeypatch.setattr("sys.argv", ["es3", "report", *map(str, argv)])
        with pytest.raises(SystemExit) as stop:
            main()
        assert stop.value.code == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        return said

    assert "no manifest.json" in run(tmp_path)
    other = shop.live().write(tmp_path / "other")
    said = run(built / "searchified", "--out", tmp_path / "r", "--logs", other)
    assert "not the logs of these samples" in said
    broken = tmp_path / "broken"
    shutil.copytree(built / "searchified", broken)
    file = next((broken / "train").glob("*.parquet"))
    file.write_bytes(file.read_bytes()[:500])
    assert "does not match the manifest" in run(broken)
    _restate(broken)
    assert "cannot be read" in run(broken)
    pq.write_table(pa.table({"request_id": [1]}), file)
    _restate(broken)
    assert "column user_id is missing" in run(broken)
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert str(blocked) in run(built / "exposed", "--out", blocked)


def test_command_names_the_page_and_what_to_look_at(built, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["es3", "report", str(built / "exposed"), "--out", str(tmp_path / "r")])
    main()
    assert capsys.readouterr().out == f"{tmp_path / 'r' / 'index.html'}\n"
