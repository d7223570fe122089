"""KARMA's sweep: what it plans on some interests, and its table of differences."""

from pathlib import Path

import pytest

from experiments import karma
from sweeps.karma import PRESETS, SEMANTICS, data_dir, runs, table
from unisc.config import from_plain
from unisc.errors import InputError


@pytest.fixture(scope="module")
def roots(load_file, tmp_path_factory):
    tiny = load_file(Path(__file__).parents[1] / "data" / "tiny_interests.py")
    made = {}
    for visual_dim in (4, 0):
        made[visual_dim] = tmp_path_factory.mktemp("sweep")
        tiny.write(data_dir(made[visual_dim], preset="laptop"), num_train=600, visual_dim=visual_dim)
    return made


def test_the_ablation_and_the_scaling_are_planned_once_each_largest_first(roots):
    planned, preset = runs(roots[4], preset="paper"), PRESETS["paper"]
    assert len({run.fingerprint for run in planned}) == len(planned)
    asked = {(name, preset.size, 1.0) for name in preset.objectives}
    asked |= {(o, size, share) for o in preset.scaled for size in preset.sizes for share in preset.fractions}
    assert len(planned) == len(asked) * len(preset.seeds)
    assert [run.cost for run in planned] == sorted((run.cost for run in planned), reverse=True)
    configs = {run.label: from_plain(karma.Config, run.config) for run in planned}
    whole, half = (configs[f"rec s users {share} seed 0"] for share in ("1", "0.5"))
    assert whole.objective == karma.OBJECTIVES["rec"] and half.data.fraction == 0.5
    assert len({config.language.train.seed for config in configs.values()}) == 1, "one language model a size for all seeds"


def test_items_without_pictures_have_no_visual_runs(roots):
    names = [{run.label.split()[0] for run in runs(root, preset="laptop")} for root in (roots[4], roots[0])]
    assert names[0] - names[1] == {"visual"}


def test_the_table_takes_differences_seed_by_seed():
    def metrics(found, cosine):
        return {"eval/hr@200": found, SEMANTICS[2]: cosine, "eval/before/cosine": 0.7}

    values = {("act", 0): (0.5, 0.9), ("act", 1): (0.7, 0.8), ("rec", 0): (0.6, 0.6), ("rec", 1): (0.8, 0.5)}
    labels = {f"{name}{seed}": f"{name} xs users 1 seed {seed}" for name, seed in values}
    records = [{"fingerprint": f"{name}{seed}", "metrics": metrics(*found)} for (name, seed), found in values.items()]
    found, cosine = [line for line in table(records, labels).splitlines() if "rec" in line]
    assert found.split()[4:6] == ["2", "0.7000"] and "+0.1000 [+0.1000, +0.1000]" in found
    assert "-0.3000" in cosine and cosine.endswith("0.7000")


def test_bad_input_is_one_line(tmp_path):
    with pytest.raises(InputError, match="unknown preset 'huge'; the presets are: smoke, laptop, paper"):
        runs(tmp_path, preset="huge")
    with pytest.raises(InputError, match="interests: not there; call prepare first"):
        runs(tmp_path, preset="smoke")
