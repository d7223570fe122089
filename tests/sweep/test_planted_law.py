"""A law planted in synthetic records comes back out of the whole line: plan, workers, records, table, fit, intervals."""

import itertools

from analysis.study import of_records
from unisc.scaling import Contract, bootstrap, fit, leave_largest_out
from unisc.sweep.plan import Run

TRUTH = {"E": 0.30, "A": 0.6, "alpha": 0.30, "B": 2.0, "beta": 0.35}
SIZES = (3_000, 8_000, 20_000, 50_000, 130_000, 330_000)
EXAMPLES = (10_000, 24_000, 56_000, 130_000, 320_000)


def test_a_planted_law_is_recovered_through_the_real_worker(sweep):
    planted = sweep.planted
    law = planted.Law(floor=TRUTH["E"], A=TRUTH["A"], alpha=TRUTH["alpha"], B=TRUTH["B"], beta=TRUTH["beta"])
    runs = [
        Run.of(
            planted,
            planted.Config(law=law, num_params_dense=size, num_examples=examples, seed=seed, noise=5e-4),
            cost=1.0,
            label=f"grid/{size}/{examples}/{seed}",
        )
        for size, examples, seed in itertools.product(SIZES, EXAMPLES, range(3))
    ]
    records = sweep.go(runs)
    assert len(records) == len(SIZES) * len(EXAMPLES) * 3

    facts = {"columns": {"size": "config.num_params_dense"}}
    table = of_records(records, facts).runs
    columns = table["num_params_dense"], table["num_examples"], table["eval/exposed/log_loss"]
    found = fit("chinchilla", *columns, contract=Contract(loss="squared"))
    assert found.certificate.agreement > 0.3

    boot = bootstrap(found, draws=300, seed=0)
    outside = {name: boot.interval(name, 0.99) for name, truth in TRUTH.items() if not boot.interval(name, 0.99).holds(truth)}
    assert not outside, outside
    assert boot.interval("alpha").high - boot.interval("alpha").low < 0.2
    # Beyond the table too: ten times the largest size and data.
    assert boot.prediction(3.3e6, 3.2e6, level=0.99).holds(law.loss(3.3e6, 3.2e6))
    held_out = leave_largest_out("chinchilla", *columns, contract=Contract(loss="squared"))
    assert held_out.beats_baselines
