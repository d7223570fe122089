"""What samples may depend on: features on the past alone, labels on their windows alone, nothing on how the logs lie on disk.

The shops are small and full of ties: requests of one second, events at the very second of a request, at a window's last second
and the one after it, the same item met in every domain. Every example is rich and its builds take seconds, so few are run.
"""

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from data_gen.es3 import ES3Config, build
from data_gen.es3.config import RELEVANCE
from data_gen.es3.searchify import SLOTS
from unisc.data import manifest
from unisc.data.schema import KINDS

HOUR, DAY = 3600, 86400
TARGET = "search"
TEST_START = 3 * DAY
CLICK_WINDOW, PURCHASE_WINDOW = 2 * HOUR, 5 * HOUR
ITEMS, USERS, TIMES = 8, 4, 14
LAGS = (0, 1, HOUR, CLICK_WINDOW, CLICK_WINDOW + 1, PURCHASE_WINDOW, PURCHASE_WINDOW + 1, 30 * HOUR)
LABELS = [f"{kind}{part}" for kind in ("click", "purchase") for part in ("", "_level", "_origin", "_ts", "_weight")]

seeds = st.integers(0, 2**32 - 1)
configs = st.builds(
    ES3Config,
    composition=st.just("searchified"),
    click_window=st.just(CLICK_WINDOW),
    purchase_window=st.just(PURCHASE_WINDOW),
    relevance=st.sampled_from(RELEVANCE),
    history_len=st.sampled_from([20, 3]),
    history_max_age=st.sampled_from([0, DAY]),
    label_half_life=st.sampled_from([0, HOUR]),
    negatives=st.sampled_from(["similar", "random", "all"]),
)


def few_or_many(few: int):
    return pytest.mark.parametrize("n", [few, pytest.param(100, marks=pytest.mark.slow)])


def examples(n: int) -> settings:
    """Derandomized; a seed cannot shrink to anything simpler."""
    checks = list(HealthCheck)
    return settings(
        max_examples=n, deadline=None, derandomize=True, database=None, phases=[Phase.generate], suppress_health_check=checks
    )


@pytest.fixture
def laboratory(tmp_path, make_shop, read_samples):
    """Makes shops, and samples of them."""
    return Laboratory(tmp_path, make_shop, read_samples)


class Laboratory:
    def __init__(self, root: Path, make_shop: Callable[[], Any], read_samples: Callable[..., dict]) -> None:
        self.root, self.make_shop, self.read_samples, self.count = root, make_shop, read_samples, 0

    def shop(self, seed: int) -> Any:
        """Visits at a few half hours of four days; events a lag after one of these; and echoes, which are pages shown at the
        very second of an event with its item on top."""
        rng = random.Random(seed)
        shop, times = self.make_shop(test_start=TEST_START).live(), half_hours(seed)
        for i in range(ITEMS):
            shop.item(i, categories=(0, i % 2, i % 3), brand=i % 2, title=f"w{i % 3} w{i % 4}")
        for i in range(4):
            shop.query(f"w{i}", category_3=[None, 0, 1, 2][i])
        for _ in range(USERS):
            shop.user()
        for _ in range(50):
            user, items = 1 + rng.randrange(USERS), rng.sample(range(ITEMS), ITEMS)
            visit(shop, rng, user, rng.choice(times), items, times, domain=rng.choice([TARGET, TARGET, "rec", "rec", "shop"]))
        shop.rows["events"] += outside(shop, rng, times)
        events = shop.rows["events"]
        for event in [*rng.choices(clicks_after_queries(shop) or events, k=10), *rng.choices(events, k=10)]:
            top, user, ts = event["item_id"], event["user_id"], event["ts"]
            items = [top, *(i for i in rng.sample(range(ITEMS), ITEMS) if i != top)]
            request = visit(shop, rng, user, ts, items, times, domain=rng.choice(["rec", "rec", TARGET]))
            shop.event(user, top, ts + rng.choice(LAGS), shop.rows["requests"][request]["domain"], request=request)
        shop.rows["events"] = once(shop.rows["events"])
        return shop

    def build(self, logs: Path, config: ES3Config, **resources: Any) -> tuple[Path, dict[str, Any]]:
        self.count += 1
        out = self.root / f"out-{self.count}"
        return out, build(logs, out, config, **{"threads": 1, "memory": "256MiB", **resources})

    def samples(self, shop, config: ES3Config, **replaced: pa.Table) -> dict[tuple[str, int], dict[str, Any]]:
        """Rows by (split, request_id)."""
        logs = shop.write(self.root / f"logs-{self.count}", **replaced)
        out, made = self.build(logs, config)
        assert made["counts"]["quarantined"] == 0
        return {(split, i): row for split in ("train", "test") for i, row in self.read_samples(out, split).items()}


def half_hours(seed: int) -> list[int]:
    """Unix seconds of a shop's times; the split lies among them."""
    drawn = random.Random(seed).sample(range(48 * 4), TIMES - 3)
    return [TEST_START - HOUR, TEST_START, TEST_START + HOUR, *(1800 * half for half in drawn)]


def visit(shop, rng: random.Random, user: int, ts: int, items: list[int], times: list[int], domain: str) -> int:
    """A page, more of it shown on a feed than on a search, so that there are negatives to choose; and what came of it."""
    shown = rng.randrange(4) if domain == TARGET else rng.randrange(3, 8)
    query = rng.choice([None, 0, 1, 2, 3]) if domain == TARGET else None
    request = shop.request(user, ts, shown=items[:shown], hidden=items[shown:], domain=domain, query=query)
    for item in items[: min(shown, 3)]:
        if rng.random() < 0.6:
            at = ts + rng.choice(LAGS) if rng.random() < 0.6 else max(ts, rng.choice(times))
            # What began on a page may end in another domain: then it is an outside event that names a request.
            end = "shop" if rng.random() < 0.1 else domain
            shop.event(user, item, at, end, rng.choice(["click", *KINDS]), request=request)
            if rng.random() < 0.4:
                shop.event(user, item, at + rng.choice([*LAGS, PURCHASE_WINDOW + 1]), "shop", "purchase")
    return request


def outside(shop, rng: random.Random, times: list[int]) -> list[dict[str, Any]]:
    return [
        {
            "user_id": 1 + rng.randrange(USERS),
            "item_id": rng.randrange(ITEMS),
            "ts": max(0, rng.choice(times) + rng.choice([*LAGS, -1])),
            "domain": rng.choice(shop.domains),
            "kind": rng.choice(KINDS),
            "request_id": None,
        }
        for _ in range(60)
    ]


def clicks_after_queries(shop) -> list[dict[str, Any]]:
    asked = {r["request_id"] for r in shop.rows["requests"] if r["query_id"] is not None}
    return [e for e in shop.rows["events"] if e["request_id"] in asked and e["kind"] == "click" and e["domain"] == TARGET]


def once(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without repetitions: two equal rows are one event said twice, which the intake sets aside."""
    return list({tuple(sorted(e.items(), key=lambda cell: cell[0])): e for e in events}.values())


def entries(row: dict[str, Any]) -> dict[str, Any]:
    """What a request's row says besides its candidates."""
    return {k: v for k, v in row.items() if k not in ("candidates", "request_id")}


def seen(candidate: dict[str, Any]) -> str:
    """A candidate's features; as text, in which two NaN are alike."""
    return repr({k: v for k, v in candidate.items() if k not in LABELS and k != "probability"})


def labels(row: dict[str, Any]) -> dict[int, list]:
    return {item: [c[name] for name in LABELS] for item, c in row["candidates"].items()}


def origin_of(key: tuple[str, int], row: dict[str, Any]) -> tuple:
    """A name of a row that does not depend on how many other clicks its list got."""
    split, request = key
    if request >= 0:
        return split, request
    positive = next(i for i, c in row["candidates"].items() if c["click"])
    return split, (-1 - request) // SLOTS, positive


@few_or_many(8)
def test_events_at_or_after_a_request_change_none_of_its_features(laboratory, n):
    @examples(n)
    @given(seed=seeds, config=configs, place=st.integers(0, 999), pages=st.booleans())
    def check(seed, config, place, pages):
        shop = laboratory.shop(seed)
        # The second of a feed in which its user clicked on a search: there is most to leak.
        clicks = {(e["user_id"], e["ts"]) for e in clicks_after_queries(shop)}
        times = [r["ts"] for r in shop.rows["requests"] if r["domain"] != TARGET and (r["user_id"], r["ts"]) in clicks]
        times = times or [r["ts"] for r in shop.rows["requests"]]
        cut = times[place % len(times)]
        everything = {origin_of(k, row): row for k, row in laboratory.samples(shop, config).items()}
        feeds = {r["request_id"] for r in shop.rows["requests"] if r["domain"] != TARGET and r["ts"] <= cut}
        # Each split must have a click, or there is no build: those of the one user who met nobody else stay. A pseudo request
        # is made of a click that comes after it: where `pages` is true, what happened on the feeds stays as well.
        kept = [e for e in shop.rows["events"] if e["ts"] < cut or e["user_id"] == 0 or (pages and e["request_id"] in feeds)]
        changed = {e["request_id"] for e in once(shop.rows["events"]) if e not in kept}
        shop.rows["events"] = kept
        past = {origin_of(k, row): row for k, row in laboratory.samples(shop, config).items()}
        names = [name for name, row in everything.items() if row["ts"] <= cut]
        assert {n for n in names if len(n) == 2} == {n for n, row in past.items() if row["ts"] <= cut and len(n) == 2}
        assert {n for n, row in past.items() if row["ts"] <= cut} <= set(names)
        for name in names:
            if name not in past:
                continue
            ours, theirs = everything[name], past[name]
            assert entries(ours) == entries(theirs)
            here, there = ours["candidates"], theirs["candidates"]
            for item in here.keys() & there.keys():
                assert seen(here[item]) == seen(there[item])
                if all(here[item][c] == there[item][c] for c in LABELS):
                    assert here[item]["probability"] == there[item]["probability"]
            # Who is in a list is decided before anybody reacts; a label brings its candidate along.
            if len(name) == 2:
                assert there.keys() <= here.keys()
                added = [here[i] for i in here.keys() - there.keys()]
                assert all(max(c["click_level"], c["purchase_level"]) > 1 for c in added)
            elif name[1] not in changed:
                assert list(here) == list(there)

    check()


def far_from_everything(shop, config: ES3Config) -> Callable[[dict[str, Any]], bool]:
    """Tell events no label may depend on: outside the windows of all that could take them, or after a train page's period."""
    requests = {r["request_id"]: r for r in shop.rows["requests"]}
    marks: dict[int, list[int]] = {}
    for r in requests.values():
        if r["domain"] == TARGET:
            marks.setdefault(r["user_id"], []).append(r["ts"])
    clicks: dict[tuple[int, int], list[int]] = {}
    for e in shop.rows["events"]:
        page = requests.get(e["request_id"])
        if page and page["domain"] == e["domain"] != TARGET and e["kind"] == "click":
            clicks.setdefault((e["user_id"], e["item_id"]), []).append(e["ts"])

    def far(e: dict[str, Any]) -> bool:
        page = requests.get(e["request_id"])
        if page and page["domain"] == e["domain"]:
            return page["ts"] < shop.test_start <= e["ts"]
        if e["kind"] == "cart" or e["ts"] >= shop.test_start:
            return True
        window = config.click_window if e["kind"] == "click" else config.purchase_window
        near = any(0 < e["ts"] - t <= window for t in marks.get(e["user_id"], []))
        # A pseudo request is labelled by purchases that follow its click.
        after = clicks.get((e["user_id"], e["item_id"]), []) if e["kind"] == "purchase" else []
        return not near and not any(0 <= e["ts"] - t <= window for t in after)

    return far


def just_outside(shop) -> list[dict[str, Any]]:
    """Events on what was shown: in the second of a search, in the one after its windows, or after those of a feed's click."""
    marks = [("click", 0), ("purchase", 0), ("click", CLICK_WINDOW + 1), ("purchase", PURCHASE_WINDOW + 1)]
    requests = {r["request_id"]: r for r in shop.rows["requests"]}
    found = []
    for c in shop.rows["candidates"]:
        r = requests[c["request_id"]]
        kind, lag = marks[c["item_id"] % 4]
        if r["domain"] == TARGET:
            found.append((r["user_id"], c["item_id"], r["ts"] + lag, kind))
    clicks = [e for e in shop.rows["events"] if e["request_id"] is not None and e["kind"] == "click"]
    found += [(e["user_id"], e["item_id"], e["ts"] + PURCHASE_WINDOW + 1, "purchase") for e in clicks]
    names = ("user_id", "item_id", "ts", "kind")
    return [{**dict(zip(names, f, strict=True)), "domain": "rec", "request_id": None} for f in found]


@few_or_many(4)
def test_labels_do_not_depend_on_events_outside_their_windows(laboratory, n):
    @examples(n)
    @given(seed=seeds, config=configs)
    def check(seed, config):
        shop = laboratory.shop(seed)
        far = far_from_everything(shop, config)
        before = laboratory.samples(shop, config)
        moved = [e for e in shop.rows["events"] if not far(e)]
        gone = len(shop.rows["events"]) - len(moved)
        others = outside(shop, random.Random(seed + 1), half_hours(seed)) + just_outside(shop)
        moved = once(moved + [e for e in others if far(e)])
        assert gone + len(moved) > len(shop.rows["events"]) - gone
        shop.rows["events"] = moved
        after = laboratory.samples(shop, config)
        assert before.keys() == after.keys()
        for key, row in before.items():
            ours, theirs = row["candidates"], after[key]["candidates"]
            assert {i: [c[x] for x in LABELS] for i, c in ours.items()} == {
                i: [c[x] for x in LABELS] for i, c in theirs.items()
            }

    check()


@few_or_many(3)
def test_every_event_ends_under_one_name(laboratory, n):
    @examples(n)
    @given(seed=seeds, config=configs)
    def check(seed, config):
        shop = laboratory.shop(seed)
        out, made = laboratory.build(shop.write(laboratory.root / f"logs-{laboratory.count}"), config)
        domain_of = {r["request_id"]: r["domain"] for r in shop.rows["requests"]}
        events = shop.rows["events"]
        on_page = [domain_of.get(e["request_id"]) == TARGET == e["domain"] for e in events]
        outside = Counter(e["kind"] for e, here in zip(events, on_page, strict=True) if not here)
        rows = list(laboratory.read_samples(out).values())
        for kind, fates in made["quality"]["attribution"].items():
            fates = dict(fates)
            assert fates.pop("events") == sum(fates.values()) == outside[kind]
            labels = [c[f"{kind}_level"] for row in rows if row["origin"] == "logged" for c in row["candidates"].values()]
            assert sum(level > 1 for level in labels) == fates["attributed"]
        fates = {k: v for k, v in made["quality"]["searchification"].items() if isinstance(v, int)}
        clicks = sum(e["kind"] == "click" and e["domain"] != TARGET for e in events)
        assert fates.pop("clicks") == sum(fates.values()) == clicks
        assert fates["searchified"] == sum(row["origin"] == "searchified" for row in rows)

    check()


def files(directory: Path) -> dict[str, bytes]:
    return {f"{s}/{p.name}": p.read_bytes() for s in ("train", "test") for p in sorted((directory / s).iterdir())}


@few_or_many(3)
def test_neither_the_order_of_rows_nor_their_files_matter(laboratory, n):
    @examples(n)
    @given(seed=seeds, relevance=st.sampled_from(RELEVANCE))
    def check(seed, relevance):
        windows = {"click_window": CLICK_WINDOW, "purchase_window": PURCHASE_WINDOW}
        config = ES3Config(composition="searchified", relevance=relevance, **windows)
        rng = np.random.default_rng(seed)
        shop = laboratory.shop(seed)
        logs = shop.write(laboratory.root / f"logs-{laboratory.count}")
        one, made = laboratory.build(logs, config)
        mixed = laboratory.root / f"mixed-{laboratory.count}"
        for name, table in shop.tables().items():
            (mixed / name).mkdir(parents=True)
            table = table.take(pa.array(rng.permutation(len(table))))
            edges = np.sort(rng.integers(0, len(table) + 1, 3))
            for i, (low, high) in enumerate(zip([0, *edges], [*edges, len(table)], strict=True)):
                pq.write_table(table.slice(low, high - low), mixed / name / f"part-{i:05d}.parquet", row_group_size=7)
        described = {k: made_of for k, made_of in manifest.read(logs, kind="logs").items() if k in ("domains", "test_start")}
        manifest.write(mixed, kind="logs", config={}, counts={}, **described)
        other, remade = laboratory.build(mixed, config)
        assert files(other) == files(one)
        assert remade["quality"] == made["quality"]

    check()


@few_or_many(2)
def test_the_number_of_buckets_does_not_matter(laboratory, n):
    @examples(n)
    @given(seed=seeds, config=configs, buckets=st.integers(2, 7))
    def check(seed, config, buckets):
        shop = laboratory.shop(seed)
        logs = shop.write(laboratory.root / f"logs-{laboratory.count}")
        (one, made), (other, remade) = (laboratory.build(logs, config, buckets=b) for b in (1, buckets))
        assert files(other) == files(one)
        assert remade["quality"] == made["quality"]

    check()
