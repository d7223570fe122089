"""Every rule of hierarchical label attribution on one shop, a user a rule, expectations worked out by hand."""

from types import SimpleNamespace

import pytest

from data_gen.es3 import ES3Config, build

HOUR, DAY = 3600, 86400
T = 5 * DAY
"""When the searches of these users are made."""


@pytest.fixture(scope="module")
def built(tmp_path_factory, make_shop, read_samples):
    shop = make_shop().live()
    shoes, coats = shop.query("shoes", category_3=1), shop.query("coats", category_3=2)
    for i in range(10):
        shop.item(i, categories=(0, 0, 1))
    r = SimpleNamespace()

    u = shop.user()
    r.exposed = shop.request(u, T, shown=[1, 2], hidden=[3, 4, 5, 6, 7, 8, 9], query=shoes)
    shop.event(u, 2, T + HOUR, "rec")

    u = shop.user()
    r.hidden = shop.request(u, T, shown=[1], hidden=[2, 3, 4, 5, 6, 7, 8], query=shoes)
    for item in range(2, 9):
        shop.event(u, item, T + HOUR, "shop")

    u = shop.user()
    r.older, r.recent = shop.request(u, T, shown=[1, 2]), shop.request(u, T + 60, shown=[1, 2])
    shop.event(u, 1, T + HOUR, "rec")

    u = shop.user()
    r.older_shown, r.recent_hidden = shop.request(u, T, shown=[1]), shop.request(u, T + 60, shown=[2], hidden=[1])
    shop.event(u, 1, T + HOUR, "rec")

    u = shop.user()
    r.window = shop.request(u, T, shown=[1, 2, 3])
    shop.event(u, 1, T + DAY, "rec")
    shop.event(u, 2, T + DAY + 1, "rec")  # no_request_in_window
    shop.event(u, 3, T + 3 * DAY, "rec", "purchase")

    u = shop.user()
    r.relevance, r.silent = shop.request(u, T, shown=[1], query=coats), shop.request(u, T - 60, shown=[2])
    shop.event(u, 1, T + HOUR, "rec")  # not_relevant
    shop.event(u, 2, T + HOUR, "rec")
    shop.event(u, 9, T + HOUR, "rec")  # not_a_candidate

    u = shop.user()
    r.positive = shop.request(u, T, shown=[1, 2])
    shop.event(u, 1, T + 5, request=r.positive)
    shop.event(u, 1, T + HOUR, "rec")  # already_positive
    shop.event(u, 2, T + 2 * HOUR, "shop")
    shop.event(u, 2, T + 3 * HOUR, "rec")  # already_positive: the earlier event labels

    u = shop.user()
    r.bought = shop.request(u, T, shown=[1, 2, 3], hidden=[4, 5, 6, 7, 8, 9])
    shop.event(u, 1, T + 5, request=r.bought)
    shop.event(u, 1, T + DAY, "shop", "purchase")
    shop.event(u, 2, T + DAY, "rec", "purchase")
    shop.event(u, 4, T + DAY, "search", "purchase")  # search by domain, but on no page

    u = shop.user()
    r.clicked_first, r.unclicked_later = shop.request(u, T, shown=[1]), shop.request(u, T + 60, shown=[1])
    shop.event(u, 1, T + 5, request=r.clicked_first)
    shop.event(u, 1, T + HOUR, "rec", "purchase")

    u = shop.user()
    r.same_second = shop.request(u, T, shown=[1, 2])
    shop.event(u, 1, T, "rec")  # no_request_in_window: not after the request
    shop.event(u, 2, T - 1, "rec")  # no_request_in_window

    u = shop.user()
    r.late = shop.request(u, shop.test_start - 10, shown=[1, 2, 3])
    shop.event(u, 1, shop.test_start - 1, "rec")
    shop.event(u, 2, shop.test_start, "rec")  # test_period
    shop.event(u, 3, shop.test_start + 5, request=r.late)  # on the page, but seen in the test period

    logs = shop.write(tmp_path_factory.mktemp("attribution") / "logs")
    out = logs.parent / "samples"
    made = build(logs, out, ES3Config(composition="attributed"), threads=1)
    samples = read_samples(out)

    def label(request: int, item: int, kind: str = "click") -> tuple[int, int]:
        c = samples[request]["candidates"][item]
        assert c[kind] == (c[f"{kind}_level"] > 0)
        return c[f"{kind}_level"], c[f"{kind}_origin"]

    return SimpleNamespace(label=label, samples=samples, r=r, quality=made["quality"])


NONE = (0, -1)
SEARCH, REC, SHOP = range(3)


def test_click_elsewhere_labels_the_exposed_sample(built):
    assert built.label(built.r.exposed, 2) == (2, REC)
    assert built.label(built.r.exposed, 1) == NONE


def test_click_on_unexposed_candidate_joins_the_sample_even_if_not_drawn(built):
    candidates = built.samples[built.r.hidden]["candidates"]
    assert {i for i, c in candidates.items() if not c["exposed"]} == set(range(2, 9)), "2 drawn, all 7 labelled"
    for item in range(2, 9):
        assert built.label(built.r.hidden, item) == (3, SHOP)
        assert candidates[item]["probability"] == 1
    drawn = [c for c in built.samples[built.r.exposed]["candidates"].values() if not c["exposed"]]
    assert len(drawn) == 4
    assert {round(c["probability"], 6) for c in drawn} == {round(4 / 7, 6)}


def test_most_recent_request_wins_within_a_level(built):
    assert built.label(built.r.recent, 1) == (2, REC)
    assert built.label(built.r.older, 1) == NONE


def test_level_comes_before_recency(built):
    assert built.label(built.r.older_shown, 1) == (2, REC)
    assert built.label(built.r.recent_hidden, 1) == NONE


def test_window_is_by_kind_and_includes_its_end(built):
    assert built.label(built.r.window, 1) == (2, REC)
    assert built.label(built.r.window, 2) == NONE
    assert built.label(built.r.window, 3, "purchase") == (3, REC)


def test_relevance_needs_the_category_the_query_names(built):
    assert built.label(built.r.relevance, 1) == NONE
    assert built.label(built.r.silent, 2) == (2, REC)


def test_one_label_a_sample_the_page_first_then_the_earliest_event(built):
    assert built.label(built.r.positive, 1) == (1, SEARCH)
    assert built.label(built.r.positive, 2) == (2, SHOP)


def test_purchase_prefers_clicked_then_exposed_then_unexposed(built):
    assert built.label(built.r.bought, 1, "purchase") == (2, SHOP)
    assert built.label(built.r.bought, 2, "purchase") == (3, REC)
    assert built.label(built.r.bought, 4, "purchase") == (4, SEARCH)
    assert built.label(built.r.bought, 4) == NONE, "a purchase is no click"
    assert built.label(built.r.clicked_first, 1, "purchase") == (2, REC)
    assert built.label(built.r.unclicked_later, 1, "purchase") == NONE


def test_only_the_past_is_attributed_to(built):
    assert built.label(built.r.same_second, 1) == NONE
    assert built.label(built.r.same_second, 2) == NONE


def test_nothing_of_the_test_period_labels_train(built):
    assert built.label(built.r.late, 1) == (2, REC)
    assert built.label(built.r.late, 2) == NONE
    assert built.label(built.r.late, 3) == NONE


def test_every_outside_event_has_one_fate(built):
    assert built.quality["attribution"] == {
        "click": {
            "events": 22, "attributed": 14, "test_period": 1, "no_request_in_window": 3, "not_a_candidate": 1,
            "not_relevant": 1, "already_positive": 2,
        },
        "purchase": {
            "events": 5, "attributed": 5, "test_period": 0, "no_request_in_window": 0, "not_a_candidate": 0,
            "not_relevant": 0, "already_positive": 0,
        },
    }  # fmt: skip


def test_without_relevance_rule_the_irrelevant_is_attributed(tmp_path, shop, read_samples):
    shop.live()
    coats = shop.query("coats", category_3=2)
    user = shop.user()
    request = shop.request(user, T, shown=[1], query=coats)
    shop.event(user, 1, T + HOUR, "rec")
    logs = shop.write(tmp_path / "logs")
    build(logs, tmp_path / "out", ES3Config(composition="attributed", relevance="none"), threads=1)
    assert read_samples(tmp_path / "out")[request]["candidates"][1]["click_level"] == 2


def test_text_relevance_asks_for_enough_of_the_querys_rare_words(tmp_path, shop, read_samples):
    # "red" is in three of four queries and "kettle" in one: weights ln(5/4) + 1 = 1.223 and ln(5/2) + 1 = 1.916.
    asked = shop.query("red kettle")
    shop.query("red shirt"), shop.query("red hat"), shop.query("blue coat")
    titles = {1: "Red pot", 2: "steel KETTLE", 3: "RED kettle!", 4: "green pot", 5: ""}
    for item, title in titles.items():
        shop.item(item, title=title)
    user = shop.live().user()
    request = shop.request(user, T, shown=list(titles), query=asked)
    for item in titles:
        shop.event(user, item, T + item, "rec")
    logs = shop.write(tmp_path / "logs")
    for threshold, labelled in ((0.3, {1, 2, 3, 5}), (0.5, {2, 3, 5}), (0.7, {3, 5}), (1.0, {3, 5})):
        out = tmp_path / f"out-{threshold}"
        config = ES3Config(composition="attributed", relevance="text", text_threshold=threshold)
        made = build(logs, out, config, threads=1)
        row = read_samples(out)[request]
        assert {i for i, c in row["candidates"].items() if c["click"]} == labelled, (
            "a title that says nothing is not held against"
        )
        assert made["quality"]["attribution"]["click"]["not_relevant"] == len(titles) - len(labelled)


def test_labels_weigh_less_with_lag_and_level(tmp_path, shop, read_samples):
    user = shop.live().user()
    request = shop.request(user, T, shown=[1, 2, 3], hidden=[4])
    shop.event(user, 1, T + 5, request=request)
    shop.event(user, 2, T + 6 * HOUR, "rec")
    shop.event(user, 4, T + 12 * HOUR, "rec")
    shop.event(user, 1, T + 24 * HOUR, "rec", "purchase")
    logs = shop.write(tmp_path / "logs")
    config = ES3Config(composition="attributed", label_half_life=12 * HOUR, level_confidence=0.5)
    build(logs, tmp_path / "out", config, threads=1)
    c = read_samples(tmp_path / "out")[request]["candidates"]
    assert c[1]["click_weight"] == 1, "the page's own"
    assert c[2]["click_weight"] == pytest.approx(0.5**0.5 * 0.5, abs=1e-6)
    assert c[4]["click_weight"] == pytest.approx(0.5 * 0.5**2, abs=1e-6)
    assert c[1]["purchase_weight"] == pytest.approx(0.5**2 * 0.5, abs=1e-6)
    assert c[3]["click_weight"] == 1, "no label"
