"""What the presets ask for: the bars a study has to meet are counted here, not promised."""

import dataclasses

import pytest

from data_gen.marketplace.config import preset as shop_preset
from sweeps.uniscale import LADDER, PRESETS, base, points
from unisc.config import fingerprint, from_json, to_json
from unisc.data.features import FeatureSpec, Field, Table
from unisc.data.schema import COMPOSITIONS
from unisc.errors import InputError
from unisc.models.hhsft import ISOLATIONS, num_params

SAMPLES = {name: f"{i:016x}" for i, name in enumerate(COMPOSITIONS)}


def laptop():
    return points(PRESETS["laptop"], SAMPLES)


def test_laptop_spans_what_a_law_needs():
    grid = [config for study, config in laptop() if study == "grid"]
    fractions = {config.data.fraction for config in grid}
    assert len({config.size for config in grid}) >= 6
    assert len(fractions) >= 5 and max(fractions) / min(fractions) >= 30
    assert {config.data.composition for config in grid} == set(COMPOSITIONS)
    largest = [config for config in grid if config.data.fraction == 1.0]
    assert {config.train.seed for config in largest} == {0, 1, 2}
    assert len(laptop()) >= 60


def test_the_ladder_spans_a_hundredfold_in_dense_parameters():
    def field(name, group, level):
        return Field(name=name, group=group, level=level, table="ids")

    spec = FeatureSpec(
        tables=(Table(name="ids", num_rows=100),),
        fields=tuple(field(f"c{i}", "item", "candidate") for i in range(17))
        + tuple(field(f"{group}{i}", group, "request") for group in ("user", "query", "domain") for i in range(4))
        + tuple(field(f"h{i}", "sequence", "history") for i in range(4)),
        numeric=(),
        domains=("search", "rec", "shop"),
        tasks=("click", "purchase"),
        history_len=16,
    )
    sizes = [num_params(LADDER[size], spec).dense for size in PRESETS["laptop"].sizes]
    assert sizes == sorted(sizes) and sizes[-1] / sizes[0] >= 100


def test_every_point_is_a_run_of_its_own_and_survives_json():
    configs = [config for _, config in laptop()]
    assert len({fingerprint(config, version=1) for config in configs}) == len(configs)
    for config in configs[:: len(configs) // 20]:
        assert from_json(type(config), to_json(config)) == config


def test_the_ablation_crosses_composition_and_isolation():
    cells = {(c.data.composition, c.model.isolation, c.train.seed) for study, c in laptop() if study != "baseline"
             and c.size in PRESETS["laptop"].ablation_sizes and c.data.fraction == 1.0}  # fmt: skip
    assert cells == {(c, i, s) for c in COMPOSITIONS for i in ISOLATIONS for s in (0, 1, 2)}


def test_presets_name_real_shops_and_sizes():
    for preset in PRESETS.values():
        shop_preset(preset.shop, seed=0, requests=preset.requests)
        assert set(preset.sizes) <= set(LADDER)
        assert all(0 < fraction <= 1 for fraction in preset.fractions) and preset.fractions[-1] == 1.0


def test_an_unknown_composition_is_refused_by_name():
    data = base("s", data=laptop()[0][1].data, num_full_requests=1).data
    with pytest.raises(InputError, match="unknown composition 'clicks'; the compositions are: exposed, unexposed"):
        dataclasses.replace(data, composition="clicks")
