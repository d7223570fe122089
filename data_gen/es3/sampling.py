"""Which unexposed candidates of a request join its sample, and with what probability (UniScale section 2).

A scheme splits the unexposed candidates of a request into strata and draws a number of each without replacement. Every scheme
draws min(wanted, all there are), where wanted is `unexposed_per_exposed` for each exposed candidate.

- "uniform", the paper's: one stratum.
- "stratum": `strata` runs of the pre-rank order, whose sizes differ by one at most. A stratum of m out of n gets wanted x m / n
  draws, rounded down or up: systematic rounding from a start drawn for the request makes the mean exact and the draws sum to
  the wanted number. So all have the chance of "uniform", but no part of the order is missed or crowded by luck.
- "hard": floor(`hard_share` x wanted) of the draws are the best by pre-rank for certain, the others come uniformly from the
  rest. As `hard_share` is below 1, at least one draw is left to the rest, and nobody's chance is 0.

Equal ranks go by item_id. Decisions are made in whole numbers, so every engine makes the same ones; the float is made last.
"""

import ibis
import ibis.expr.types as ir

from data_gen.es3.config import ES3Config
from data_gen.es3.hashing import with_hash

_PARTS = 10**6
"""`hard_share` counts in millionths."""


def with_draws(candidates: ir.Table, config: ES3Config) -> ir.Table:
    """Draw unexposed candidates of each request without replacement; add `drawn` and `chance`.

    `chance` (float32) is the probability, over seeds, that the draw takes an unexposed candidate; it is 1 for an exposed one,
    and 0 only where `unexposed_per_exposed` is. The draw is a function of (seed, request_id, item_id) and of the request's own
    list, whatever else is in the logs. Reads `rank` and `num_exposed`, the exposed candidates of the request; neither is null.
    """
    groups = ["request_id", "exposed"]
    rows = with_hash(candidates, "lot", "request_id", "item_id", seed=config.seed)
    rows = rows.mutate(num_alike=rows.count().over(group_by=groups))
    rows = rows.mutate(wanted=ibis.least(rows.num_exposed * config.unexposed_per_exposed, rows.num_alike))
    if config.sampling == "uniform":
        rows = rows.mutate(take=rows.wanted, chance=rows.wanted / rows.num_alike)
    else:
        above = ibis.row_number().over(group_by=groups, order_by=[rows["rank"], rows.item_id])
        split = _by_stratum if config.sampling == "stratum" else _hard_first
        rows = split(rows.mutate(above=above.cast("int64")), config).drop("above")
        groups = [*groups, "stratum"]
    place = ibis.row_number().over(group_by=groups, order_by=[rows.lot, rows.item_id])
    rows = rows.mutate(drawn=~rows.exposed & (place < rows.take), chance=ibis.ifelse(rows.exposed, 1.0, rows.chance))
    return rows.cast({"chance": "float32"}).select(*candidates.columns, "drawn", "chance")


def _by_stratum(rows: ir.Table, config: ES3Config) -> ir.Table:
    """Add stratum, take (draws of the stratum) and chance; a list shorter than `strata` has as many strata as candidates.

    Quotients are exact below 2**53, which a list would need 94 million candidates to reach.
    """
    rows = rows.mutate(strata=ibis.least(config.strata, rows.num_alike))
    rows = rows.mutate(stratum=rows.above * rows.strata // rows.num_alike)
    # A hash of what no logged request is called: a lot of this very request would tie the start to one candidate's draw.
    rows = with_hash(rows.mutate(start=-1 - rows.request_id), "start", "start", seed=config.seed)
    # Candidates before the stratum and before its end, both rounded up as `stratum` is rounded down.
    before, until = ((rows.stratum + i) * rows.num_alike + rows.strata - 1 for i in (0, 1))
    rows = rows.mutate(before=before // rows.strata, until=until // rows.strata, start=rows.start % rows.num_alike)
    n = rows.num_alike
    take = (rows.wanted * rows.until + rows.start) // n - (rows.wanted * rows.before + rows.start) // n
    return rows.mutate(take=take, chance=rows.wanted / n).drop("strata", "start", "before", "until")


def _hard_first(rows: ir.Table, config: ES3Config) -> ir.Table:
    """Add stratum (0 the best, 1 the rest), take (draws of the stratum) and chance."""
    share = min(round(config.hard_share * _PARTS), _PARTS - 1)
    rows = rows.mutate(hard=rows.wanted * share // _PARTS)
    best, left = rows.above < rows.hard, rows.wanted - rows.hard
    return rows.mutate(
        stratum=ibis.ifelse(best, 0, 1),
        take=ibis.ifelse(best, rows.hard, left),
        chance=ibis.ifelse(best, 1.0, left / (rows.num_alike - rows.hard)),
    ).drop("hard")
