"""A fit, a tournament and a replay as lines of text for the terminal."""

from collections.abc import Iterator, Mapping
from typing import Any

from unisc.scaling.command import Outcome
from unisc.scaling.replay import Check
from unisc.scaling.tournament import Tournament


def outcome_lines(found: Outcome) -> Iterator[str]:
    """Yield what a fit says, the most important first."""
    prepared, fit = found.prepared, found.fit
    read = "" if prepared.num_read == fit.num_runs else f" of {prepared.num_read}"
    yield f"{prepared.table.source}: {fit.num_runs}{read} runs; " + ", ".join(
        f"{k} is {v}" for k, v in prepared.columns.items()
    )
    contract = fit.contract
    knee = f" (delta {contract.huber_delta:g})" if contract.loss == "huber" else ""
    trimmed = "" if contract.trimming == "none" else f", without {contract.trimming}"
    yield f"objective: sum of {contract.loss}{knee} residuals of {contract.metric} in {contract.space} space{trimmed}"
    if found.ranking is not None:
        yield ""
        yield from tournament_lines(found.ranking)
    yield ""
    yield f"{fit.law.name}: {(type(fit.law).__doc__ or '').partition(chr(10))[0]}"
    for name, interval in found.intervals.items():
        yield f"  {name:12} {interval_text(interval)}"
    for name, value in fit.to_json()["derived"].items():
        yield f"  {name:12} {value:.5g}"
    certificate = fit.certificate
    hit = ", ".join(certificate.bounds_hit) or "none"
    yield (
        f"certificate: {certificate.agreement:.0%} of {certificate.num_starts} starts reach objective {fit.objective:.10g}, "
        f"gradient {certificate.gradient_norm:.1e}, condition number {certificate.condition_number:.3g}, bounds hit: {hit}"
    )
    if found.backtest is not None:
        yield ""
        back = found.backtest
        yield f"backtest: {len(back.measured)} largest runs by {back.holdout} held out, {back.fit.num_runs} fitted"
        for name, score in back.scores.items():
            yield f"  {name:14} mean error {score.mean_absolute:.4g} ({score.relative:.2%}), bias {score.bias:+.4g}"
        if back.coverage is not None:
            yield f"  {back.coverage:.0%} of them lie inside the {back.level:.0%} prediction interval"
    if found.predictions:
        yield ""
    for at, interval in found.predictions:
        yield f"prediction at {', '.join(f'{k}={v:g}' for k, v in at.items())}: {interval_text(interval.to_json())}"
    yield ""
    if found.concerns:
        yield "not to be taken at its word:"
        yield from (f"  - {concern}" for concern in found.concerns)
    else:
        yield "nothing found that speaks against this fit"


def tournament_lines(ranking: Tournament) -> Iterator[str]:
    """Yield the ranking of a tournament as a table."""
    yield f"tournament: {ranking.num_predicted} runs predicted after {ranking.num_cuts} growing cuts in compute (errors: link)"
    yield f"  {'law':20} {'mean error':>10} {'bias':>10}   behind the best (90 %)    stacked"
    for entry in ranking.entries:
        behind = "best" if entry is ranking.entries[0] else f"{entry.behind:.4f} [{entry.low:.4f}, {entry.high:.4f}]"
        tied = " tied" if entry.tied and entry is not ranking.entries[0] else ""
        yield f"  {entry.name:20} {entry.error:10.5f} {entry.bias:+10.5f}   {behind + tied:27} {entry.weight:.2f}"
    yield from (f"  left out: {name} ({reason})" for name, reason in ranking.left_out.items())


def interval_text(interval: Mapping[str, Any]) -> str:
    """Return an interval in one line."""
    ends = ["unbounded" if end is None else f"{end:.5g}" for end in (interval["low"], interval["high"])]
    if interval["method"] == "none":
        return f"{interval['value']:.5g}"
    if interval["method"] == "fixed":
        return f"{interval['value']:.5g} (fixed)"
    return f"{interval['value']:.5g} [{ends[0]}, {ends[1]}] {interval['level']:.0%} {interval['method']}"


def replay_line(check: Check) -> str:
    """Return one check of a replay in one line."""
    verdict = "ok" if check.passed else "DIFFERS"
    relation = "at most" if check.kind == "most" else "+-"
    return (
        f"{verdict:8} {check.id} {check.what:64} published {check.published:<14.10g} obtained {check.obtained:<14.10g} "
        f"{relation} {check.tolerance:.2g}"
    )
