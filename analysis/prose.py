"""Sentences of the report, each made from numbers of the summary and carrying their n, seeds and interval."""

from collections.abc import Mapping
from typing import Any

from unisc.report.numbers import short

Section = Mapping[str, Any]


def number(value: float | None, digits: int = 3, signed: bool = False) -> str:
    """Write a number to some significant digits with a true minus sign; None reads as n/a."""
    if value is None:
        return "n/a"
    text = f"{value:+.{digits}g}" if signed else f"{value:.{digits}g}"
    if "e" in text:
        mantissa, exponent = text.split("e")
        text = f"{mantissa}e{int(exponent)}"
    return text.replace("-", "−")


def interval(entry: Section, digits: int = 3, signed: bool = False) -> str:
    """Write a value with its interval, saying where an end is open or the interval is missing."""
    value = number(entry.get("value"), digits, signed)
    low, high, note = entry.get("low"), entry.get("high"), str(entry.get("note") or "")
    if low is None and high is None:
        return f"{value} ({'unbounded both ways' if 'unbounded' in note else 'no interval'})"
    ends = [
        number(low, digits, signed) if low is not None else "unbounded",
        number(high, digits, signed) if high is not None else "unbounded",
    ]
    return f"{value} [{ends[0]}, {ends[1]}]"


def point(value: float | None) -> str:
    """Write a difference in points, to two decimals with its sign; None reads as n/a."""
    return "n/a" if value is None else f"{value:+.2f}".replace("-", "−")


def points(entry: Section) -> str:
    """Write a difference in points with its interval."""
    if entry.get("low") is None or entry.get("high") is None:
        return f"{point(entry.get('value'))} (no interval)"
    return f"{point(entry['value'])} [{point(entry['low'])}, {point(entry['high'])}]"


def sample(entry: Section) -> str:
    """Write n and seeds."""
    seeds = entry["num_seeds"]
    return f"n = {entry['num_runs']} runs, {seeds} seed{'s' if seeds != 1 else ''}"


def headline(summary: Section) -> list[str]:
    """Answer, in the first paragraph, whether scaling data and model together beats scaling the model alone."""
    joint = summary["synergy"]
    if "reason" in joint:
        return [
            f"This study cannot say whether scaling data and model together beats scaling the model alone: {joint['reason']}."
        ]
    composition, base = joint["composition"], joint["base"]
    over, level = joint["joint_over_model"], f"{joint['joint_over_model']['level']:.0%}"
    unit = joint["unit"]
    sure = f"{level} interval" if over["low"] is not None else "no interval"
    span = f"from {short(joint['small'])} to {short(joint['large'])} dense parameters"
    if over["low"] is None:
        opening = (
            f"Not resolved: with one seed there is no interval. Scaling data and model together gained "
            f"{point(over['value'])} {unit} over scaling the model alone"
        )
    else:
        answer = {
            "resolved positive": "Yes: scaling data and model together beat scaling the model alone by",
            "resolved negative": "No: scaling data and model together did worse than scaling the model alone, by",
            "unresolved": "Not resolved: the difference between scaling data and model together and scaling the model alone is",
        }[over["verdict"]]
        opening = f"{answer} {points(over)} {unit}"
    sentences = [
        f"{opening} ({span}; {base} to {composition} data; {sure}; {sample(over)}).",
        f"The model alone gained {points(joint['model'])}, the data alone (at the smallest model) "
        f"{points(joint['data'])}, both together {points(joint['both'])} {unit} ({sample(over)}).",
        synergy_sentence(joint["synergy"], unit),
    ]
    if "reason" not in summary["interaction"]:
        sentences.append(interaction_sentence(summary["interaction"]))
    return sentences


def synergy_sentence(entry: Section, unit: str) -> str:
    """Say whether the two together are more than the sum of each."""
    meaning = {
        "resolved positive": "the two together gave more than the sum of each alone",
        "resolved negative": "the two together gave less than the sum of each alone",
    }.get(entry["verdict"], "whether the two together give more than their sum is not resolved")
    return f"Synergy, both − model − data, is {points(entry)} {unit}: {meaning} ({sample(entry)})."


def interaction_sentence(entry: Section) -> str:
    """Say how the benefit of the composition changes with size, and whether an additive model is enough."""
    meaning = {
        "resolved positive": "the benefit of the data grew with the model",
        "resolved negative": "the benefit of the data shrank as the model grew",
    }.get(entry["verdict"], "a change of the data's benefit with model size is not resolved")
    additive = entry["additive"]
    test = ""
    if additive["p_value"] is not None:
        test = f"; F test over all compositions: {additive['verdict']}, p = {number(additive['p_value'], 2)}"
    change = f"Per decade of dense parameters the gap changed by {points(entry)} points"
    return f"{change}: {meaning} ({sample(entry)}{test})."


def floor_sentence(composition: str, entry: Section, kind: str) -> str:
    """Compare a fitted floor with the oracle's loss, which is a truth in the stationary world and a bound in the rich one."""
    floor, oracle = entry["floor"], entry["floor"]["oracle"]
    text = f"{composition}: E = {interval(entry['E'], 4)}"
    if floor["profile"] is not None:
        text += f", by profile {interval(floor['profile'], 4)}"
    if oracle is None:
        return f"{text}; no oracle to compare with."
    held = floor.get("profile_holds_oracle")
    if held is None:
        return f"{text}; no interval to hold the oracle's {number(oracle, 4)}."
    if kind == "irreducible":
        verdict = "holds" if held else "does not hold"
        return f"{text}; the profile interval {verdict} the irreducible loss {number(oracle, 4)}."
    low = floor["profile"]["low"] if floor["profile"] else None
    above = low is not None and low > oracle
    relation = "lies above" if above else "reaches down to" if held else "lies below"
    return f"{text}; the profile interval {relation} the oracle's lower bound {number(oracle, 4)}."


def held_out_sentence(composition: str, entry: Section) -> str:
    """Say how well the law predicted the runs it had not seen."""
    scores = dict(entry["scores"])
    law_name = next(iter(scores))
    law = scores.pop(law_name)
    best = min(scores, key=lambda name: scores[name]["mean_absolute"])
    rival = best.replace("_", " ")
    verdict = "beat every baseline" if entry["beats_baselines"] else f"did no better than {rival}"
    error = f"{number(law['mean_absolute'], 2)} (bias {number(law['bias'], 2, True)})"
    against = f"{number(scores[best]['mean_absolute'], 2)} for {rival}"
    text = f"{composition}: the law {verdict}; mean absolute error {error} against {against}"
    if entry["coverage"] is not None:
        text += f"; its {entry['level']:.0%} interval covered {entry['coverage']:.0%} of the held-out runs"
    return f"{text} (fitted on {entry['num_train']}, tested on {entry['num_held']} runs)."


def ablation_sentence(section: Section) -> str:
    """Say whether isolation flipped the sign, as the paper reports."""
    flip = section.get("flip")
    if flip is None:
        return "The sign flip cannot be judged: no composition with other domains' samples was run with and without isolation."
    without, both, gap = flip["without"], flip["with"], flip["difference"]
    verdict = f"{flip['verdict'][0].upper()}{flip['verdict'][1:]}"
    base, isolation = section["reference"].split("/")
    reference = f"{base} data ({'no' if isolation == 'none' else 'full'} isolation)"
    changes = f"{points(without)} without isolation and {points(both)} with DREF and DAPGA"
    difference = f"a difference of {points(gap)} {section['unit']}"
    return (
        f"{verdict}: on {flip['composition']} data the change over {reference} is {changes}, {difference} "
        f"({sample(gap)}, {short(section['num_params_dense'])} dense parameters). The paper reports −0.43 and +0.32."
    )


def real_sentence(section: Section) -> str:
    """Compare the model's MRR with the last-touched rule."""
    if section.get("mrr") is None:
        return "No MRR was recorded for the largest model."
    entry = {"value": section["mrr"], "low": section["mrr_low"], "high": section["mrr_high"]}
    seeds = f"seeds: {section.get('num_seeds') or 'n/a'}"
    text = f"With {section['composition']} data the largest model reaches MRR {interval(entry, 4)} ({seeds})"
    against = section.get("beats_last_touched")
    if against is None:
        return f"{text}; the last-touched rule was not computed."
    rule = section["floor"]["last_touched_first"]["mrr"]
    relation = "beats" if against["difference"] > 0 else "does not beat"
    resolved = "" if against["resolved"] else ", though the interval does not resolve it"
    by = ""
    if against.get("low") is not None:
        by = f"; list by list the difference is {interval(against, 4, True)} (n = {against['num_requests']:,} lists)"
    return f"{text}, which {relation} the last-touched rule's {number(rule, 4)}{resolved}{by}."


_VERDICTS = ("same sign", "opposite sign", "unresolved")


def sign_count(what: str, count: Section) -> str:
    """Say how many signs agree with the paper's, go against them, and are open."""
    same, opposite, unresolved = (count[name] for name in _VERDICTS)
    return f"{what} {same} have the same sign here, {opposite} the opposite one, and {unresolved} are unresolved."


def law_metric(name: str) -> str:
    """Return how a metric of the composition law is called."""
    return "true clicks, all" if name.startswith("oracle_clicks") else "log loss, shown"


def _cells(law: Section) -> str:
    seeds = law["num_seeds"]
    return f"n = {law['num_cells']} cells of {law['num_runs']} runs, {seeds} seed{'s' if seeds != 1 else ''}"


def exchange_sentence(law: Section) -> str:
    """Say what each kind of sample is worth in exposed ones."""
    rates = "; ".join(f"{kind} {interval(rate, 2)} ({rate['verdict']})" for kind, rate in law["rates"].items())
    how = "with DREF and DAPGA" if law["isolation"] == "both" else "without isolation"
    return f"One sample in exposed ones, by {law_metric(law['metric'])}, {how}: {rates} ({_cells(law)})."


def exchange_interaction(law: Section) -> str:
    """Say whether rates that change with the model explain more, and predict the largest size better."""
    test, back = law["interaction"], law["backtest"]
    how = "with DREF and DAPGA" if law["isolation"] == "both" else "without isolation"
    name = law_metric(law["metric"])
    degrees = f"{test['degrees'][0]}, {test['degrees'][1]}"
    text = (
        f"{name[0].upper()}{name[1:]}, {how}: rates that change with the model against fixed ones, F({degrees}) = "
        f"{number(test['f_statistic'], 3)}, p = {number(test['p_value'], 2)} (likelihood ratio "
        f"{number(test['likelihood_ratio'], 3)}, p = {number(test['likelihood_p_value'], 2)}): {test['verdict']} "
        f"({_cells(law)})"
    )
    if not back:
        return f"{text}."
    better = "interacting" if back["interacting"] < back["additive"] else "additive"
    return (
        f"{text}. Without the largest size, the {better} law predicted it better: mean absolute error "
        f"{number(back['additive'], 2)} additive, {number(back['interacting'], 2)} interacting, "
        f"{number(back['carry_forward'], 2)} repeating the next smaller size ({back['num_train']} cells fitted, "
        f"{back['num_held']} predicted)."
    )


def diversity_sentences(section: Section) -> list[str]:
    """Say, over the mean of sizes, whether new kinds help at a fixed count and whether their volume does."""
    said = {"auc_roc": "AUC-ROC of shown lists", "full_clicks": "true clicks of all candidates"}
    out = []
    for metric, name in said.items():
        for composition, parts in section["by_metric"].get(metric, {}).items():
            kinds, volume = parts["mean"]["diversity"], parts["mean"]["volume"]
            out.append(
                f"At the count of exposed data, {composition} data gain {points(kinds)} points of {name} over it "
                f"({kinds['verdict']}), and the rest of their volume {points(volume)} ({volume['verdict']}; mean of sizes, "
                f"{sample(kinds)})."
            )
    return out


def abstract(summary: Section) -> list[str]:
    """Return what follows the headline: exchange rates, their interaction, full lists, isolation, peers, as far as measured."""
    out = []
    for law in summary["composition_law"].get("laws", ()):
        if law["isolation"] == "both":
            out.append(exchange_sentence(law))
    if out:
        out.append(exchange_interaction(summary["composition_law"]["laws"][0]))
    if "reason" not in summary["equal_counts"]:
        out += [line for line in diversity_sentences(summary["equal_counts"]) if "searchified" in line]
    if "flip" in summary["ablation"]:
        out.append(ablation_sentence(summary["ablation"]))
    counts = [part["count"] for part in summary["signs"].values() if "count" in part]
    counts += [table["count"] for table in summary["peers"].get("budgets", {}).values() if "count" in table]
    if counts:
        total = {name: sum(one[name] for one in counts) for name in _VERDICTS}
        out.append(sign_count(f"Of the paper's {sum(total.values())} signs that were tested", total))
    return out
