"""A fit, a tournament and a replay as lines of text for the terminal."""

from collections.abc import Iterator, Mapping
from typing import Any

from unisc.scaling.command import Outcome
from unisc.scaling.planning import Option, Plan
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
    for (at, interval), widened in zip(found.predictions, found.widened, strict=True):
        yield f"prediction at {', '.join(f'{k}={v:g}' for k, v in at.items())}: {interval_text(interval.to_json())}"
        if widened is not None:
            yield f"  with what its extrapolations missed on this table: [{widened.low:.5g}, {widened.high:.5g}]"
    if found.plan is not None:
        yield ""
        yield from plan_lines(found.plan)
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


def plan_lines(plan: Plan) -> Iterator[str]:
    """Yield the next runs that a budget should buy, and what else it could."""
    chosen = plan.chosen
    yield f"next runs for {plan.budget.amount:.3g} {plan.budget.unit}: {_times(chosen)}"
    for run in chosen.runs:
        repeated = f" x {run.repeats}" if run.repeats > 1 else ""
        yield f"  {', '.join(f'{k}={v:.3g}' for k, v in run.at.items())}{repeated}, {run.cost:.3g} FLOPs each"
    for name, other in plan.others.items():
        yield f"  instead, {name}: {_times(other)}"
    yield from (f"  {note}" for note in plan.notes)


def _times(option: Option) -> str:
    return "the interval stays open" if option.ratio is None else f"the interval at the target {option.ratio:.2f} times as wide"


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
