"""What the phase diagram asks for, and a tiny one from nothing to its page."""

import dataclasses
from types import MappingProxyType

import numpy as np
import pytest

from analysis import phase as diagram
from experiments import phase as experiment
from experiments.phase import COMPOSITION, folder, kept, volumes
from sweeps import phase
from unisc.config import Runtime, fingerprint, from_json, from_plain, to_json
from unisc.data.columns import load
from unisc.errors import InputError
from unisc.sweep.launch.local import run_sweep


def config_of(run):
    return from_plain(experiment.Config, run.config)


def configs(preset):
    chosen = phase.PRESETS[preset]
    made = [phase.points(chosen, overlap, seed, f"{i:016x}") for i, (overlap, seed) in enumerate(phase.shops(chosen))]
    return [point for points in made for point in points]


@pytest.mark.parametrize("preset", list(phase.PRESETS))
def test_every_point_is_a_run_of_its_own_and_has_its_baseline(preset):
    found = [config for _, config in configs(preset)]
    prints = {fingerprint(c, version=1) for c in found}
    assert len(prints) == len(found)
    assert from_json(type(found[-1]), to_json(found[-1])) == found[-1]
    pooled = [c for study, c in configs(preset) if study == "phase"]
    for config in pooled:
        assert dataclasses.replace(config, data=dataclasses.replace(config.data, foreign=0.0)) in pooled


def test_paper_crosses_what_the_question_asks():
    pooled = [c for study, c in configs("paper") if study == "phase"]
    assert {c.data.overlap for c in pooled} == {0.0, 0.25, 0.5, 0.75, 0.9, 1.0}
    assert {c.data.foreign for c in pooled} == {0.0, 0.25, 0.5, 1.0}
    assert len({c.size for c in pooled}) == 3 and {c.model.isolation for c in pooled} == {"none", "both"}
    assert len({c.train.seed for c in pooled}) == 3
    assert len(pooled) == 6 * 4 * 3 * 2 * 3
    # A shop is one overlap and one seed, and none shares its world with another: their errors are independent.
    assert len({c.data.world for c in pooled}) == 18
    control = [c for study, c in configs("paper") if study == "control"]
    assert all(c.data.foreign == 0 and c.train.num_epochs == 2 and c.model.isolation == "none" for c in control)


def test_mistakes_are_one_line(tmp_path):
    for call in (phase.prepare, phase.runs):
        with pytest.raises(InputError, match="unknown preset 'huge'; the presets are: smoke, laptop, paper"):
            call(tmp_path, preset="huge")
    with pytest.raises(InputError, match="not there; call prepare first"):
        phase.runs(tmp_path, preset="smoke")
    data = configs("smoke")[0][1].data
    with pytest.raises(InputError, match=r"foreign 1\.5: give a share from 0 to 1"):
        dataclasses.replace(data, foreign=1.5)
    with pytest.raises(InputError, match="own 0: give a share above 0"):
        dataclasses.replace(data, own=0.0)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Two overlaps, two shops each, small ones; a second call makes nothing."""
    root = tmp_path_factory.mktemp("phase")
    preset = phase.Preset(
        requests=900, overlaps=(0.0, 1.0), foreign=(0.0, 1.0), sizes=("xxs",), seeds=(0, 1), control=False, isolations=("none",)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phase, "PRESETS", MappingProxyType({"tiny": preset}))
        patch.setattr(phase, "shop", small(phase.shop))
        phase.prepare(root, preset="tiny")
        before = {path: path.stat().st_mtime_ns for path in root.rglob("manifest.json")}
        phase.prepare(root, preset="tiny")
        assert before == {path: path.stat().st_mtime_ns for path in root.rglob("manifest.json")}
        planned = phase.runs(root, preset="tiny")
    return root, planned


def small(shop):
    def made(*args):
        return dataclasses.replace(shop(*args), items=2_400, shops=12, new_items_per_day=20)

    return made


def test_shares_are_nested_and_own_samples_stay(tiny):
    root, planned = tiny
    data = config_of(planned[0]).data
    columns = load(folder(root, data.overlap, data.world) / "samples" / COMPOSITION, "train", history_len=16)
    last = np.zeros(columns.num_requests, bool)
    own, foreign = volumes(columns)
    for share in (0.0, 0.25, 0.5, 1.0):
        mask = kept(columns.domain, dataclasses.replace(data, foreign=share))
        part = columns.only(mask)
        assert (last <= mask).all() and mask[columns.domain == 0].all()
        assert volumes(part)[0] == own and part.num_examples == len(part.item_id) == len(part.labels)
        assert volumes(part)[1] == pytest.approx(share * foreign, rel=0.15, abs=1)
        last = mask
    assert mask.all() and foreign > own


def test_foreign_requests_lose_their_query_and_nothing_else(tiny):
    root, planned = tiny
    data = planned[0].config["data"]
    columns = load(folder(root, data["overlap"], data["world"]) / "samples" / COMPOSITION, "train", history_len=16)
    bare = experiment.without_queries(columns)
    is_query = np.array([field.group == "query" for field in columns.spec.at("request")])
    changed = bare.request_fields != columns.request_fields
    assert changed[columns.domain != 0][:, is_query].any() and not changed[columns.domain == 0].any()
    assert not changed[:, ~is_query].any()
    assert (
        bare.request_fields[columns.domain != 0][:, is_query] == bare.request_fields[columns.domain != 0][0, is_query]
    ).all()


def test_a_tiny_diagram_from_its_shops_to_its_page(tiny, tmp_path):
    root, planned = tiny
    runtime = Runtime(work_dir=str(root / "sweep"), data_dir=str(root.resolve()))
    records = run_sweep(planned, root / "sweep", runtime=runtime, workers=2, progress=False)
    assert len(records) == len(planned) == 8
    assert all(0.4 < r["metrics"]["eval/exposed/auc_roc_expected"] < 0.9 for r in records)
    alone = [r for r in records if r["config"]["data"]["foreign"] == 0]
    assert {r["counts"]["num_examples_foreign"] for r in alone} == {0}
    page = diagram.build(root, tmp_path / "out").read_text()
    assert "8 runs on 4 shops (2 seeds an overlap)" in page
    config = config_of(planned[0])
    other = dataclasses.replace(config, data=dataclasses.replace(config.data, samples="0" * 16))
    with pytest.raises(InputError, match="but this run is of 0000000000000000; plan the sweep again"):
        experiment.run(other, runtime)
