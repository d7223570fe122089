"""The zoo beside one HHSFT: every ranker at equal FLOPs and at equal parameters, each at a learning rate of its own.

Rates come from one small grid on `exposed` samples at a seed that no comparison uses (label "rates"); `TUNED` holds the best
of each, so that planning needs no records, and the report says where records disagree with it. Rankers that can compute the
context once a request do so ("shared"), as they are served.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

from experiments.uniscale import Config
from unisc.data.features import FeatureSpec
from unisc.errors import InputError
from unisc.models import zoo

By = Literal["flops", "params"]
BUDGETS: tuple[By, ...] = ("flops", "params")
RATES = (5e-4, 1.5e-3, 4.5e-3, 1.35e-2, 4.05e-2)
TUNING_SEED = 9
TUNED: Mapping[str, float] = MappingProxyType(
    {
        "dcn@flops": 0.0045,
        "dcn@params": 0.0135,
        "din@flops": 0.0135,
        "din@params": 0.0135,
        "dlrm@flops": 0.0405,
        "dlrm@params": 0.0405,
        "hhsft@flops": 0.0045,
        "hiformer@flops": 0.0015,
        "hiformer@params": 0.0015,
        "hstu@flops": 0.0045,
        "hstu@params": 0.0045,
        "onetrans@flops": 0.0045,
        "onetrans@params": 0.0045,
        "rankmixer@flops": 0.0015,
        "tokenmixer_large@flops": 0.0015,
        "transformer@flops": 0.0045,
        "wukong@flops": 0.0135,
        "wukong@params": 0.0045,
    }
)
"""The best rate of each contender on the paper preset's grid, by calibrated log loss of the shown lists."""

SHARED = ("hstu", "onetrans", "transformer")
LISTWISE = ("din", *SHARED)
LIST_LEN = 16
MAX_FLOPS_RATIO = 4.0
"""A model that needs more than so many times the reference's FLOPs to have its parameters is left out of that comparison."""


def contenders(reference: Any, spec: FeatureSpec, *, list_len: float) -> dict[str, Any]:
    """Return the configurations compared with `reference`, itself among them, by name and what is equal ("dcn@flops").

    `list_len` is the mean length of the lists trained on: what is computed once a request is shared by so many candidates.
    """
    volume = {"num_candidates": 1000, "num_requests": round(1000 / list_len)}

    def flops(config: Any) -> float:
        return float(zoo.ranker_of(config).flops_per_example(config, spec).train(**volume))

    def params(config: Any) -> float:
        return float(zoo.ranker_of(config).num_params(config, spec).dense)

    found = {"hhsft@flops": reference}
    for name in zoo.RANKERS:
        if name == "hhsft":
            continue
        ladder: dict[str, Any] = {"context": "shared"} if name in SHARED else {}
        for by, measure in zip(BUDGETS, (flops, params), strict=True):
            try:
                config = zoo.matched(name, measure, measure(reference), embed_dim=reference.embed_dim, **ladder)
            except InputError:
                continue  # its narrowest is too large, or steps between its widths too wide
            if flops(config) <= MAX_FLOPS_RATIO * flops(reference) and config not in found.values():
                found[f"{name}@{by}"] = config
    return found


def points(
    reference: Config, spec: FeatureSpec, samples: Mapping[str, str], *, list_len: float, seeds: Sequence[int]
) -> Iterator[tuple[str, Config]]:
    """List the runs of the rate grid and of the comparison; `reference` is one on `exposed` samples of lists of `list_len`."""
    for name, model in contenders(reference.model, spec, list_len=list_len).items():
        cut = LIST_LEN if name.partition("@")[0] in LISTWISE else 0

        def run(composition: str, rate: float, seed: int, name: str = name, model: Any = model, cut: int = cut) -> Config:
            return dataclasses.replace(
                reference,
                size=name,
                model=model,
                data=dataclasses.replace(reference.data, composition=composition, samples=samples[composition]),
                train=dataclasses.replace(reference.train, learning_rate=rate, seed=seed, list_len=cut),
                evaluate=dataclasses.replace(reference.evaluate, list_len=cut),
            )

        for rate in RATES:
            yield "rates", run("exposed", rate, TUNING_SEED)
        # What foreign samples do to each is asked at equal FLOPs alone.
        for composition in ("exposed", "searchified") if name.endswith("@flops") else ("exposed",):
            for seed in seeds:
                yield "peers", run(composition, TUNED.get(name, reference.train.learning_rate), seed)
