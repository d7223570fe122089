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
    "pseudo": "Foreign samples are pseudo search requests: a clicked item, items of its list that resemble it and did not get a "
    "click, and a query found for it.",
}


def method(summary: Section) -> str:
    """Say how shops, gains and intervals are made, and what they do not cover."""
    return (
        "Method. A shop is a generated world; its overlap is the correlation, between search and each other domain, of the weights "
        "of every rule that domains can share. Rules about a query, a scene or a shop's page are never shared; what a visitor "
        "likes and can afford is the same everywhere, also at an overlap of 0. "
        f"{FOREIGN[summary['queries']]} A seed draws shop and training alike, and no two shops share a world, so intervals are "
        "over shops and training. Gains are differences within a shop: pooled less search alone at the same search samples, or "
        "isolation less none at the same samples and dense parameters. Each shop's gains are reduced to a surface that is linear "
        "in the logarithm of the parameters and quadratic in the share of foreign samples; its coefficients are regressed on 1, "
        "overlap and its square over the shops. The interval of a boundary is the set of overlaps at which that surface is not "
        "told from zero (Fieller); an end that is open says that one sign is resolved nowhere. Metrics are expectations over the "
        "oracle's click probabilities, log loss of calibrated scores. One learning rate for all, not tuned by cell; one pass, so "
        "that more samples are also more steps."
    )


def facts(summary: Section) -> str:
    """Say how much was run."""
    left = summary["num_shops_left_out"]
    seeds = summary["num_seeds"]
    parts = [
        f"{summary['num_runs']} runs on {summary['num_shops']} shops ({seeds} seed{'s' if seeds != 1 else ''} an overlap)",
        f"{len(summary['sizes'])} model sizes from {short(summary['sizes'][0])} to {short(summary['sizes'][-1])} dense parameters",
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
        return f"{what}: the sign is not resolved at any end of the overlap ({ends})"
    if high is None:
        return f"{what} {first} up to an overlap of {low:.2f}; beyond that the sign is not resolved ({ends})"
    return f"{what} {second} from an overlap of {high:.2f} on; below that the sign is not resolved ({ends})"


def answer(summary: Section) -> list[str]:
    """Answer in one paragraph: where pooling hurts, where isolation pays, and what moves the boundary."""
    metric = summary["metrics"]["auc_roc"]
    middle = (len(summary["sizes"]) - 1) // 2
    unit, sentences = metric["unit"], []
    for isolation, part in metric["pooling"].items():
        words = (f"{_capital(MODULES[isolation])}, pooling all foreign samples", "hurts", "helps")
        sentences.append(sign_sentence(_full(part)[middle], words, unit))
    if "isolation" in metric:
        words = ("Isolation, on all samples,", "costs", "pays")
        sentences.append(sign_sentence(_full(metric["isolation"])[middle], words, unit))
    size = short(summary["sizes"][middle])
    return [f"{'. '.join(sentences)} ({size} dense parameters; {_sample(summary)}).", meaning(summary)]


def meaning(summary: Section) -> str:
    """Say what the signs mean for someone who has foreign samples and does not know the overlap."""
    metric = summary["metrics"]["auc_roc"]
    middle = (len(summary["sizes"]) - 1) // 2
    plain = next(iter(metric["pooling"].values()))
    bound, change = _full(plain)[middle], plain["change"][middle]
    if change["verdict"] == "resolved positive":
        said = f"What foreign samples are worth is decided by what the domains share: the gain rises by {gain(change)}"
    elif change["verdict"] == "resolved negative":
        said = f"Foreign samples are worth less where the domains share more, against expectation: the gain changes by {gain(change)}"
    else:
        said = f"That the domains' overlap changes what foreign samples are worth is not resolved: {gain(change)}"
    said += f" {metric['unit']} from an overlap of 0 to 1"
    if bound["at_1"]["verdict"] != "resolved positive":
        said += ", and even with all rules in common a gain is not resolved" if bound["at_1"]["low"] < 0 < bound["at_1"]["high"] else (
            ", and even with all rules in common pooling hurts"
        )  # fmt: skip
    if "isolation" in metric:
        told = _full(metric["isolation"])[middle]
        at_0, at_1 = told["at_0"], told["at_1"]
        if at_0["verdict"] == "resolved positive" and at_1["verdict"] != "resolved positive":
            said += ". Isolation is an insurance against unlike domains: it pays where they share little, and no gain is resolved where they share all"
        elif at_0["verdict"] == at_1["verdict"] == "resolved positive":
            said += ". Isolation pays whatever the overlap"
        elif at_0["verdict"] == at_1["verdict"] == "resolved negative":
            said += ". Isolation costs whatever the overlap"
        elif at_0["verdict"] == "unresolved" and at_1["verdict"] == "unresolved":
            said += ". That isolation pays is resolved neither where the domains share nothing nor where they share all"
        else:
            said += f". Isolation is worth {gain(at_0)} where they share nothing and {gain(at_1)} where they share all"
    return f"{said} ({_sample(summary)})."


def details(summary: Section) -> list[str]:
    """Say, by metric, what size and share change, what steps alone are worth, and how well the surface fits."""
    sentences = []
    for name, metric in summary["metrics"].items():
        unit = metric["unit"]
        for kind, part in parts(metric):
            full = [f"{where(b)} at {short(b['size'])}" for b in _full(part)]
            few = [b for b in part["boundary"] if b["foreign"] == min(x["foreign"] for x in part["boundary"])]
            less = [f"{where(b)} at {short(b['size'])}" for b in few]
            left, cells = part["residual"], part["cells"]
            told = sum(cell["verdict"].startswith("resolved") for cell in cells)
            text = f"{_capital(kind)}, {NAMES[name]}: the boundary lies at {'; '.join(full)} with all foreign samples"
            if few[0]["foreign"] < _full(part)[0]["foreign"]:
                text += f", {'; '.join(less)} at a share of {few[0]['foreign']:g}"
            text += (
                f". {told} of {len(cells)} cells are resolved alone; the surface misses cell means by {number(left['rms'], 2)} {unit} "
                f"(rms), and {left['num_missed']} of their {summary['level']:.0%} intervals, where "
                f"{(1 - summary['level']) * len(cells):.0f} would miss a true one by chance ({_sample(summary)})."
            )
            sentences.append(text)
        if "control" in metric:
            sentences.append(_control(summary, name, metric))
    return sentences


def _control(summary: Section, name: str, metric: Section) -> str:
    rows = [f"{gain(e)} at {short(s)} ({e['verdict']})" for s, e in zip(summary["sizes"], metric["control"], strict=True)]
    count = summary["num_shops"]
    return (
        f"Steps alone, {NAMES[name]}: a second pass over the search samples, without foreign ones and without isolation, changed "
        f"{'; '.join(rows)} {metric['unit']} (n = {2 * count} runs a size, {count} shops, {summary['num_seeds']} seeds)."
    )


def plane_caption(summary: Section) -> str:
    """Describe the planes."""
    return (
        f"Gain in {summary['metrics']['auc_roc']['unit']} over overlap and share of foreign samples, by model size. Colour: the fitted "
        "surface; discs: measured cells, in the same colours, with a cross where a cell's own "
        f"{summary['level']:.0%} interval holds zero. Line: the boundary, where the gain is zero; hatched: where its sign is not "
        f"resolved at {summary['level']:.0%}. {_sample(summary)}."
    )


def slices_caption(summary: Section) -> str:
    """Describe the slices."""
    return (
        f"The same gains over the overlap at all foreign samples, by size, with the fit and its {summary['level']:.0%} band; bars are "
        f"{summary['level']:.0%} intervals of cells, points a little apart so that none hides another. {_sample(summary)}."
    )


def _sample(summary: Section) -> str:
    seeds = summary["num_seeds"]
    return (
        f"n = {summary['num_runs']} runs, {summary['num_shops']} shops, {seeds} seed{'s' if seeds != 1 else ''} an overlap, "
        f"{summary['level']:.0%} intervals"
    )


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
