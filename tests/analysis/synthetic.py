"""Records of a study that never ran, with planted laws, for tests of the report and for looking at its figures."""

import itertools

import numpy as np

from analysis.study import StudyResult, of_records

SIZES = {"xs": 2_900, "s": 7_600, "m": 19_000, "l": 52_000, "xl": 121_000, "xxl": 318_000}
FRACTIONS = (1 / 32, 1 / 12, 1 / 5, 1 / 2, 1.0)
COMPOSITIONS = ("exposed", "unexposed", "attributed", "searchified")
VOLUME = {"exposed": 1.0, "unexposed": 3.0, "attributed": 3.0, "searchified": 5.0}
FLOOR = 0.3127
SHIFT = {"exposed": 0.0, "unexposed": 0.0005, "attributed": 0.0015, "searchified": 0.003}
ISOLATION = {"none": -0.006, "dref": -0.001, "dapga": -0.002, "both": 0.0}


def records(
    seeds=(0, 1, 2), sizes=SIZES, fractions=FRACTIONS, compositions=COMPOSITIONS, slope=0.0012, ablation=True, noise=1.0
):
    """Return records: three seeds at full data, one elsewhere; `slope` is the planted interaction per decade."""
    rng = np.random.default_rng(0)
    out = []
    for size, fraction, composition in itertools.product(sizes, fractions, compositions):
        for seed in seeds if fraction == 1.0 else seeds[:1]:
            out.append(_record(rng, "grid", size, fraction, composition, "both", seed, slope, noise))
    if ablation:
        for composition, isolation, seed in itertools.product((compositions[0], compositions[-1]), ISOLATION, seeds):
            if isolation != "both":
                out.append(_record(rng, "ablation", "m", 1.0, composition, isolation, seed, slope, noise))
        for size, seed in itertools.product(("xs", "m", "xl"), seeds):
            out.append(_record(rng, "baseline", size, 1.0, "exposed", "both", seed, slope, noise, gain=-0.003))
    return out


def _record(rng, study, size, fraction, composition, isolation, seed, slope, noise, gain=0.0):
    params, examples = SIZES[size], 4.1e5 * fraction * VOLUME[composition]
    decade = np.log10(params / 2_900)
    shift = (
        SHIFT[composition]
        + slope * decade * (composition == "searchified")
        + 0.5 * slope * decade * (composition == "attributed")
    )
    shift += ISOLATION[isolation] if composition != "exposed" else 0.0
    loss = (FLOOR + 0.9 / params**0.42 + 2.4 / examples**0.36) * (1 + 4e-4 * noise * rng.standard_normal()) - 0.4 * shift
    auc_roc = (
        0.712 + 0.009 * decade - 0.003 * decade**2 + 0.004 * np.log10(fraction) + shift + 5e-4 * noise * rng.standard_normal()
    )
    return {
        "fingerprint": f"{rng.integers(2**60):015x}",
        "label": f"{study}/{size}/{composition}/{fraction:.3g}/{seed}",
        "config": {
            "study": study,
            "size": size,
            "fraction": fraction,
            "seed": seed,
            "composition": composition,
            "model": {"isolation": isolation},
        },
        "metrics": {
            "eval/exposed/log_loss": loss + 0.001,
            "eval/exposed/log_loss_expected": loss,
            "eval/exposed/auc_roc": auc_roc + 0.004,
            "eval/exposed/auc_roc_expected": auc_roc,
            "eval/exposed/gauc": auc_roc - 0.03,
            "eval/exposed/hr@5": 0.6 + auc_roc / 10,
            "eval/full/hr@5": 0.3 + auc_roc / 10,
            "eval/full/oracle_clicks@5": 0.4 + auc_roc / 10,
            "eval/oracle/log_loss": FLOOR,
            "eval/oracle/auc_roc": 0.741,
        },
        "counts": {
            "num_params_dense": params,
            "num_params_embedding": 810_000,
            "num_params_active": int(params * 0.7),
            "num_examples": int(examples),
            "num_requests": int(examples / 14),
            "train_flops": 6.0 * params * examples,
        },
        "timing": {"wall_seconds": 3 + 1e-5 * examples},
        "environment": {"machine": "4 cores"},
    }


RATES = {"exposed": 1.0, "unexposed": 0.2, "attributed": 0.5, "searchified": 0.3}
WORTH = {"exposed": 0.0, "unexposed": 0.002, "attributed": 0.004, "searchified": 0.006}
WIDTHS = {"xs": 4, "s": 8, "m": 12, "l": 18, "xl": 24, "xxl": 36}
ZOO = {"dlrm": 0.0, "dcn": 0.002, "wukong": -0.002, "hiformer": 0.005, "hhsft": 0.008}


def paper_records(seeds=(0, 1, 2), noise=1.0, interaction=0.0):
    """Return records of everything the largest preset runs.

    Planted: `RATES` of exchange in the loss, `interaction` added to the searchified rate by an e-fold of the parameters; a
    sign flip without isolation; GFA's width worth twice HFA's; diversity worth `WORTH` at equal counts; `ZOO` over DLRM-MLP.
    """
    rng = np.random.default_rng(1)
    out = records(seeds=seeds, ablation=False, noise=noise)
    for size, composition, seed in itertools.product(("s", "m", "xl"), COMPOSITIONS, seeds):
        for isolation in ("none", "dref", "dapga"):
            out.append(_record(rng, "ablation", size, 1.0, composition, isolation, seed, 0.0, noise))
    for size, composition, fraction in itertools.product(("s", "m", "xl"), COMPOSITIONS, FRACTIONS[:-1]):
        out.append(_record(rng, "ablation", size, fraction, composition, "none", seeds[0], 0.0, noise))
    for size, composition, seed in itertools.product(("s", "xl"), COMPOSITIONS[1:], seeds):
        out.append(_record(rng, "volume", size, 1 / VOLUME[composition], composition, "both", seed, 0.0, noise))
        out[-1]["metrics"]["eval/exposed/auc_roc_expected"] += WORTH[composition] - SHIFT[composition]
    for grow, size, composition, seed in itertools.product(("hfa", "gfa"), ("m", "xl"), ("exposed", "searchified"), seeds):
        one = _record(rng, f"grow-{grow}", size, 1.0, composition, "both", seed, 0.0, noise)
        fixed = "gfa_dim" if grow == "hfa" else "hfa_dim"
        one["config"]["model"] |= {fixed: WIDTHS["s"] * (2 if grow == "hfa" else 1)}
        one["config"]["size"] = f"{grow}-{size}"
        one["counts"]["num_params_dense"] = int(SIZES[size] * (0.5 if grow == "hfa" else 0.8))
        one["metrics"]["eval/exposed/auc_roc_expected"] -= 0.006 if grow == "hfa" else 0.003
        out.append(one)
    for name, budget, seed in itertools.product(ZOO, ("flops", "params"), (*seeds, 9)):
        for composition in ("exposed", "searchified") if budget == "flops" else ("exposed",):
            if name == "hhsft" and budget == "params":
                continue
            for rate in (5e-4, 1.5e-3, 4.5e-3) if seed == 9 and composition == "exposed" else (1.5e-3,) if seed != 9 else ():
                one = _record(rng, "rates" if seed == 9 else "peers", "m", 1.0, composition, "both", seed, 0.0, noise)
                one["config"] |= {"size": f"{name}@{budget}", "train": {"learning_rate": rate}}
                one["metrics"]["eval/exposed/log_loss_calibrated"] = 0.34 + 0.01 * abs(np.log(rate / 1.5e-3))
                for metric in ("auc_roc_expected", "gauc"):
                    one["metrics"][f"eval/exposed/{metric}"] += ZOO[name]
                out.append(one)
    for one in out:
        _exchange(rng, one, noise, interaction)
    return out


def _exchange(rng, one, noise, interaction):
    """Give a record of HHSFT the loss that the planted rates of exchange say, and the widths of its size."""
    config, counts = one["config"], one["counts"]
    if config["size"] in WIDTHS:
        config["model"] = {"hfa_dim": WIDTHS[config["size"]], "gfa_dim": 2 * WIDTHS[config["size"]]} | config["model"]
    base = counts["num_examples"] / VOLUME[config["composition"]]
    added = {
        "exposed": {},
        "unexposed": {"unexposed": 2.0},
        "attributed": {"attributed": 2.0},
        "searchified": {"attributed": 2.0, "searchified": 2.0},
    }[config["composition"]]
    size = np.log(counts["num_params_dense"] / 30_000)
    rate = RATES | {"searchified": RATES["searchified"] + interaction * size}
    effective = base * (1 + sum(rate[kind] * share for kind, share in added.items()))
    noisy = np.exp(4e-4 * noise * rng.standard_normal(2))
    loss = FLOOR + 0.9 / counts["num_params_dense"] ** 0.42 + 2.4 / effective**0.36
    one["metrics"]["eval/exposed/log_loss_expected"] = loss * noisy[0]
    lacking = 0.2 + 4 / counts["num_params_dense"] ** 0.42 + 8 / effective**0.36
    one["metrics"]["eval/full/oracle_clicks@5"] = 1 - lacking * noisy[1]


FACTS = {
    "preset": "laptop",
    "source": "marketplace",
    "domains": ["search", "rec", "shop"],
    "stationary": False,
    "oracle": {"log_loss": FLOOR, "auc_roc": 0.741},
    "volumes": {
        "exposed": {"requests": 30_100, "samples": 410_000, "positives": 21_000},
        "unexposed": {"requests": 30_100, "samples": 1_230_000, "positives": 21_000},
        "attributed": {"requests": 30_100, "samples": 1_230_000, "positives": 33_100},
        "searchified": {"requests": 68_000, "samples": 2_050_000, "positives": 71_000},
    },
    "wall_seconds": {"marketplace": 21.0, "samples": 44.0, "sweep": 566.0, "total": 640.0},
    "machine": {"cores": 4, "memory": "16 GiB"},
    "versions": {"python": "3.11.7", "jax": "0.10.2"},
}


def study(facts=None, **options) -> StudyResult:
    """Return a study of synthetic records."""
    return of_records(records(**options), FACTS | (facts or {}))


def paper_study(facts=None, **options) -> StudyResult:
    """Return a study of `paper_records`."""
    return of_records(paper_records(**options), FACTS | {"preset": "paper"} | (facts or {}))


def real_study(seeds=(0, 1, 2)) -> StudyResult:
    """Return a study of real logs: two compositions, two sizes, MRR and NDCG."""
    rng = np.random.default_rng(1)
    out = []
    for size, composition, seed in itertools.product(("s", "l"), ("exposed", "searchified"), seeds):
        one = _record(rng, "grid", size, 1.0, composition, "both", seed, 0.0, 1.0)
        mrr = 0.60 + 0.012 * (size == "l") + 0.008 * (composition == "searchified") + 0.001 * rng.standard_normal()
        one["metrics"] |= {"eval/exposed/mrr": mrr, "eval/exposed/ndcg": mrr + 0.1}
        one["metrics"] = {
            name: value for name, value in one["metrics"].items() if "oracle" not in name and "expected" not in name
        }
        out.append(one)
    floor = {"shown_order": 0.531, "cheapest_first": 0.312, "last_touched_first": 0.604}
    floors = {name: {"mrr": value, "ndcg": value + 0.09} for name, value in floor.items()}
    facts = {"source": "trivago", "preset": "laptop", "real": {"floor": floors, "num_requests": 4211}}
    return of_records(out, facts)
