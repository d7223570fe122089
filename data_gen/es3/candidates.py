"""The target domain's own samples: logged candidates and the labels of the request itself."""

import ibis
import ibis.expr.types as ir

from data_gen.es3.session import Session
from data_gen.es3.tables import Logs
from unisc.data.schema import KINDS

CLICK, CART, PURCHASE = (KINDS.index(kind) for kind in ("click", "cart", "purchase"))
TARGET = 0
"""Code of the target domain: the first of the manifest's domains."""


def in_request(logs: Logs) -> ir.Table:
    """Events that happened on their own request's page: same request, same domain.

    An event that names a request but finished in another domain is an outside event, seen by attribution only.
    """
    pages = logs.requests.select(page="request_id", page_domain="domain", page_ts="ts", test="test", query_id="query_id")
    events = logs.events.inner_join(pages, logs.events.request_id == pages.page)
    return events.filter(events.domain == events.page_domain).drop("page", "page_domain")


def labels_of_page(events: ir.Table) -> ir.Table:
    """First click and purchase of each (request_id, item_id): columns click_ts and purchase_ts, null where there is none."""
    return events.group_by("request_id", "item_id").aggregate(
        click_ts=events.ts.min(where=events.kind == CLICK), purchase_ts=events.ts.min(where=events.kind == PURCHASE)
    )


def make_pool(session: Session, logs: Logs) -> ir.Table:
    """All candidates of target-domain requests, with user_id, ts and test of the request and its page's labels.

    A train request without any exposed candidate is left out: the exposed composition has no row for it, and every
    composition holds the requests of the one before. Labels of a train request end where the test split starts.
    """
    requests = logs.requests.filter(logs.requests.domain == TARGET).select("request_id", "user_id", "ts", "test")
    events = in_request(logs)
    events = events.filter((events.domain == TARGET) & (events.test | (events.ts < logs.test_start)))
    labels = labels_of_page(events).rename(label_request="request_id", label_item="item_id")
    candidates = logs.candidates.inner_join(requests, "request_id")
    candidates = candidates.left_join(
        labels, (candidates.request_id == labels.label_request) & (candidates.item_id == labels.label_item)
    ).drop("label_request", "label_item")
    # An exposure flag and a slot may disagree in foreign logs; the flag decides.
    candidates = candidates.mutate(position=ibis.ifelse(candidates.exposed, candidates.position, None))
    shown = candidates.filter(candidates.exposed).group_by("request_id").aggregate(num_exposed=lambda t: t.count())
    shown = shown.rename(shown_request="request_id")
    pool = candidates.left_join(shown, candidates.request_id == shown.shown_request).drop("shown_request")
    return session.save("pool", pool.filter(pool.test | pool.num_exposed.notnull()))
