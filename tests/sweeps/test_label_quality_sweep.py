"""The sweep of label quality: what its presets promise, and a tiny one made from nothing, twice."""

import dataclasses
import json
from types import MappingProxyType

import pytest

from sweeps import label_quality
from sweeps.label_quality import BASE, CLEAN, FAMILIES, PRESETS, UNLABELLED, prepare, runs
from unisc.data import manifest
from unisc.errors import InputError

TINY = dataclasses.replace(
    PRESETS["smoke"], requests=1_500, degradations=(BASE, PRESETS["smoke"].degradations[1], UNLABELLED), fractions=(0.5, 1.0)
)


@pytest.mark.parametrize("preset", ["laptop", "paper"])
def test_presets_hold_what_a_claim_needs(preset):
    chosen = PRESETS[preset]
    assert len(chosen.seeds) >= 3
    assert len(chosen.fractions) >= 5 and max(chosen.fractions) == 1.0
    assert {d.family for d in chosen.degradations} == {CLEAN, "none", *FAMILIES}
    for family in FAMILIES:
        assert sum(d.family == family for d in chosen.degradations) >= 3
    assert len({d.name for d in chosen.degradations}) == len(chosen.degradations)
    configs = [d.config for d in chosen.degradations if d.family in ("window", "relevance")]
    assert len(set(configs)) == len(configs) and BASE.config not in configs


def test_an_unknown_preset_is_refused_by_name(tmp_path):
    for call in (prepare, runs):
        with pytest.raises(InputError, match="unknown preset 'huge'; the presets are: smoke, laptop, paper"):
            call(tmp_path, preset="huge")
    assert not any(tmp_path.iterdir())


def test_a_tiny_sweep_is_prepared_once_and_planned(tmp_path, monkeypatch):
    monkeypatch.setattr(label_quality, "PRESETS", MappingProxyType({"tiny": TINY}))
    prepare(tmp_path, preset="tiny")
    names = [d.name for d in TINY.degradations]
    facts = json.loads((tmp_path / "labels.json").read_text())
    made = {name: manifest.read(tmp_path / "samples" / name, kind="samples") for name in names}
    assert {name: one["samples"] for name, one in facts["degradations"].items()} == {
        name: m["fingerprint"] for name, m in made.items()
    }
    wrong = facts["degradations"][names[1]]
    assert wrong["wrong_label_rate"] == 0.5 and wrong["click"]["precision"]["value"] is not None
    assert "click" not in facts["degradations"]["no-labels"]
    assert facts["degradations"][CLEAN]["config"] == made[CLEAN]["config"]

    planned = runs(tmp_path, preset="tiny")
    assert len(planned) == len({run.fingerprint for run in planned}) == len(TINY.seeds) * (len(names) + 1)
    assert all(run.cost > 0 and run.experiment == "experiments.label_quality" for run in planned)

    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("manifest.json")}
    prepare(tmp_path, preset="tiny")
    assert stamps == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("manifest.json")}
    assert json.loads((tmp_path / "labels.json").read_text()) == facts
    assert [run.fingerprint for run in runs(tmp_path, preset="tiny")] == [run.fingerprint for run in planned]

    other = dataclasses.replace(TINY, shop_seed=2)
    monkeypatch.setattr(label_quality, "PRESETS", MappingProxyType({"tiny": other}))
    with pytest.raises(InputError, match="logs of another shop"):
        prepare(tmp_path, preset="tiny")
