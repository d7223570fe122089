"""The zoo is compared at what is equal by count, each at a rate of its own that the comparison's seeds did not choose."""

import pytest

from experiments.uniscale import DataConfig
from sweeps import peers
from sweeps.uniscale import PRESETS, base
from unisc.data.features import FeatureSpec, Field, Table
from unisc.errors import InputError
from unisc.models import zoo

SAMPLES = {"exposed": "0" * 16, "searchified": "1" * 16}
GROUPS = ("user", "query", "domain")
SPEC = FeatureSpec(
    tables=(Table(name="ids", num_rows=100),),
    fields=tuple(Field(name=f"c{i}", group="item", level="candidate", table="ids") for i in range(17))
    + tuple(Field(name=f"{group}{i}", group=group, level="request", table="ids") for group in GROUPS for i in range(4))
    + tuple(Field(name=f"h{i}", group="sequence", level="history", table="ids") for i in range(4)),
    numeric=(),
    domains=("search", "rec", "shop"),
    tasks=("click", "purchase"),
    history_len=16,
)


def reference():
    data = DataConfig(samples=SAMPLES["exposed"], composition="exposed", fraction=1.0, history_len=16)
    return base("m", data=data, num_full_requests=10)


def counts(config):
    ranker = zoo.ranker_of(config)
    flops = ranker.flops_per_example(config, SPEC).train(num_candidates=12_000, num_requests=1_000)
    return {"flops": flops, "params": ranker.num_params(config, SPEC).dense}


def test_contenders_have_what_they_are_said_to_have():
    wanted = reference().model
    found = peers.contenders(wanted, SPEC, list_len=12.0)
    assert len({name.partition("@")[0] for name in found}) >= 9
    for name, config in found.items():
        by = name.partition("@")[2]
        assert 0.8 <= counts(config)[by] / counts(wanted)[by] <= 1.25, name
        assert counts(config)["flops"] <= 4 * counts(wanted)["flops"], name


def test_rates_are_tried_at_a_seed_that_no_comparison_uses():
    seeds = PRESETS["paper"].seeds
    found = list(peers.points(reference(), SPEC, SAMPLES, list_len=12.0, seeds=seeds))
    tried = {(c.size, c.train.learning_rate) for study, c in found if study == "rates"}
    names = {c.size for study, c in found if study == "peers"}
    assert tried == {(name, rate) for name in names for rate in peers.RATES}
    assert {c.train.seed for study, c in found if study == "rates"}.isdisjoint(seeds)
    for study, config in found:
        assert study in ("rates", "peers") and config.data.samples == SAMPLES[config.data.composition]
        assert config.train.list_len == config.evaluate.list_len
        assert bool(config.train.list_len) == (config.size.partition("@")[0] in peers.LISTWISE)


def test_a_target_beyond_every_width_is_refused():
    with pytest.raises(InputError, match="'wukong': no width up to 5 comes within a quarter of 1,000"):
        zoo.matched("wukong", lambda config: float(config.num_fmb), 1_000.0, embed_dim=8, max_width=5)
