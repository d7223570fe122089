"""The phase diagram: planted boundaries come back with honest intervals, and what is not resolved is said so."""

import json
from pathlib import Path

import numpy as np
import pytest

from analysis import phase, phase_text
from analysis.boundary import Surface, cell_means
from unisc.errors import InputError
from unisc.report.page import Page
from unisc.sweep import record as sweep_record


@pytest.fixture(scope="module")
def planted(load_file):
    return load_file(Path(__file__).with_name("phase_records.py"))


@pytest.fixture
def summary(planted):
    return phase.summarise(phase.arrange(planted.records()))


def bounds(part, share=1.0):
    return {bound["size"]: bound for bound in part["boundary"] if bound["foreign"] == share}


def test_a_planted_boundary_comes_back_for_both_metrics(summary):
    for metric in summary["metrics"].values():
        for isolation, zero in (("none", 0.7), ("both", 0.5)):
            for bound in bounds(metric["pooling"][isolation]).values():
                assert bound["verdict"] == "resolved" and bound["rising"]
                assert bound["low"] <= zero <= bound["high"] and bound["high"] - bound["low"] < 0.4
                assert bound["low"] < bound["value"] < bound["high"]
    # What isolation gains does not depend on the overlap here; it is there at a share of 1 and not at 0.
    isolation = summary["metrics"]["auc_roc"]["isolation"]
    assert {b["verdict"] for b in bounds(isolation).values()} == {"resolved positive everywhere"}
    assert not any("everywhere" in b["verdict"] for b in bounds(isolation, 0.0).values())


def test_intervals_cover_at_their_level_whatever_shops_have_in_common():
    """200 draws of 18 shops, errors of a shop's gains correlated by its world and its baseline."""
    rng = np.random.default_rng(1)
    overlap = np.repeat([0.0, 0.25, 0.5, 0.75, 0.9, 1.0], 3)
    sizes, shares = np.array([1e4, 1e5]), np.array([0.25, 0.5, 1.0])
    truth = 2 * (overlap**2 - 0.49)[:, None, None] * shares * np.array([1.0, 1.3])[:, None]
    hit = held = 0
    for _ in range(200):
        world = 0.3 * rng.standard_normal((18, 1, 1)) * shares
        runs = 0.3 * rng.standard_normal((18, 2, 4))
        surface = Surface.fit(
            overlap, truth + world + runs[..., 1:] - runs[..., :1], sizes=sizes, shares=shares, through_zero=True
        )
        value, se = surface.at(0.25, 1e5, 1.0)
        hit += abs(value[0] - 2 * (0.0625 - 0.49) * 1.3) <= surface.quantile * se[0]
        bound = surface.boundary(1e4, 1.0)
        held += (bound.low or 0) <= 0.7 <= (1 if bound.high is None else bound.high)
    # Binomial spread of 200 at 0.9 is 4.2; three of it.
    assert 167 <= hit <= 193
    assert 167 <= held <= 200


def test_a_size_does_not_lend_its_noise_to_others():
    rng = np.random.default_rng(0)
    overlap = np.repeat([0.0, 0.25, 0.5, 0.75, 0.9, 1.0], 3)
    deviation, truth = np.array([4.0, 0.2, 0.2])[:, None], np.array([8.0, 0.3, 0.3])[:, None]
    tables = truth + deviation * rng.standard_normal((18, 3, 3))
    surface = Surface.fit(overlap, tables, sizes=[1e4, 7e4, 2e5], shares=[0.25, 0.5, 1.0], through_zero=True)
    for size in (7e4, 2e5):
        value, se = surface.at([0.0, 0.5, 1.0], size, 1.0)
        assert np.abs(value - 0.3).max() < 0.4 and se.max() < 0.25
    assert surface.at(0.5, 1e4, 1.0)[1][0] > 1


def test_noise_alone_is_unresolved_and_called_so(planted):
    noise = phase.summarise(phase.arrange(planted.records(gain=lambda *_: 0.0, noise=0.5)))
    metric = noise["metrics"]["auc_roc"]
    for part in (*metric["pooling"].values(), metric["isolation"]):
        verdicts = [cell["verdict"] for cell in part["cells"]]
        assert verdicts.count("unresolved") > 0.7 * len(verdicts)
    assert bounds(metric["pooling"]["none"])[68_000]["verdict"] == "unresolved"
    text = " ".join(phase_text.answer(noise))
    assert "the sign is resolved at neither end of the overlap" in text
    assert "is not resolved" in phase_text.meaning(noise)
    assert "hurts" not in text and "helps" not in text


def test_a_side_that_is_never_resolved_leaves_its_end_open():
    overlap = np.repeat([0.0, 0.5, 1.0], 4)
    rng = np.random.default_rng(0)

    def boundary(gain, **options):
        tables = (gain(overlap) + 0.1 * rng.standard_normal(12))[:, None, None]
        return Surface.fit(overlap, tables, sizes=[1e4], shares=[1.0], through_zero=True).boundary(1e4, 1.0, **options)

    open_below = boundary(lambda x: x**2)
    assert open_below.low is None and 0 < open_below.high < 0.7 and open_below.verdict == "resolved positive side only"
    assert boundary(lambda x: 1 + x).verdict == "resolved positive everywhere"
    assert boundary(lambda x: -1 - x).verdict == "resolved negative everywhere"
    falling = boundary(lambda x: 0.5 - x, rising=False)
    assert falling.verdict == "resolved" and falling.low < 0.5 < falling.high


def test_a_sign_against_expectation_is_not_called_unresolved(planted):
    """Isolation that costs where domains share little and pays where they share much, the wrong way round."""

    def gain(overlap, size, share, isolation):
        return 3 * (overlap - 0.5) * (isolation == "both")

    isolation = phase.summarise(phase.arrange(planted.records(gain=gain, draw=1)))["metrics"]["auc_roc"]["isolation"]
    bound = bounds(isolation)[68_000]
    assert bound["rising"] and bound["verdict"] == "resolved" and bound["low"] <= 0.5 <= bound["high"]
    words = phase_text.sign_sentence(bound, ("Isolation", "costs", "pays"), "points")
    assert words.startswith("Isolation costs up to an overlap of 0.") and "and pays from 0." in words


def test_cells_are_resolved_by_what_shops_of_one_overlap_differ():
    x = np.array([0.0, 0.0, 1.0, 1.0])
    points, means, half, degrees = cell_means(x, np.array([1.0, 1.2, -0.1, 0.1])[:, None, None])
    assert points.tolist() == [0, 1] and degrees == 2
    np.testing.assert_allclose(means.ravel(), [1.1, 0.0], atol=1e-12)
    np.testing.assert_allclose(half.ravel(), 2.919986 * np.sqrt(0.02 / 2), rtol=1e-6)


def test_the_answer_names_boundaries_n_seeds_and_level(summary):
    text = " ".join(phase_text.answer(summary))
    assert "Without isolation, pooling all foreign samples hurts up to an overlap of 0." in text
    assert "With DREF and DAPGA, pooling all foreign samples hurts up to" in text
    assert "Isolation on all samples pays at every overlap" in text
    assert "n = 432 runs, 18 shops, 3 seeds an overlap, 90% intervals" in text


def test_shops_that_lack_a_run_are_left_out_and_counted(planted):
    records = planted.records()
    results = phase.arrange(records[1:])
    assert results.facts["num_shops"] == 17 and results.facts["num_shops_left_out"] == 1
    assert "1 shop left out" in phase_text.facts(phase.summarise(results))
    with pytest.raises(InputError, match="no foreign share of 0"):
        phase.arrange([r for r in records if r["config"]["data"]["foreign"] > 0])
    with pytest.raises(InputError, match="run more seeds"):
        phase.summarise(phase.arrange(planted.records(seeds=(0,), overlaps=(0.0, 1.0))))


def test_the_page_and_the_section_hold_the_same_numbers(planted, tmp_path, monkeypatch):
    sizes = {"xs": 12_000, "m": 68_000}
    records = planted.records(sizes=sizes)
    for module in (phase, sweep_record):
        monkeypatch.setattr(module, "read_records", lambda _: records)
    page = phase.build(tmp_path, tmp_path / "out")
    html = page.read_text()
    assert "<h2" not in html and html.count("<figure") == 2
    numbers = json.loads((tmp_path / "out" / "phase.json").read_text())
    assert {path.name for path in (tmp_path / "out" / "figures").glob("*.svg")} == {
        "plane_auc_roc.svg", "plane_log_loss.svg", "slices.svg"
    }  # fmt: skip
    other = Page("study")
    assert json.loads(json.dumps(phase.section(other, tmp_path))) == numbers
    assert "Where pooling hurts and isolation pays" in other.html()


def test_a_folder_without_runs_of_the_diagram_adds_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(phase, "read_records", lambda _: [])
    page = Page("study")
    assert phase.section(page, tmp_path) is None and not page.parts
    with pytest.raises(InputError, match=r"no finished run of the phase diagram; run `python -m sweeps\.phase"):
        phase.load(tmp_path)
