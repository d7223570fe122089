"""Compositions as views of one table: every candidate any of them holds, marked with the stage that brought it in."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import ibis
import ibis.expr.types as ir

from data_gen.es3.attribution import attribute
from data_gen.es3.candidates import CLICK, PURCHASE, TARGET, make_pool
from data_gen.es3.config import ES3Config
from data_gen.es3.hashing import with_hash
from data_gen.es3.sampling import with_draws
from data_gen.es3.searchify import searchify
from data_gen.es3.session import Session
from data_gen.es3.shared import Shared
from data_gen.es3.tables import Logs
from data_gen.es3.timeline import Timeline, count_earlier, make_timeline, with_touches
from unisc.data.schema import COMPOSITIONS

EXPOSED, UNEXPOSED, ATTRIBUTED, SEARCHIFIED = range(len(COMPOSITIONS))


@dataclass(frozen=True, kw_only=True, slots=True)
class Material:
    """What every composition up to the largest one asked for is a view of.

    `requests` and `candidates` are the train rows, `test_requests` and `test_candidates` the test rows; both carry
    `order_key`, the hash that orders rows. `stage` of a candidate is the place in COMPOSITIONS of the first one to hold it.
    `pool` holds every candidate of target-domain requests, taken or not. `labels` and `fates` are those of `attribute`, `steps`
    those of `searchify`, None and empty where the composition asks for neither.
    """

    requests: ir.Table
    candidates: ir.Table
    test_requests: ir.Table
    test_candidates: ir.Table
    timeline: Timeline
    pool: ir.Table
    labels: ir.Table | None = None
    fates: ir.Table | None = None
    steps: Mapping[str, ir.Table] = field(default_factory=dict)


def prepare(session: Session, logs: Logs, shared: Shared, config: ES3Config) -> Material:
    """Compute everything `config.composition` needs, and with it all smaller compositions."""
    timeline = make_timeline(session, logs.events)
    pool = make_pool(session, logs)
    rows = _logged_rows(pool, logs)
    requests, test_requests = (rows.filter(rows.test == side).drop("test") for side in (False, True))
    train, test = (pool.filter(pool.test == side).drop("test") for side in (False, True))
    labels, fates, steps = None, None, {}
    train = with_draws(train, config) if config.stage >= UNEXPOSED else _without_draws(train.filter(train.exposed))
    candidates = _levels_of_page(train)
    if config.stage >= ATTRIBUTED:
        labels, fates = attribute(session, logs, shared, pool, config)
        candidates = _with_attributed(candidates, labels)
    candidates = candidates.filter(candidates.stage >= 0)
    if config.stage >= SEARCHIFIED:
        pseudo, pseudo_candidates, steps = searchify(session, logs, shared, config)
        owners = pseudo.select("request_id", "user_id", "ts")
        pseudo_candidates = pseudo_candidates.inner_join(owners, "request_id").mutate(
            stage=ibis.literal(SEARCHIFIED, "int8"), chance=ibis.literal(1.0, "float32")
        )
        candidates = ibis.union(candidates, pseudo_candidates.select(*candidates.columns))
        requests = ibis.union(requests, pseudo.mutate(origin=ibis.literal("searchified")).select(*requests.columns))

    def finish(name: str, requests: ir.Table, candidates: ir.Table) -> tuple[ir.Table, ir.Table]:
        requests = session.save(f"{name}_rows", with_hash(requests, "order_key", "request_id", seed=config.seed))
        candidates = with_hash(with_touches(candidates, timeline), "order_key", "request_id", seed=config.seed)
        return (
            session.save(f"{name}_requests", count_earlier(requests, timeline)),
            session.save(f"{name}_candidates", candidates),
        )

    train_rows, train_candidates = finish("train", requests, candidates)
    test_rows, test_candidates = finish("test", test_requests, _levels_of_page(_without_draws(test)))
    return Material(
        requests=train_rows,
        candidates=train_candidates,
        test_requests=test_rows,
        test_candidates=test_candidates,
        timeline=timeline,
        pool=pool,
        labels=labels,
        fates=fates,
        steps=steps,
    )


def view(material: Material, stage: int) -> tuple[ir.Table, ir.Table]:
    """Return the train requests and candidates of a composition (a place in COMPOSITIONS), with `probability`.

    `probability` is the chance that the candidate is in the sample given its labels: 1 for exposed and attributed candidates,
    which are always taken, and the draw's chance for the others. Weights of 1 / probability therefore make sums over the
    sample unbiased for sums over the full lists.
    """
    requests, c = material.requests, material.candidates
    if stage < SEARCHIFIED:
        requests = requests.filter(requests.origin == "logged")
        c = c.filter(c.stage < SEARCHIFIED)
    if stage < ATTRIBUTED:
        c = c.filter(c.stage <= stage)
        none = ibis.literal(0, "int8")
        for kind in ("click", "purchase"):
            kept = c[f"{kind}_level"] <= 1
            c = c.mutate(
                **{
                    f"{kind}_level": ibis.ifelse(kept, c[f"{kind}_level"], none),
                    f"{kind}_origin": ibis.ifelse(kept, c[f"{kind}_origin"], ibis.literal(-1, "int8")),
                    f"{kind}_label_ts": ibis.ifelse(kept, c[f"{kind}_label_ts"], ibis.literal(-1, "int64")),
                    f"{kind}_weight": ibis.ifelse(kept, c[f"{kind}_weight"], ibis.literal(1.0, "float32")),
                }
            )
    sure = c.exposed | (c.click_level > 1) | (c.purchase_level > 1)
    return requests, c.mutate(probability=ibis.ifelse(sure, ibis.literal(1.0, "float32"), c.chance))


def _logged_rows(pool: ir.Table, logs: Logs) -> ir.Table:
    kept = pool.select("request_id").distinct()
    r = logs.requests.semi_join(kept, "request_id")
    level = ibis.ifelse(r.query_id.isnull(), -1, 0).cast("int8")
    return r.select(
        "request_id", "user_id", "ts", "domain", "query_id", "scene", "shop_id", "test",
        query_level=level, origin=ibis.literal("logged"),
    )  # fmt: skip


def _without_draws(candidates: ir.Table) -> ir.Table:
    return candidates.mutate(drawn=ibis.literal(False), chance=ibis.literal(1.0, "float32"))


def _levels_of_page(pool: ir.Table) -> ir.Table:
    """Turn the page's label times into level 1 labels, and exposure and draw into `stage` (-1: in no sample yet)."""
    one, none, target = ibis.literal(1, "int8"), ibis.literal(-1, "int8"), ibis.literal(TARGET, "int8")
    levels = {}
    for kind in ("click", "purchase"):
        here = pool[f"{kind}_ts"].notnull()
        levels[f"{kind}_level"] = ibis.ifelse(here, one, ibis.literal(0, "int8"))
        levels[f"{kind}_origin"] = ibis.ifelse(here, target, none)
        levels[f"{kind}_label_ts"] = pool[f"{kind}_ts"].fill_null(-1)
        levels[f"{kind}_weight"] = ibis.literal(1.0, "float32")
    stage = ibis.cases((pool.exposed, EXPOSED), (pool.drawn, UNEXPOSED), else_=-1).cast("int8")
    columns = ("request_id", "item_id", "user_id", "ts", "exposed", "position", "rank", "price", "propensity", "chance")
    return pool.select(*columns, **levels, stage=stage)


def _with_attributed(candidates: ir.Table, labels: ir.Table) -> ir.Table:
    """Write attributed labels in; an unexposed candidate that got one joins the sample even if not drawn."""
    for name, kind in (("click", CLICK), ("purchase", PURCHASE)):
        some = labels.filter(labels.kind == kind).select(
            to_request="request_id",
            to_item="item_id",
            new_level="level",
            new_origin="origin",
            new_ts="ts",
            new_weight="weight",
        )
        joined = candidates.left_join(some, (candidates.request_id == some.to_request) & (candidates.item_id == some.to_item))
        candidates = joined.mutate(
            **{
                f"{name}_level": ibis.coalesce(joined.new_level, joined[f"{name}_level"]),
                f"{name}_origin": ibis.coalesce(joined.new_origin, joined[f"{name}_origin"]),
                f"{name}_label_ts": ibis.coalesce(joined.new_ts, joined[f"{name}_label_ts"]),
                f"{name}_weight": ibis.coalesce(joined.new_weight, joined[f"{name}_weight"]),
            },
            stage=ibis.ifelse((joined.stage < 0) & joined.new_level.notnull(), ATTRIBUTED, joined.stage).cast("int8"),
        ).drop("to_request", "to_item", "new_level", "new_origin", "new_ts", "new_weight")
    return candidates
