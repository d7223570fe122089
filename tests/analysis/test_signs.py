"""The paper's tables beside ours: every sign is the same, opposite, or unresolved, and counts as nothing else."""

import numpy as np
import pytest

from analysis import effects, isolation, paper, peers, signs, widths
from unisc.errors import InputError


@pytest.fixture(scope="module")
def study(synthetic):
    """A study of everything the largest preset runs."""
    return synthetic.paper_study()


@pytest.mark.parametrize(
    ("low", "high", "published", "word"),
    [
        (0.1, 0.4, 0.32, "same sign"),
        (-0.4, -0.1, -0.43, "same sign"),
        (-0.4, -0.1, 0.32, "opposite sign"),
        (0.1, 0.4, -0.43, "opposite sign"),
        (-0.1, 0.4, 0.32, "unresolved"),
        (0.0, 0.4, 0.32, "unresolved"),
        (None, None, 0.32, "unresolved"),
        (0.1, 0.4, 0.0, "no published sign"),
        (0.1, 0.4, None, "no published sign"),
    ],
)
def test_a_verdict_compares_an_interval_with_a_published_sign(low, high, published, word):
    assert signs.verdict({"value": 0.2, "low": low, "high": high}, published) == word


def test_the_planted_ablation_has_the_papers_signs_where_it_can_be_told(study):
    section = signs.ablation(study)
    auc = {(row["composition"], row["isolation"]): row for row in section["rows"] if row["metric"] == "AUC"}
    assert set(auc) == set(paper.ABLATION)
    assert auc["searchified", "none"]["verdict"] == auc["searchified", "both"]["verdict"] == "same sign"
    assert auc["exposed", "both"]["verdict"] == "unresolved"  # Planted at zero.
    assert auc["searchified", "none"]["paper"] == -0.43 and auc["searchified", "none"]["ours"]["high"] < 0
    assert sum(section["count"].values()) == len(section["rows"]) == 20
    assert auc["searchified", "none"]["num_sizes"] == 3


def test_isolation_is_judged_at_every_size_and_on_average(study):
    section = isolation.ablation(study)
    assert section["size"] == "xl" and section["flip"]["verdict"] == "isolation flipped the sign"
    assert [row["num_params_dense"] for row in section["by_size"]] == [7_600, 19_000, 121_000]
    mean, one = (part["flips"]["searchified"]["difference"] for part in (section["mean"], section["by_size"][0]))
    assert mean["standard_error"] == pytest.approx(one["standard_error"] / np.sqrt(3))
    runs = study.select(~((study.runs["study"] == "ablation") & (study.runs["size"] == "xl")))
    assert isolation.ablation(runs)["size"] == "m"
    with pytest.raises(InputError, match="no ablation was run"):
        isolation.ablation(study.select(study.runs["study"] == "grid"))


def test_widths_start_from_the_size_they_were_grown_from_and_compare_at_equal_parameters(study):
    section = widths.compare(study)
    assert section["reference"] == "s" and section["num_params_dense"] == 7_600
    assert set(section["curves"]) == {
        f"{kind}, {composition}"
        for kind in ("both widths", "GFA alone", "HFA alone")
        for composition in ("exposed", "searchified")
    }
    assert section["curves"]["GFA alone, exposed"][0] | {} == section["curves"]["HFA alone, exposed"][0]
    for claim in section["claims"].values():
        assert claim["at"] == 60_500  # The most that HFA alone reaches.
    table = signs.scaling(effects.interactions(study)["synergy"], section)
    assert {row["verdict"] for row in table["rows"]} == {"same sign"} and len(table["rows"]) == 7


def test_widths_that_start_nowhere_are_refused(study):
    with pytest.raises(InputError, match="no width was grown alone"):
        widths.compare(study.select(study.runs["study"] == "grid"))
    lost = study.select(~((study.runs["study"] == "grid") & (study.runs["size"] == "s")))
    with pytest.raises(InputError, match="start from no size of the grid"):
        widths.compare(lost)


def test_peers_are_over_the_baseline_of_their_own_budget(study, synthetic):
    section = peers.compare(study)
    rows = {(row["name"], row["composition"]): row for row in section["budgets"]["flops"]["rows"]}
    for name, gain in synthetic.ZOO.items():
        if name != "dlrm":
            assert rows[name, "exposed"]["auc_roc"]["value"] == pytest.approx(100 * gain, abs=0.15), name
    assert rows["hhsft", "exposed"]["verdict"]["auc_roc"] == "same sign"
    assert rows["wukong", "exposed"]["verdict"]["auc_roc"] == "opposite sign"  # Planted below the baseline.
    assert rows["dlrm", "exposed"]["auc_roc"] is None and "verdict" not in rows["dlrm", "searchified"]
    params = {row["name"] for row in section["budgets"]["params"]["rows"]}
    assert "hhsft" in params  # The reference is its own match.
    assert section["rates"][0]["best"] == 1.5e-3 == section["rates"][0]["used"] and not section["rates"][0]["at_edge"]


def test_a_rate_at_the_edge_of_its_grid_is_said(study):
    tried = (study.runs["study"] == "rates") & (study.runs["learning_rate"] == 4.5e-3)
    before = study.runs[peers.TUNED_BY][tried].copy()
    study.runs[peers.TUNED_BY][tried] = 0.2
    found = peers.rates(study)
    study.runs[peers.TUNED_BY][tried] = before
    assert all(one["at_edge"] and one["best"] != one["used"] for one in found)


def test_a_zoo_without_its_baseline_is_refused(study):
    with pytest.raises(InputError, match="the peers lack dlrm"):
        peers.compare(study.select(~np.char.startswith(study.runs["size"], "dlrm@")))
