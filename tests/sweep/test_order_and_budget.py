import random

import pytest

from unisc.sweep.budget import Budget, Calibration, cost_units, remaining_secs
from unisc.sweep.order import claim_order
from unisc.sweep.plan import Run


def run(name: str, cost: float, key: str = "") -> Run:
    return Run(experiment="experiments.x", version=1, config={}, cost=cost, label=name, compile_key=key, fingerprint=name)


def order(waiting, *, num_workers=1, warm=(), begun=(), failures=None):
    chosen = claim_order(waiting, num_workers=num_workers, warm_keys=warm, begun_keys=begun, failures=failures or {})
    return [r.label for r in chosen]


MANY = [run(f"{key}{i}", cost, key) for key, cost in (("a", 1.0), ("b", 2.0), ("c", 3.0)) for i in range(3)]


def test_a_worker_prefers_what_it_has_compiled_then_what_nobody_has_begun():
    assert order(MANY, warm={"a"}, begun={"a", "c"}) == ["a0", "a1", "a2", "b0", "b1", "b2", "c0", "c1", "c2"]
    assert order(MANY)[:2] == ["c0", "c1"]


def test_near_the_end_the_longest_run_goes_first_whatever_is_compiled():
    few = [run("long", 10.0, "c"), *(run(f"a{i}", 1.0, "a") for i in range(9))]
    assert order(few, warm={"a"}, begun={"a", "c"})[0] == "long"
    assert order(few + [run(f"b{i}", 9.0, "b") for i in range(3)], warm={"a"}, begun={"a", "c"})[0] == "a0"


def test_runs_that_failed_come_last():
    assert order(MANY, failures={"c0": 1})[-1] == "c0"


def simulate(runs: list[Run], num_workers: int, *, affinity: bool) -> float:
    """The makespan of the rule, each cold start of a key costing nothing, so that only the order is judged."""
    free, warm, waiting = [0.0] * num_workers, [set() for _ in range(num_workers)], list(runs)
    begun: set[str] = set()
    while waiting:
        w = free.index(min(free))
        workers = num_workers if affinity else 10**9  # no slack: plain longest first
        chosen = claim_order(waiting, num_workers=workers, warm_keys=warm[w], begun_keys=begun, failures={})[0]
        waiting.remove(chosen)
        warm[w].add(chosen.compile_key)
        begun.add(chosen.compile_key)
        free[w] += chosen.cost
    return max(free)


def test_affinity_costs_at_most_one_longest_run_and_nothing_starves():
    for seed in range(200):
        generator = random.Random(seed)
        costs = [10 ** generator.uniform(0, 2) for _ in range(6)]
        runs = [run(f"{k}-{i}", costs[k], str(k)) for k in range(6) for i in range(generator.randint(1, 12))]
        num_workers = generator.choice([1, 2, 4, 8])
        with_affinity = simulate(runs, num_workers, affinity=True)
        plain = simulate(runs, num_workers, affinity=False)
        assert with_affinity <= plain + max(r.cost for r in runs) + 1e-9


def test_predictions_learn_a_rate_a_key_and_fall_back_on_the_mean():
    calibration = Calibration.fit([(run("x", 10.0, "small"), 20.0), (run("y", 100.0, "large"), 100.0)])
    assert calibration.predict_secs(run("z", 5.0, "small")) == pytest.approx(10.0)
    assert calibration.predict_secs(run("z", 5.0, "large")) == pytest.approx(5.0)
    assert calibration.predict_secs(run("z", 11.0, "new")) == pytest.approx(12.0)
    assert Calibration.fit([]).predict_secs(run("z", 5.0)) is None


def test_the_time_left_is_that_of_the_last_worker_to_end():
    assert remaining_secs([], [], 4) == 0.0
    assert remaining_secs([3.0], [5.0, 1.0], 2) == 5.0
    assert remaining_secs([3.0, 2.0], [4.0, 1.0], 2) == 6.0


def test_the_budget_refuses_what_would_end_beyond_it_and_lets_shorter_runs_in():
    calibration = Calibration.fit([(run("x", 1.0), 3600.0)])
    budget = Budget(2.0)
    assert budget.allows(run("fits", 1.0), 3000.0, calibration)
    assert not budget.allows(run("too long", 2.0), 3000.0, calibration)
    assert budget.allows(run("unknown", 2.0), 3000.0, Calibration())
    assert not budget.allows(run("unknown", 2.0), 7200.0, Calibration())
    assert Budget(None).allows(run("any", 1e9), 1e9, calibration)


def test_no_run_is_thought_free():
    assert cost_units(0.0) > 0
    assert cost_units(1e12) > cost_units(1e9)
