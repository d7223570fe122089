"""The simulated online test as a page of text."""

from collections.abc import Iterator, Mapping
from typing import Any

from analysis.online import LEVEL


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of a test's result, as `experiments.ab` makes it."""
    settings, online = found["settings"], found["online"]
    yield f"control    {found['control']}"
    yield f"treatment  {found['treatment']}"
    yield (
        f"{settings['requests']:,} requests of {online['users']:,} users, {settings['days']} days after the rankers' training"
        f" data, in charge of {settings['domains']}, seed {settings['seed']}; {LEVEL:.0%} intervals, clustered by user"
    )
    head = f"{'segment':14}{'requests':>10}  {'a request':10}{'control':>10}{'treatment':>10}"
    yield f"{head}  {'paired difference':32}{'paired lift':28}{'lift by split of users':28}"
    for segment, of in online["segments"].items():
        for metric, row in of["metrics"].items():
            yield (
                f"{segment:14}{of['requests']:>10,}  {metric:10}{row['control']:>10.4f}{row['treatment']:>10.4f}"
                f"  {_interval(row['paired'], '+.4f'):32}{_interval(row['paired_relative'], '+.2%'):28}"
                f"{_interval(row['split_relative'], '+.2%'):28}"
            )
    for metric, looks in online["looks"].items():
        stop = next((look for look in looks if look["always_valid"][0] > 0 or look["always_valid"][1] < 0), None)
        last = looks[-1]["always_valid"] if looks else [float("nan")] * 2
        words = "never leaves zero" if stop is None else f"leaves zero after {stop['requests']:,} requests"
        yield f"{metric}: {len(looks)} looks, always valid interval {words}; at the end [{last[0]:+.4f}, {last[1]:+.4f}]"
    for row in found["offline"]:
        between = "no interval" if row["interval"] is None else f"[{row['interval'][0]:+.5f}, {row['interval'][1]:+.5f}]"
        verdicts = ", ".join(f"{metric} {verdict}" for metric, verdict in row["online"].items())
        yield (
            f"offline {row['metric']:34}{row['control']:>9.5f}{row['treatment']:>9.5f}  {row['difference']:+.5f} {between};"
            f" online: {verdicts}"
        )


def _interval(of: Mapping[str, float | None], style: str) -> str:
    value, low, high = ("n/a" if of[name] is None else format(of[name], style) for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"
