"""Trained rankers in charge of a small shop: what they see, that they are the rankers trained, and mistakes in one line."""

import dataclasses
import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from analysis.online import clusters, paired
from data_gen.marketplace.online import SEGMENTS, Asked
from data_gen.marketplace.takeover import EventLog
from experiments import online
from experiments.asof import Features, past_of
from unisc.cli import main
from unisc.data.columns import load
from unisc.data.schema import KINDS
from unisc.errors import InputError
from unisc.train.evaluate import EvalConfig, score
from unisc.train.scorer import Scorer
from unisc.train.trained import About, load_model

DOMAINS = ("search", "rec", "shop")


def table(logs, name):
    return pq.read_table(logs / name).to_pydict()


@pytest.fixture(scope="module")
def logged(small_shop):
    """Logged requests of the test day as a ranker in charge would have been asked, with the slots they were shown in."""
    columns = load(small_shop.samples, "test", history_len=20).first(40)
    requests, candidates, events = (table(small_shop.logs, name) for name in ("requests", "candidates", "events"))
    by_id = {r: i for i, r in enumerate(requests["request_id"])}
    at = [by_id[r] for r in columns.request_id.tolist()]

    def of_requests(name):
        return np.array([-1 if requests[name][i] is None else requests[name][i] for i in at])

    pairs = {pair: i for i, pair in enumerate(zip(candidates["request_id"], candidates["item_id"], strict=True))}
    sizes = np.diff(columns.candidate_offsets)
    request = np.repeat(columns.request_id, sizes).tolist()
    of = [pairs[pair] for pair in zip(request, columns.item_id.tolist(), strict=True)]
    slots = np.array([-1 if candidates["position"][i] is None else candidates["position"][i] for i in of])
    # Each request has its own copy of its user's events, those after it too.
    places = [(place, i) for place, r in enumerate(at) for i, u in enumerate(events["user_id"]) if u == requests["user_id"][r]]
    of_event = [i for _, i in places]
    log = EventLog(
        user=np.array([place for place, _ in places]),
        ts=np.array([events["ts"][i] for i in of_event]),
        item=np.array([events["item_id"][i] for i in of_event]),
        kind=np.array([KINDS.index(events["kind"][i]) for i in of_event]),
        domain=np.array([DOMAINS.index(events["domain"][i]) for i in of_event]),
    )
    asked = Asked(
        user=np.arange(len(at)),
        user_id=of_requests("user_id"),
        ts=of_requests("ts"),
        domain=np.zeros(len(at), dtype=np.int64),
        query=of_requests("query_id"),
        scene=of_requests("scene"),
        shop=of_requests("shop_id"),
        sizes=sizes,
        item=columns.item_id,
        rank=np.array([candidates["rank"][i] for i in of]),
        price=np.array([candidates["price"][i] for i in of], dtype=np.float32),
        events=log,
    )
    return asked, slots, columns


@pytest.mark.parametrize("model", ["dlrm", "din"])
def test_a_request_as_it_is_made_gives_the_inputs_and_scores_of_its_sample(small_shop, logged, model):
    asked, slots, columns = logged
    trained = load_model(small_shop.rankers[model])
    features = Features(small_shop.logs)
    made = features.columns(asked, trained.about, position=slots)
    for name in ("user_id", "ts", "domain", "candidate_offsets", "request_fields", "candidate_fields", "candidate_numeric"):
        np.testing.assert_array_equal(getattr(made, name), getattr(columns, name), err_msg=name)
    np.testing.assert_array_equal(made.history_offsets, columns.history_offsets)
    np.testing.assert_array_equal(made.history_fields, columns.history_fields)
    assert (np.diff(columns.history_offsets) == 20).any() and (columns.candidate_numeric != 0).any(axis=0).all()

    # Whole lists, positions hidden: what evaluation scores on full lists is what a ranker in charge orders by.
    config = EvalConfig(batch_candidates=256, list_len=trained.about.list_len)
    state = dataclasses.make_dataclass("State", ["table"])(trained.table)
    evaluated = score(trained.model, state, columns, config, row_map=trained.row_map).full
    scorer = Scorer(trained, batch_candidates=256, mean_list_len=60.0)
    np.testing.assert_allclose(scorer(made), evaluated, rtol=1e-4, atol=1e-5)
    # A list of which nothing has been shown is its own context, which moves only the features that compare with a list.
    before = features.columns(asked, trained.about)
    fields = [f.name for f in before.spec.at("candidate")]
    moved = {fields[k] for k in np.flatnonzero((before.candidate_fields != made.candidate_fields).any(axis=0))}
    assert moved <= {"position", "steps_below", "touch_rank"}


def test_a_trained_ranker_comes_back_as_it_was_evaluated(small_shop):
    columns = load(small_shop.samples, "test", history_len=20)
    for directory in small_shop.rankers.values():
        trained = load_model(directory)
        kept = np.load(directory / "eval.npz")
        config = EvalConfig(batch_candidates=256, list_len=trained.about.list_len)
        state = dataclasses.make_dataclass("State", ["table"])(trained.table)
        logits = score(trained.model, state, columns, config, row_map=trained.row_map).exposed
        held = np.repeat(np.isin(columns.request_id, kept["request_id"]), np.diff(columns.candidate_offsets))
        np.testing.assert_allclose(logits[held & columns.exposed], kept["exposed/logits"], rtol=1e-4, atol=1e-5)


def test_the_past_holds_nothing_of_the_same_second_and_counts_as_said():
    log = EventLog(
        user=np.array([0, 0, 0, 1]), ts=np.array([5, 9, 10, 1]), item=np.array([7, 7, 7, 7]),
        kind=np.array([0, 1, 2, 0]), domain=np.array([0, 1, 0, 0]),
    )  # fmt: skip
    asked = Asked(
        user=np.array([1, 0]), user_id=np.array([4, 3]), ts=np.array([1, 10]), domain=np.zeros(2, int), query=np.zeros(2, int),
        scene=np.full(2, -1), shop=np.full(2, -1), sizes=np.array([1, 2]), item=np.array([7, 7, 8]), rank=np.array([0, 0, 1]),
        price=np.ones(3, np.float32), events=log,
    )  # fmt: skip
    past = past_of(asked, length=20, max_age=0)
    assert past.lengths.tolist() == [0, 2] and past.age.tolist() == [1, 5] and past.kind.tolist() == [1, 0]
    assert past.touches.tolist() == [0, 2, 0] and past.touch_age.tolist() == [-1, 1, -1]
    assert past_of(asked, length=1, max_age=0).age.tolist() == [1]
    assert past_of(asked, length=20, max_age=4).age.tolist() == [1]


def test_the_same_test_with_any_number_of_workers(small_shop):
    shop = online.open_shop(small_shop.logs)
    rankers = ["random", str(small_shop.rankers["dlrm"])]
    settings = online.Settings(requests=600)
    one, two = (online.simulate(shop, rankers, settings, workers=n) for n in (1, 2))
    for name in ("user_id", "life", "requests", "sums"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert one.requests[:, -1].sum() == 600
    charge = SEGMENTS.index("in charge")
    # Sixty batches of training are enough to beat chance.
    data = clusters(one.user_id, one.requests[:, [charge]], one.sums[:, :, [charge]])
    better, _ = paired(data.requests[:, 0], data.sums[0, :, 0, 0], data.sums[1, :, 0, 0])
    assert better.low > 0


def test_a_ranker_against_itself_differs_by_nothing(small_shop):
    shop, ranker = online.open_shop(small_shop.logs), str(small_shop.rankers["din"])
    outcome = online.simulate(shop, [ranker, ranker], online.Settings(requests=200, domains="all"), workers=1)
    np.testing.assert_array_equal(outcome.sums[0], outcome.sums[1])


def test_requests_beyond_what_visitors_make_are_further_lives(small_shop):
    shop = online.open_shop(small_shop.logs)
    outcome = online.simulate(shop, ["shop"], online.Settings(requests=1_000, days=1), workers=1)
    assert outcome.requests[:, -1].sum() == 1_000 and outcome.life.max() == 4  # 1,500 in 8 days: 188 a life
    again = online.simulate(shop, ["shop"], online.Settings(requests=1_000, days=1), workers=1)
    np.testing.assert_array_equal(outcome.sums, again.sums)


def test_frequent_queries_are_the_head():
    found = online.classify(np.array([1, 40, 10, 0, 10, 10, 10]))
    assert found.tolist() == [2, 0, 1, 2, 1, 2, 2]


@pytest.fixture
def unisc(monkeypatch, capsys):
    """Run `unisc ab` in this process; return its exit status, what it printed and what it complained of."""

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["unisc", "ab", *map(str, arguments)])
        try:
            main()
            status = 0
        except SystemExit as e:
            status = e.code
        return status, *capsys.readouterr()

    return run


def test_the_command_says_who_sells_more_and_leaves_it_as_json(small_shop, tmp_path, unisc):
    arms = small_shop.rankers["dlrm"], small_shop.rankers["din"]
    out = tmp_path / "out" / "ab.json"
    status, said, wrong = unisc(*arms, "--logs", small_shop.logs, "--requests", 300, "--workers", 1, "--json", out)
    assert status == 0, wrong
    assert "paired difference" in said and "offline eval/exposed/auc_roc" in said and "inf" not in said and "nan" not in said
    found = json.loads(out.read_text(), parse_constant=pytest.fail)
    assert found["online"]["segments"]["all pages"]["requests"] == 300
    assert {row["metric"] for row in found["offline"]} >= {"eval/exposed/auc_roc", "eval/full/auc_roc"}
    assert len(found["online"]["looks"]["clicks"]) == 10


def mistakes(small_shop, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(small_shop.rankers["dlrm"], other / "shop")
    with np.load(other / "shop" / "model.npz") as f:
        arrays = dict(f)
    about = json.loads(str(arrays["about"]))
    np.savez(other / "shop" / "model.npz", **{**arrays, "about": np.array(json.dumps({**about, "logs": "f" * 16}))})
    shutil.copytree(other / "shop", other / "schema")
    spec = {**about["spec"], "fields": about["spec"]["fields"][:-1]}
    np.savez(other / "schema" / "model.npz", **{**arrays, "about": np.array(json.dumps({**about, "spec": spec}))})
    shutil.copytree(other / "shop", other / "broken")
    (other / "broken" / "model.npz").write_bytes(b"nonsense")
    yield [str(small_shop.rankers["dlrm"]), str(other / "shop")], "trained on samples of another shop"
    yield [str(small_shop.rankers["dlrm"]), str(other / "schema")], "trained on another schema"
    yield [str(other / "broken"), "shop"], "not a readable ranker"
    yield [str(tmp_path), "shop"], "holds no trained ranker"
    yield ["nowhere", "shop"], "holds no trained ranker"


def test_a_ranker_that_cannot_be_judged_here_is_one_line(small_shop, tmp_path):
    shop = online.open_shop(small_shop.logs)
    for rankers, message in mistakes(small_shop, tmp_path):
        with pytest.raises(InputError, match=message) as e:
            online.check_rankers(shop, rankers)
        assert "\n" not in str(e.value) and "; " in str(e.value)


def test_a_control_is_not_its_own_treatment(small_shop, tmp_path):
    dlrm = small_shop.rankers["dlrm"]
    shutil.copytree(dlrm, tmp_path / "copy")
    for pair in (("random", "random"), (str(dlrm), str(dlrm)), (str(dlrm), str(tmp_path / "copy"))):
        with pytest.raises(InputError, match="are the same ranker; give two"):
            online.check_different(*pair)
    online.check_different(str(dlrm), str(small_shop.rankers["din"]))


def test_logs_without_a_truth_are_one_line(small_shop, tmp_path):
    made = json.loads((small_shop.logs / "manifest.json").read_text())
    for name, change, message in (
        ("real", {"generator": "trivago"}, "not logs of a generated shop"),
        ("blind", {"counts": {"requests": 1}}, "logs without an oracle"),
        ("old", {"versions": {"marketplace": 0}}, "made by version 0 of the marketplace"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(json.dumps({**made, "shards": {}, **change}))
        with pytest.raises(InputError, match=message):
            online.open_shop(tmp_path / name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--requests", "0"], "requests 0: give at least 1"),
        (["--days", "0"], "days 0: give at least 1"),
        (["--domains", "mail"], "domains 'mail': unknown; give search or all"),
        (["--workers", "-1"], "--workers -1: must be at least 0"),
        (["--looks", "0"], "--looks 0: must be at least 1"),
        (["--seed", "-1"], "seed -1: give at least 0"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(small_shop, unisc, options, message):
    status, said, wrong = unisc("shop", "random", "--logs", small_shop.logs, *options)
    assert status == 2 and not said and wrong.count("\n") == 1 and message in wrong


def test_about_says_what_samples_kept_of_the_past(small_shop):
    about = load_model(small_shop.rankers["din"]).about
    assert isinstance(about, About) and (about.past_len, about.past_max_age, about.hash_rows) == (20, 0, 300)
    made = json.loads((small_shop.samples / "manifest.json").read_text())
    assert (about.samples, about.logs, about.composition) == (made["fingerprint"], made["logs"], "exposed")
