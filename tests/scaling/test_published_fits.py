"""The replication of Chinchilla's fit (arXiv 2404.10102): published optima, standard errors and speed."""

import time

import pytest

from unisc.scaling import Contract, bootstrap, fit

pytestmark = pytest.mark.real_data


def test_huber_fit_reaches_the_published_optimum(trimmed):
    found = fit("chinchilla", *trimmed[:3], contract=Contract(trimming="5 highest losses"))
    assert found.num_runs == 240
    assert found.objective <= 0.00101827410 + 1e-10
    assert found.params["alpha"] == pytest.approx(0.34731, abs=1e-4)
    assert found.params["beta"] == pytest.approx(0.36717, abs=1e-4)
    assert found.certificate.agreement > 0.5
    assert found.certificate.gradient_norm < 1e-8
    assert found.certificate.bounds_hit == ()


def test_least_absolute_deviations_give_the_published_headline(trimmed):
    found = fit("chinchilla", *trimmed[:3], contract=Contract(loss="absolute"))
    for name, published in {"alpha": 0.34781, "beta": 0.36585, "E": 1.81686}.items():
        assert found.params[name] == pytest.approx(published, abs=1e-4)
    assert found.objective == pytest.approx(1.1294946536, abs=1e-6)


def test_the_objective_alone_moves_beta_as_published(trimmed):
    keep = trimmed[3] < 1e21
    table = [column[keep] for column in trimmed[:3]]
    squared = fit("chinchilla", *table, contract=Contract(space="loss", loss="squared"))
    assert 2 * squared.objective == pytest.approx(0.062414, abs=1e-5)
    assert fit("chinchilla", *table, contract=Contract(loss="squared")).params["beta"] == pytest.approx(0.4430, abs=1e-3)
    assert fit("chinchilla", *table, contract=Contract(space="loss")).params["beta"] == pytest.approx(0.4058, abs=1e-3)


def test_bootstrap_reproduces_the_published_standard_errors(trimmed):
    errors = bootstrap(fit("chinchilla", *trimmed[:3]), draws=4000).standard_errors()
    for name, published in {"alpha": 0.0154, "beta": 0.0206, "E": 0.0257}.items():
        assert errors[name] == pytest.approx(published, rel=0.05)


def test_a_point_fit_takes_under_a_fifth_of_a_second(trimmed):
    times = []  # Of the processor: other tests share the machine.
    for _ in range(5):
        start = time.process_time()
        fit("chinchilla", *trimmed[:3])
        times.append(time.process_time() - start)
    assert min(times) < 0.2


def test_four_thousand_refits_take_under_three_seconds_of_processor(trimmed):
    found, times = fit("chinchilla", *trimmed[:3]), []
    for seed in range(2):
        start = time.process_time()  # Summed over threads.
        bootstrap(found, draws=4000, seed=seed)
        times.append(time.process_time() - start)
    assert min(times) < 3.0
