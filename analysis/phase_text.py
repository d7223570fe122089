"""Sentences of the phase diagram, each made from its numbers and carrying their n, seeds and interval."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from analysis.prose import interval, number
from unisc.report.numbers import short

Section = Mapping[str, Any]

NAMES = {"auc_roc": "AUC-ROC", "log_loss": "log loss"}
MODULES = {"none": "without isolation", "both": "with DREF and DAPGA", "dref": "with DREF", "dapga": "with DAPGA"}

FOREIGN = {
    "none": "Foreign samples are lists as they were shown elsewhere, each once for every click on it, without a query.",
    "pseudo": "Foreign samples are pseudo search requests: a clicked item, items of its list that resemble it and were not "
    "clicked, and a query found for it.",
}


def method(summary: Section) -> str:
    """Say how shops, gains and intervals are made, and what they do not cover."""
    return (
        "Method. A shop is a generated world; its overlap is the correlation, between search and each other domain, of the "
        "weights of every rule that domains can share. Rules about a query, a scene or a shop's page are never shared; what a "
        "visitor likes and can afford is the same everywhere, also at an overlap of 0. "
        f"{FOREIGN[summary['queries']]} A seed draws shop and training alike, and no two shops share a world, so intervals are "
        "over shops and training. Gains are differences within a shop: pooled less search alone at the same search samples, or "
        "isolation less none at the same samples and dense parameters. Each shop's gains are reduced, size by size, to a curve "
        "quadratic in the share of foreign samples; its coefficients are regressed on 1, overlap and its square over the "
        "shops. The interval of a boundary is the set of overlaps at which that surface is not told from zero (Fieller); an "
        "end that is open says that one sign is resolved nowhere. Intervals are of one place of the plane each, not of all at "
        "once. Metrics are expectations over the oracle's click probabilities, log loss of calibrated scores. One learning "
        "rate for all, not tuned by cell; one pass, so that more samples are also more steps."
    )


def facts(summary: Section) -> str:
    """Say how much was run."""
    left = summary["num_shops_left_out"]
    seeds = summary["num_seeds"]
    parts = [
        f"{summary['num_runs']} runs on {summary['num_shops']} shops ({seeds} seed{'s' if seeds != 1 else ''} an overlap)",
        f"model sizes of {', '.join(short(size) for size in summary['sizes'])} dense parameters",
        f"{summary['num_examples_own']:,.0f} search samples a shop",
        f"{summary['foreign_per_own']:.2g} foreign ones to each at a share of 1",
    ]
    if left:
        parts.append(f"{left} shop{'s' if left != 1 else ''} left out, whose runs are not all there")
    if summary["num_control_runs"]:
        parts.append(f"{summary['num_control_runs']} runs that pass twice over search alone")
    return "; ".join(parts) + "."


def gain(entry: Section) -> str:
    """Write a gain with its interval."""
    return interval(entry, 2, True)


def parts(metric: Section) -> Iterator[tuple[str, Section]]:
    """Yield the parts of one metric's numbers with what their gain is of."""
    for isolation, part in metric["pooling"].items():
        yield f"pooling {MODULES[isolation]}", part
    if "isolation" in metric:
        yield "isolation", metric["isolation"]
        yield "isolation, net of search alone", metric["net"]


def at_shares(part: Section, shares: Sequence[float]) -> list[Section]:
    """Return a part's boundaries at the shares that were run."""
    return [bound for bound in part["boundary"] if any(abs(bound["foreign"] - share) < 1e-9 for share in shares)]


def where(bound: Section) -> str:
    """Write a boundary with its interval; an end that is not resolved within [0, 1] is open."""
    if bound["low"] is None and bound["high"] is None:
        return "not resolved"
    if "everywhere" in bound["verdict"]:
        return "none in [0, 1]"
    low = "open" if bound["low"] is None else f"{bound['low']:.2f}"
    high = "open" if bound["high"] is None else f"{bound['high']:.2f}"
    return f"{'n/a' if bound['value'] is None else format(bound['value'], '.2f')} [{low}, {high}]"


def _full(part: Section) -> list[Section]:
    """Return a part's boundaries at the largest share, one a size."""
    largest = max(bound["foreign"] for bound in part["boundary"])
    return [bound for bound in part["boundary"] if bound["foreign"] == largest]


def sign_sentence(bound: Section, words: tuple[str, str, str], unit: str) -> str:
    """Say on which side of a boundary a gain has which sign; `words` are (what, hurts, helps)."""
    what, hurts, helps = words
    first, second = (hurts, helps) if bound["rising"] else (helps, hurts)
    low, high = bound["low"], bound["high"]
    ends = f"{gain(bound['at_0'])} {unit} at an overlap of 0, {gain(bound['at_1'])} at 1"
    if "everywhere" in bound["verdict"]:
        return f"{what} {helps if 'positive' in bound['verdict'] else hurts} at every overlap ({ends})"
    if low is not None and high is not None:
        return f"{what} {first} up to an overlap of {low:.2f} and {second} from {high:.2f} on, the boundary at {where(bound)}"
    if low is None and high is None:
        return f"{what}: the sign is resolved at neither end of the overlap ({ends})"
    if high is None:
        return f"{what} {first} up to an overlap of {low:.2f}; beyond that the sign is not resolved ({ends})"
    return f"{what} {second} from an overlap of {high:.2f} on; below that the sign is not resolved ({ends})"


def answer(summary: Section) -> list[str]:
    """Answer in two paragraphs: where pooling hurts and isolation pays, and what that means."""
    metric, middle = summary["metrics"]["auc_roc"], _middle(summary)
    unit, sentences = metric["unit"], []
    for isolation, part in metric["pooling"].items():
        words = (f"{_capital(MODULES[isolation])}, pooling all foreign samples", "hurts", "helps")
        sentences.append(sign_sentence(_full(part)[middle], words, unit))
    if "isolation" in metric:
        words = ("Isolation on all samples", "costs", "pays")
        sentences.append(sign_sentence(_full(metric["isolation"])[middle], words, unit))
        words = ("Less what the modules gain on search samples alone, isolation", "costs", "pays")
        sentences.append(sign_sentence(_full(metric["net"])[middle], words, unit))
    size = short(summary["sizes"][middle])
    return [f"{'. '.join(sentences)} ({size} dense parameters; {_sample(summary)}).", meaning(summary)]


def meaning(summary: Section) -> str:
    """Say what the signs mean for someone who has foreign samples and does not know the overlap."""
    metric, middle = summary["metrics"]["auc_roc"], _middle(summary)
    isolation, plain = next(iter(metric["pooling"].items()))
    bound, change = _full(plain)[middle], plain["change"][middle]
    opening = {
        "resolved positive": "What foreign samples are worth depends on what the domains share",
        "resolved negative": "Against expectation, foreign samples are worth less where the domains share more",
    }.get(change["verdict"], "That foreign samples are worth more where the domains share more is not resolved")
    said = f"{opening}: {MODULES[isolation]} their gain changes by {gain(change)} {metric['unit']} from an overlap of 0 to 1"
    said += {
        "resolved positive": "",
        "resolved negative": ", and with all rules in common they still hurt",
    }.get(bound["at_1"]["verdict"], ", and with all rules in common a gain is not resolved")
    if "isolation" in metric:
        said += f". {_isolation_means(_full(metric['isolation'])[middle])}"
    return f"{said} ({_sample(summary)})."


def _isolation_means(bound: Section) -> str:
    first, last = bound["at_0"]["verdict"], bound["at_1"]["verdict"]
    if first == last == "unresolved":
        return "That isolation pays is resolved neither where domains share nothing nor where they share all"
    if first == last:
        return f"Isolation {'pays' if first == 'resolved positive' else 'costs'} whether domains share nothing or all"
    if first == "resolved positive":
        end = "it costs where they share all" if last == "resolved negative" else "where they share all no gain is resolved"
        return f"Isolation is an insurance against unlike domains: it pays where they share nothing, {end}"
    words = {"resolved positive": "pays", "resolved negative": "costs", "unresolved": "has no resolved sign"}
    return f"Isolation {words[first]} where domains share nothing and {words[last]} where they share all"


def details(summary: Section) -> list[str]:
    """Say, by metric, what size and share change, what steps alone are worth, and how well the surface fits."""
    sentences = []
    for name, metric in summary["metrics"].items():
        sentences += [_detail(summary, name, metric["unit"], kind, part) for kind, part in parts(metric)]
        if "control" in metric:
            sentences.append(_control(summary, name, metric))
    return sentences


def _detail(summary: Section, name: str, unit: str, kind: str, part: Section) -> str:
    least = min(share for share in summary["shares"] if share > 0)
    some = at_shares(part, [least])
    full, cells, level = _full(part), part["cells"], summary["level"]
    told = sum(cell["verdict"].startswith("resolved") for cell in cells)
    text = f"{_capital(kind)}, {NAMES[name]}: with all foreign samples the boundary is {_by_size(full)}"
    if least < full[0]["foreign"]:
        text += f"; at a share of {least:g} it is {_by_size(some)}"
    text += f". Resolved by themselves: {told} of {len(cells)} cells"
    if part["residual"]["num_cells"] <= part["residual"]["num_terms"]:
        return f"{text}; the surface has as many terms, so that its fit is not tested ({_sample(summary, part['num_runs'])})."
    return (
        f"{text}. The surface misses their means by {number(part['residual']['rms'], 2)} {unit} (rms) and lies outside "
        f"{part['residual']['num_missed']} of their {level:.0%} intervals, where {number((1 - level) * len(cells), 2)} are "
        f"expected by chance ({_sample(summary, part['num_runs'])})."
    )


def _by_size(bounds: Sequence[Section]) -> str:
    return ", ".join(f"{where(bound)} at {short(bound['size'])}" for bound in bounds)


def _control(summary: Section, name: str, metric: Section) -> str:
    rows = [f"{gain(e)} at {short(s)} ({e['verdict']})" for s, e in zip(summary["sizes"], metric["control"], strict=True)]
    return (
        f"Steps alone, {NAMES[name]}: a second pass over the search samples, without foreign ones and without isolation, "
        f"changed {', '.join(rows)} {metric['unit']} ({_sample(summary, 2 * summary['num_control_runs'])})."
    )


def plane_caption(summary: Section) -> str:
    """Describe the planes."""
    level = f"{summary['level']:.0%}"
    return (
        f"Gain in {summary['metrics']['auc_roc']['unit']} over overlap and share of foreign samples, by model size. Colour: "
        "the fitted surface; discs: measured cells, in the same colours (a scale a size), with a cross where a cell's own "
        f"{level} interval holds zero. Line: the boundary, where the gain is zero; hatched: where its sign is not resolved at "
        f"{level}; what is hatched beside the line is the boundary's interval. {_sample(summary)}."
    )


def slices_caption(summary: Section) -> str:
    """Describe the slices."""
    level = f"{summary['level']:.0%}"
    return (
        f"The same gains over the overlap at all foreign samples, by size, with the fit and its {level} band; bars are {level} "
        f"intervals of cells, points a little apart so that none hides another. Each size has a scale of "
        f"its own. {_sample(summary)}."
    )


def _middle(summary: Section) -> int:
    return (len(summary["sizes"]) - 1) // 2


def _sample(summary: Section, num_runs: int | None = None) -> str:
    seeds = summary["num_seeds"]
    return (
        f"n = {num_runs or summary['num_runs']} runs, {summary['num_shops']} shops, {seeds} seed{'s' if seeds != 1 else ''} an "
        f"overlap, {summary['level']:.0%} intervals"
    )


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
