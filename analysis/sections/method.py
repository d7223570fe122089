"""How the study was made: shop, samples, models, training, metrics, statistics."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from analysis.laws import LEVEL
from analysis.study import StudyResult
from unisc.report.numbers import number, short
from unisc.report.page import Page


def method(page: Page, study: StudyResult, summary: Mapping[str, Any], figures: Mapping[str, Path]) -> None:
    """Write the method of a study on a generated shop; what was not recorded is left out."""
    page.heading("Method")
    logs = study.facts.get("logs") or {}
    if logs.get("config"):
        _shop(page, logs["config"], logs.get("counts") or {}, summary)
    _samples(page, summary, figures)
    _models(page, study)
    _training(page, study)
    page.heading("Metrics", 3)
    page.text(
        "Models are scored on the search requests of the last day, which no training sample comes from, twice: on the lists "
        "that were shown, and on all candidates of a request, where no position is given. AUC-ROC and log loss of shown lists "
        "are expectations over the true click probabilities wherever a metric's name ends in “expected”, so that labels add no "
        "noise; log loss is after Platt scaling, since compositions differ in their base rates. GAUC is the mean over "
        "requests. HR@5 is the share of requests whose clicked item is in the top five; “true clicks” are the expected clicks "
        "of the top five over those of the best possible five. A point is a hundredth of a metric."
    )
    page.heading("Statistics", 3)
    page.text(
        f"Intervals are at {LEVEL:.0%}. Comparisons are contrasts of cell means with seeds as blocks: a seed's common effect "
        "cancels, the error is pooled over all cells, and the interval is Student's. They cover the training seed; they do not "
        "cover another shop or another test day. A sign is called resolved where its interval excludes zero, and nothing is "
        "corrected for the number of comparisons: of ten unresolvable ones one would be resolved by chance. Laws are fitted by "
        "multi-start search with a certificate; their intervals are profiles, made as wide as a bootstrap of (size, data) "
        "cells where that is wider. Tests against additivity are F tests of nested models on cell means, since seeds of a cell "
        "share the law's lack of fit there."
    )


def _shop(page: Page, config: Mapping[str, Any], counts: Mapping[str, Any], summary: Mapping[str, Any]) -> None:
    page.heading("Shop", 3)
    world = "stationary" if config.get("preset") == "stationary" else "drifting"
    domains = summary["domains"] or ()
    page.text(
        f"A generated shop (seed {config['seed']}, {world} tastes): {number(counts.get('items'))} items, "
        f"{number(counts.get('users'))} users, {number(counts.get('requests'))} requests over {config['days']} days in the "
        f"domains {', '.join(domains)}, of which {config['search_share']:.0%} are searches and {config['rec_share']:.0%} feed "
        f"pages; {number(counts.get('candidates'))} candidates, {number(counts.get('events'))} events. "
        f"Each request has {config['candidates_min']} to {config['candidates_max']} candidates, of which "
        f"{config['exposed_min']} to {config['exposed_max']} are shown. Domains share {config['domain_overlap']:.0%} of the "
        f"rules of taste; {config['finish_elsewhere']:.0%} of purchases are finished in another domain than they began. The "
        "probability of every click is known, and no training path reads it."
    )
    if summary["oracle"]["log_loss"] is not None:
        page.text(
            f"A ranker that knew these probabilities would reach log loss {number(summary['oracle']['log_loss'], 4)} and "
            f"AUC-ROC {number(summary['oracle']['auc_roc'], 4)} on the shown lists."
        )


def _samples(page: Page, summary: Mapping[str, Any], figures: Mapping[str, Path]) -> None:
    page.heading("Samples", 3)
    page.text(
        "Four compositions, each adding to the one before: exposed (candidates that were shown), unexposed (with candidates of "
        "the same requests that were not, as negatives), attributed (clicks and purchases made elsewhere, written onto the "
        "search that preceded them) and searchified (clicks in feeds and shops as pseudo searches)."
    )
    section = summary["volumes"]
    if not section:
        page.text("Volumes were not recorded.")
        return
    kinds = [kind for kind in ("requests", "samples", "positives") if any(kind in entry for entry in section.values())]
    page.table(
        ["composition", *kinds],
        [[name, *[_volume(entry, kind) for kind in kinds]] for name, entry in section.items()],
        caption="What each composition adds: counts of the training split, in brackets relative to exposed data, and the "
        "paper's.",
    )
    if "volumes" in figures:
        page.figure(figures["volumes"], "Volume of each composition relative to exposed data; lines mark the paper's table.")


def _volume(entry: Mapping[str, Any], kind: str) -> str:
    if kind not in entry:
        return "n/a"
    ours, theirs = entry["relative"].get(kind), entry["paper"].get(kind)
    ratios = [f"{ours:.2f}×" if ours is not None else "", f"paper {theirs:.1f}×" if theirs is not None else ""]
    inside = ", ".join(ratio for ratio in ratios if ratio)
    return f"{entry[kind]:,.0f}" + (f" ({inside})" if inside else "")


def _models(page: Page, study: StudyResult) -> None:
    page.heading("Models", 3)
    page.text(
        "HHSFT: five typed tokens, heterogeneous (HFA) and global (GFA) attention, then experts by domain (DREF, hard routing) "
        "and attention over their views with foreign gradients stopped (DAPGA); isolation is both, one or none of the last "
        "two. Widths of HFA and GFA grow together by a rung; depth, heads and the embedding width stay."
    )
    grid = study.grid().runs
    rows = []
    for size in dict.fromkeys(grid["size"][np.argsort(grid["num_params_dense"], kind="stable")].tolist()):
        mine = grid["size"] == size
        work = grid["train_flops"][mine] / grid["num_examples"][mine]
        known = [
            float(np.nanmedian(grid[name][mine])) for name in ("hfa_dim", "gfa_dim") if np.isfinite(grid[name][mine]).any()
        ]
        cells = [short(float(np.median(grid[f"num_params_{kind}"][mine]))) for kind in ("dense", "active", "embedding")]
        seeds = len(np.unique(grid["seed"][mine]))
        widths = ", ".join(f"{width:.0f}" for width in known) or "n/a"
        rows.append([str(size), widths, *cells, short(float(np.median(work))), str(seeds), str(int(mine.sum()))])
    page.table(
        ["size", "HFA, GFA width", "dense", "active a sample", "embedding", "training FLOPs a sample", "seeds", "runs"],
        rows,
        text=(0, 1),
        caption="The grid's models: parameters, work, and how often each was trained.",
    )


def _training(page: Page, study: StudyResult) -> None:
    settings = study.settings
    if "train.batch_candidates" not in settings:
        return
    page.heading("Training", 3)
    rate = settings.get("train.learning_rate")
    grid = study.grid().runs
    rates = ", ".join(
        f"{one:g} ({', '.join(sorted(set(grid['size'][grid['learning_rate'] == one])))})"
        for one in sorted(set(grid["learning_rate"][np.isfinite(grid["learning_rate"])]))
    )
    epochs = settings.get("train.num_epochs", 1)
    page.text(
        f"{epochs} pass{'es' if epochs != 1 else ''} over the samples in batches of {settings['train.batch_candidates']} "
        f"candidates, cross-entropy of clicks and, weighted {settings.get('train.purchase_weight')}, of purchases, one head a "
        f"domain. Dense parameters: Adam at a rate of {rate if rate is not None else rates}, {settings.get('train.decay')} "
        f"decay after {settings.get('train.warmup_frac', 0):.0%} warm-up; embeddings: {settings.get('train.table_optimizer')} "
        f"at {settings.get('train.table_learning_rate')}. A share of the data is a share of its requests in hash order. One "
        "rate serves all sizes that share a claim; a larger composition also means more steps, which the section on volume "
        "takes apart."
    )
