"""Attribution made worse on purpose: which sample sets there are, how they are made, and the runs on them.

`unisc sweep run sweeps/label_quality.py --preset laptop --out DIR`. `DIR/logs` holds the shop, `DIR/samples/<name>` one sample
set each, `DIR/labels.json` what each set is and how right its labels are by the shop's truth. Every seed meets every set, and
the clean set on further shares of its requests, from which the data law is fitted.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from data_gen import es3
from data_gen.es3 import truth
from data_gen.es3.config import ES3Config
from data_gen.es3.degrade import degrade
from data_gen.marketplace.config import MarketplaceConfig
from data_gen.marketplace.config import preset as shop_preset
from experiments import label_quality
from experiments.label_quality import Config
from experiments.uniscale import DataConfig
from sweeps.planning import counted, preset_named
from sweeps.stages import Stages, make_logs
from sweeps.uniscale import HISTORY_LEN, REQUESTS_A_USER, base
from unisc.config import override, to_plain
from unisc.data import manifest
from unisc.data.columns import load
from unisc.errors import InputError
from unisc.files import write_atomic
from unisc.sweep.plan import Run

NAME = "labels.json"
CLEAN = "clean"
FAMILIES = ("wrong", "window", "relevance")
_HOUR = 3600
_WEEK = 7 * 24 * _HOUR


@dataclass(frozen=True, kw_only=True, slots=True)
class Degradation:
    """One sample set: what differs from ES3's defaults, and the share of its labels moved to wrong items.

    `family` is one of FAMILIES, "clean" for the defaults, or "none" for the same requests without attributed labels.
    """

    name: str
    family: str
    title: str
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    wrong_label_rate: float = 0.0

    @property
    def config(self) -> ES3Config:
        """How ES3 builds it, before labels are moved."""
        return ES3Config(composition="unexposed" if self.family == "none" else "attributed", **self.changes)


def _wrong(rate: float) -> Degradation:
    return Degradation(name=f"wrong-{rate:g}", family="wrong", title=f"{rate:.0%} on wrong items", wrong_label_rate=rate)


def _window(title: str, seconds: int) -> Degradation:
    # A purchase gets three times a click's window, as in the defaults, up to the length of the logs' train period.
    windows = {"click_window": seconds, "purchase_window": min(3 * seconds, _WEEK)}
    return Degradation(name=f"window-{title}", family="window", title=f"window {title}", changes=windows)


def _relevance(title: str, **changes: Any) -> Degradation:
    name = f"relevance-{title.replace(' ', '-')}"
    return Degradation(name=name, family="relevance", title=f"relevance: {title}", changes=changes)


UNLABELLED = Degradation(name="no-labels", family="none", title="no attributed labels")
BASE = Degradation(name=CLEAN, family=CLEAN, title="as intended")
_RATES = tuple(map(_wrong, (0.15, 0.3, 0.5, 0.7, 1.0)))
_WINDOWS = (_window("1h", _HOUR), _window("6h", 6 * _HOUR), _window("3d", 72 * _HOUR), _window("7d", _WEEK))
_RELEVANCE = (
    _relevance("off", relevance="none"),
    _relevance("half of the words", relevance="text"),
    _relevance("all words", relevance="text", text_threshold=1.0),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """How much of the question to ask: every degradation and share of the clean set with every seed, at one size."""

    requests: int
    degradations: tuple[Degradation, ...]
    fractions: tuple[float, ...]
    seeds: tuple[int, ...]
    size: str
    num_full_requests: int
    shop_seed: int = 1


PRESETS = MappingProxyType(
    {
        "smoke": Preset(
            requests=3_000,
            degradations=(BASE, _RATES[2], _RATES[4], _WINDOWS[3], _RELEVANCE[0]),
            fractions=(0.125, 0.25, 0.5, 0.7071, 1.0),
            seeds=(0, 1),
            size="xs",
            num_full_requests=200,
        ),
        "laptop": Preset(
            requests=24_000,
            degradations=(BASE, *_RATES, *_WINDOWS, *_RELEVANCE, UNLABELLED),
            fractions=(0.125, 0.25, 0.3536, 0.5, 0.7071, 1.0),
            seeds=(0, 1, 2, 3),
            size="s",
            num_full_requests=1_000,
        ),
        "paper": Preset(
            requests=64_000,
            degradations=(BASE, *_RATES, *_WINDOWS, *_RELEVANCE, UNLABELLED),
            fractions=(0.0625, 0.125, 0.25, 0.3536, 0.5, 0.7071, 1.0),
            seeds=(0, 1, 2, 3, 4, 5),
            size="s",
            num_full_requests=1_500,
        ),
    }
)

TRAFFIC = MappingProxyType({"search_share": 0.3, "rec_share": 0.6, "domain_overlap": 0.9, "retargeting": 0.6})
"""A shop with much to attribute: most visits are to the feed, which often shows again what a search considered. In the study's
own shop one click label in seven is attributed, here one in five."""


def shop(preset: Preset) -> MarketplaceConfig:
    """Return the shop of a preset."""
    users = preset.requests // REQUESTS_A_USER
    return shop_preset("default", seed=preset.shop_seed, requests=preset.requests, users=users, **TRAFFIC)


def prepare(root: Path, *, preset: str) -> None:
    """Make the logs, every sample set and `labels.json` under `root`, as far as they are not there.

    Raises:
      InputError: an unknown preset, or logs or samples of another configuration in the way.
    """
    chosen, stages = preset_named(PRESETS, preset), Stages(root, root, workers=0)
    logs = make_logs(shop(chosen), root / "logs", stages)
    known = _read(root)
    found = {}
    for one in sorted(chosen.degradations, key=lambda d: d.wrong_label_rate > 0):
        about = _make(root, one, logs["fingerprint"], stages)
        said = known.get(one.name, {})
        if said.get("samples") != about["fingerprint"]:
            said = truth.measure(root / "samples" / one.name, root / "logs") if one.family != "none" else {}
        counts = {name: about["counts"][f"train_{name}"] for name in ("requests", "samples", "clicks", "purchases")}
        found[one.name] = {**said, "samples": about["fingerprint"], "family": one.family, "title": one.title, "counts": counts}
        found[one.name] |= {"config": about["config"], "wrong_label_rate": one.wrong_label_rate}
    facts = {"preset": preset, "shop": to_plain(shop(chosen)), "logs": logs["fingerprint"], "degradations": found}
    write_atomic(root / NAME, json.dumps(facts, indent=1, allow_nan=False) + "\n")


def runs(root: Path, *, preset: str) -> list[Run]:
    """Plan the runs on what `prepare` made under `root`, each with its predicted cost.

    Raises:
      InputError: an unknown preset, or samples that are not there.
    """
    chosen = preset_named(PRESETS, preset)
    found = [(one, 1.0) for one in chosen.degradations]
    found += [(BASE, fraction) for fraction in chosen.fractions if fraction < 1]
    return [_plan(root, chosen, one, fraction, seed) for one, fraction in found for seed in chosen.seeds]


def _plan(root: Path, preset: Preset, one: Degradation, fraction: float, seed: int) -> Run:
    samples = root / "samples" / one.name
    made = manifest.read(samples, kind="samples")
    data = DataConfig(samples=made["fingerprint"], composition=made["composition"], fraction=fraction, history_len=HISTORY_LEN)
    config = override(base(preset.size, data=data, num_full_requests=preset.num_full_requests), {"train.seed": seed})
    columns = load(samples, "train", history_len=HISTORY_LEN, fraction=fraction)
    return Run.of(
        label_quality,
        Config(degradation=one.name, run=config),
        label=f"{one.name}@{fraction:g}/{preset.size}/seed{seed}",
        compile_key=preset.size,
        **counted(config.model, columns.spec, num_examples=columns.num_examples, num_requests=columns.num_requests),
    )


def _make(root: Path, one: Degradation, logs: str, stages: Stages) -> dict[str, Any]:
    """Build a sample set unless it is there; return its manifest."""
    out, clean = root / "samples" / one.name, root / "samples" / CLEAN
    wanted = {**to_plain(one.config), "logs": logs}
    if one.wrong_label_rate:
        wanted |= {"wrong_label_rate": one.wrong_label_rate, "wrong_label_seed": 0}
    if not out.exists():
        stages.say(f"building {one.name}")
        if one.wrong_label_rate:
            degrade(clean, out, wrong_label_rate=one.wrong_label_rate)
        else:
            es3.build(root / "logs", out, one.config, threads=stages.workers)
    made = manifest.read(out, kind="samples")
    if made["config"] != wanted:
        raise InputError(f"{out}: samples of other logs or another version; remove {out.parent} or give another folder")
    return made


def _read(root: Path) -> dict[str, Any]:
    """Return what is known of the sample sets from an earlier call; nothing where its file is not there or not whole."""
    try:
        return json.loads((root / NAME).read_text())["degradations"]
    except (OSError, ValueError, KeyError):
        return {}
