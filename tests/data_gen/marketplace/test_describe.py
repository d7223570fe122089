"""`describe` says exactly what can be counted by hand from the tables."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_gen.marketplace.__main__ import main
from data_gen.marketplace.describe import binary_entropy, describe, render, split_figures
from unisc.data import manifest
from unisc.errors import InputError


@pytest.fixture(scope="module")
def rows(default_logs):
    """The tables as plain Python, joined by dictionaries instead of SQL."""
    tables = {name: pq.read_table(default_logs / name).to_pylist() for name in ("requests", "candidates", "events", "oracle")}
    request = {r["request_id"]: r for r in tables["requests"]}
    p = {(r["request_id"], r["item_id"]): r["p_click"] for r in tables["oracle"]}
    return tables, request, p


def test_splits_equal_a_recount(default_logs, default_config, rows):
    tables, _, p = rows
    found = describe(default_logs)
    clicked = {(e["request_id"], e["item_id"]) for e in tables["events"] if e["kind"] == "click"}
    for split, domain in (("train", "search"), ("test", "search"), ("train", "rec"), ("test", "all")):
        ids = {
            r["request_id"]
            for r in tables["requests"]
            if (r["ts"] >= default_config.test_start) == (split == "test") and domain in ("all", r["domain"])
        }
        here = [c for c in tables["candidates"] if c["request_id"] in ids]
        shown = [(c["request_id"], c["item_id"]) for c in here if c["exposed"]]
        probability = np.array([p[k] for k in shown], dtype=np.float64)
        label = np.array([k in clicked for k in shown], dtype=np.float64)
        got = found["splits"][split][domain]
        assert (got["requests"], got["candidates"], got["exposed"]) == (len(ids), len(here), len(shown))
        assert got["clicks"] == label.sum()
        assert got["entropy"] == pytest.approx(binary_entropy(probability).mean(), rel=1e-9)
        loss = -(label * np.log(probability) + (1 - label) * np.log(1 - probability)).mean()
        assert got["oracle_log_loss"] == pytest.approx(loss, rel=1e-9)
        above = probability[label == 1][:, None] - probability[label == 0][None, :]
        assert got["oracle_auc_roc"] == pytest.approx(((above > 0) + (above == 0) / 2).mean(), rel=1e-9)
        assert got["entropy"] < got["constant_log_loss"]
    every = [f for domains in found["splits"].values() for name, f in domains.items() if name != "all"]
    assert sum(f["requests"] for f in every) == found["counts"]["requests"]
    assert sum(f["purchases"] for f in every) == sum(e["kind"] == "purchase" for e in tables["events"])
    elsewhere = sum(e["request_id"] is None for e in tables["events"])
    assert sum(f["purchases"] * f["purchases_elsewhere"] for f in every if f["purchases"]) == pytest.approx(elsewhere)


def test_retargeting_brings_searched_items_back_in_other_domains(default_logs, rows):
    tables, request, _ = rows
    considered: dict[tuple[int, int], list[tuple[int, bool]]] = {}
    for c in tables["candidates"]:
        r = request[c["request_id"]]
        if r["domain"] == "search":
            considered.setdefault((r["user_id"], c["item_id"]), []).append((r["ts"], c["exposed"]))
    clicks = [e for e in tables["events"] if e["kind"] == "click" and e["domain"] != "search"]
    exposed = unexposed = 0
    for e in clicks:
        near = [x for ts, x in considered.get((e["user_id"], e["item_id"]), []) if e["ts"] - 86_400 <= ts < e["ts"]]
        exposed += any(near)
        unexposed += bool(near) and not any(near)
    got = describe(default_logs)["cross_domain"]
    assert got["clicks"] == len(clicks)
    assert got["on_exposed"] == pytest.approx(exposed / len(clicks))
    assert got["on_unexposed"] == pytest.approx(unexposed / len(clicks))
    assert exposed > 50 and unexposed > 50


def test_popularity_has_a_heavy_tail(default_logs):
    got = describe(default_logs)["popularity"]
    assert got["zipf_slope"] < -0.25 and got["head_share"] > 0.03


def test_the_floor_is_named_by_what_it_is(default_logs, stationary_logs, capsys):
    assert describe(default_logs)["floor_name"] == "lower bound of log loss"
    assert main(["describe", str(stationary_logs)]) == 0
    said = capsys.readouterr().out
    assert "irreducible log loss" in said and "lower bound" not in said
    assert main(["describe", str(stationary_logs), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["splits"]["test"]["search"]["exposed"] > 0
    assert render(describe(stationary_logs)) in said


def test_figures_of_one_class_or_nothing_are_nan_not_errors():
    nothing = split_figures(np.empty(0, dtype=np.float32), np.empty(0, dtype=bool))
    assert nothing["exposed"] == 0 and np.isnan(nothing["entropy"])
    no_clicks = split_figures(np.array([0.2, 0.4], dtype=np.float32), np.zeros(2, dtype=bool))
    assert np.isnan(no_clicks["oracle_auc_roc"]) and no_clicks["constant_log_loss"] == 0


def test_what_cannot_be_described_is_one_line_and_exit_2(tmp_path, capsys):
    real = tmp_path / "real"
    real.mkdir()
    manifest.write(real, kind="logs", config={}, counts={"items": 1})
    for path in (tmp_path / "nowhere", tmp_path, real):
        assert main(["describe", str(path)]) == 2
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1 and str(path) in said[0]
    with pytest.raises(InputError, match="without an oracle"):
        describe(real)
