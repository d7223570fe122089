"""The report is one self-contained page, repeatable byte for byte, whose every number stands in summary.json."""

import json
import re
from html.parser import HTMLParser

import pyarrow.parquet as pq
import pytest

from analysis import laws, loss
from analysis.report import analyse, build
from analysis.study import load
from unisc.errors import InputError

FIGURES = ("gain", "loss", "predicted", "exchange", "ablation", "volumes")
PAPER_FIGURES = (*FIGURES, "widths", "equal_counts")


class Wellformed(HTMLParser):
    """Count open elements and collect ids."""

    def __init__(self):
        super().__init__()
        self.open, self.ids = [], []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_startendtag(self, tag, attrs):
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_needs_nothing_but_itself(report):
    page = (report / "index.html").read_text()
    # Namespace names look like addresses and are never fetched.
    fetched = re.sub(r'xmlns(:\w+)?="[^"]*"', "", page)
    fetched = re.sub(r"<!DOCTYPE svg[^>]*>", "", fetched)
    assert not re.search(r"https?://|<link|<img|src=|@import", fetched)
    parser = Wellformed()
    parser.feed(page)
    assert parser.open == []
    assert len(parser.ids) == len(set(parser.ids))
    assert page.count("<svg") == len(FIGURES)
    assert "<text" in page  # Text stays text: it can be searched, and scales.


def test_every_figure_comes_in_three_formats(report):
    for name in FIGURES:
        assert (report / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (report / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        assert "<svg" in (report / "figures" / f"{name}.svg").read_text()


@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_legend_lies_within_its_figure(synthetic, count):
    curves, _ = laws.fit_curves(synthetic.study(), draws=20)
    assert len(curves) == 4
    figure = loss.draw(dict(list(curves.items())[:count]), 0.3117, "irreducible")
    figure.draw_without_rendering()
    legend = figure.legends[0].get_window_extent()
    assert figure.bbox.x0 <= legend.x0 and legend.x1 <= figure.bbox.x1 and figure.bbox.y0 <= legend.y0


def test_the_report_is_repeatable_byte_for_byte(synthetic, report, tmp_path):
    build(synthetic.study(), tmp_path, draws=100)
    written = sorted(path.relative_to(report) for path in report.rglob("*") if path.is_file())
    assert len(written) == 5 + 3 * len(FIGURES)
    for path in written:
        assert (report / path).read_bytes() == (tmp_path / path).read_bytes(), path


def test_the_first_paragraph_answers_the_question_with_its_interval(report, summary):
    page = (report / "index.html").read_text()
    answer = re.search(r'<div class="answer"><p>(.*?)</p>', page)
    assert answer is not None
    over = summary["synergy"]["joint_over_model"]
    assert over["verdict"] == "resolved positive" and over["low"] > 0
    assert answer[1].startswith("Yes: scaling data and model together beat scaling the model alone by +")
    assert f"{over['low']:.2f}" in answer[1] and f"{over['high']:.2f}" in answer[1]
    assert "90% interval; n = 72 runs, 3 seeds" in answer[1]


def test_planted_numbers_are_recovered(synthetic, summary):
    # The generator plants .12 points a decade, less .4 of the shift in loss; exposed runs carry neither.
    assert summary["interaction"]["low"] <= 0.12 <= summary["interaction"]["high"]
    exposed = summary["fit"]["exposed"]
    for name, truth in {"E": synthetic.FLOOR, "alpha": 0.42, "beta": 0.36}.items():
        assert exposed[name]["low"] <= truth <= exposed[name]["high"], name
    assert exposed["floor"]["profile_holds_oracle"]
    assert summary["held_out"]["exposed"]["beats_baselines"]
    assert summary["ablation"]["flip"]["verdict"] == "isolation flipped the sign"
    assert summary["ablation"]["flip"]["composition"] == "searchified"


def test_summary_holds_the_documented_keys(report, summary):
    for path in (
        "oracle.log_loss",
        "oracle.auc_roc",
        "interaction.value",
        "synergy.synergy.low",
        "wall_seconds",
        "num_runs",
        "machine",
    ):
        value = summary
        for key in path.split("."):
            value = value[key]
        assert value is not None, path
    assert summary["num_runs"] == 195
    assert set(summary["fit"]) == {"exposed", "unexposed", "attributed", "searchified"}
    assert {"agreement", "gradient_norm", "bounds_hit", "condition_number"} <= set(summary["fit"]["exposed"]["certificate"])
    assert summary["volumes"]["searchified"]["paper"]["positives"] == 4.0
    documented = (report / "summary.schema.md").read_text()
    for key in summary:
        assert re.search(rf"`{key}[`.]", documented), f"{key} is not documented"


def test_run_table_and_laws_are_complete(report, summary):
    table = pq.read_table(report / "runs.parquet")
    assert table.num_rows == summary["num_runs"]
    assert {"fingerprint", "composition", "num_params_dense", "eval/exposed/auc_roc"} <= set(table.column_names)
    laws = json.loads((report / "laws.json").read_text())
    assert {"law", "contract", "parameters", "objective", "certificate", "intervals", "backtest"} <= set(laws["searchified"])
    assert (report / "index.html").read_text().count("<tr>") > summary["num_runs"]


def test_one_seed_is_reported_without_intervals_and_says_so(synthetic, tmp_path):
    sizes = {name: synthetic.SIZES[name] for name in ("xs", "m", "l")}
    page = build(synthetic.study(seeds=(0,), fractions=(0.2, 1.0), sizes=sizes, facts={"volumes": None}), tmp_path, draws=50)
    text = page.read_text()
    assert "Not resolved: with one seed there is no interval" in text
    assert "Volumes were not recorded" in text
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["interaction"]["low"] is None
    assert summary["fit"]["exposed"]["beta"]["high"] is None  # Two data sizes: unbounded, not narrow.
    assert "nan" not in (tmp_path / "summary.json").read_text().lower()


def test_unresolved_and_negative_results_read_as_such(synthetic):
    from analysis import prose

    noisy = analyse(synthetic.study(slope=0.0, noise=40.0, ablation=False, fractions=(0.2, 1.0)), draws=20).summary
    assert prose.headline(noisy)[0].startswith("Not resolved: the difference")
    assert noisy["ablation"]["reason"] == "no ablation was run"
    negative = analyse(synthetic.study(slope=-0.004, fractions=(1.0,)), draws=20).summary
    sentences = prose.headline(negative)
    assert sentences[0].startswith("No: scaling data and model together did worse")
    assert "less than the sum" in sentences[2] and "shrank as the model grew" in sentences[3]


@pytest.mark.parametrize(
    "options",
    [
        {"compositions": ("exposed",)},
        {"fractions": (1.0,)},
        {"sizes": ("s",), "ablation": False},
        {
            "sizes": ("s", "l"),
            "fractions": (1.0,),
            "seeds": (0,),
            "compositions": ("exposed", "searchified"),
            "ablation": False,
        },
    ],
    ids=["one composition", "one data size", "one model size", "four runs"],
)
def test_pages_tolerate_missing_pieces(synthetic, tmp_path, options):
    options = dict(options)
    if "sizes" in options:
        options["sizes"] = {name: synthetic.SIZES[name] for name in options["sizes"]}
    page = build(synthetic.study(facts={"oracle": None, "wall_seconds": None, "machine": None}, **options), tmp_path, draws=30)
    assert "Every run" in page.read_text()


def test_an_incomplete_grid_still_makes_a_page(synthetic, tmp_path):
    study = synthetic.study(fractions=(1.0,))
    lost = (study.runs["size"] == "xl") & (study.runs["composition"] == "attributed")
    page = build(study.select(~lost), tmp_path, draws=30)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["interaction"]["num_sizes"] == 5
    assert "Yes" in page.read_text()


@pytest.fixture(scope="module")
def paper_page(synthetic, tmp_path_factory):
    """The page of a study of everything that the largest preset runs."""
    return build(synthetic.paper_study(), tmp_path_factory.mktemp("paper"), draws=60)


def test_a_page_of_everything_is_numbered_and_its_contents_lead_somewhere(paper_page):
    page = paper_page.read_text()
    parser = Wellformed()
    parser.feed(page)
    assert parser.open == [] and len(parser.ids) == len(set(parser.ids))
    assert page.count("<svg") == len(PAPER_FIGURES)
    links = re.findall(r'<li><a href="#([^"]+)">', page)
    assert set(links) <= set(parser.ids) and len(links) == page.count("<h2 ") == 13
    for kind in ("Figure", "Table"):
        numbers = [int(number) for number in re.findall(rf"<b>{kind} (\d+)\.</b>", page)]
        assert numbers == list(range(1, len(numbers) + 1)) and numbers
    assert 'class="holds text">same sign' in page and 'class="look text">opposite sign' in page
    assert "Not part of this study" not in page
    assert "unisc study uniscale --preset paper" in page


def test_what_was_not_run_is_said_under_limits(report):
    page = (report / "index.html").read_text()
    for part in ("widths grown alone", "equal counts", "the zoo at equal budgets"):
        assert f"Not part of this study: {part} (" in page


def test_every_comparison_of_the_abstract_carries_its_sample_and_interval(paper_page):
    answer = re.search(r'<div class="answer">(.*?)</div>', paper_page.read_text(), re.DOTALL)
    assert answer is not None
    sentences = re.findall(r"<p>(.*?)</p>", answer[1])
    assert len(sentences) > 9
    for sentence in sentences[:-1]:  # The last one counts signs.
        assert "n = " in sentence and re.search(r"\d seeds", sentence), sentence
        assert "[" in sentence or "p = " in sentence, sentence
    assert sentences[-1].startswith("Of the paper&#x27;s ")


def test_other_modules_add_sections_to_the_page(synthetic, tmp_path, monkeypatch):
    from analysis import extra

    (tmp_path / "extra_for_test.py").write_text(
        "from unisc.report.page import Page\n"
        "def study_section(work):\n"
        "    page = Page('')\n"
        "    page.heading('Where pooling starts to hurt')\n"
        "    page.table(['folder'], [[work.name]], caption='One more.')\n"
        "    return page.body()\n"
    )
    (tmp_path / "silent_for_test.py").write_text("def study_section(work):\n    return None\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(extra, "SECTIONS", ("extra_for_test", "silent_for_test", "not_there_for_test"))
    study = synthetic.study(fractions=(1.0,), ablation=False)
    page = build(study, tmp_path / "out", draws=30, work=tmp_path).read_text()
    assert '<a href="#where-pooling-starts-to-hurt">Where pooling starts to hurt</a>' in page
    numbers = [int(number) for number in re.findall(r"<b>Table (\d+)\.</b>", page)]
    assert numbers == list(range(1, len(numbers) + 1)) and f'<td class="text">{tmp_path.name}</td>' in page
    assert list(extra.sections(None)) == []


def test_real_logs_get_their_own_section(synthetic, tmp_path):
    page = build(synthetic.real_study(), tmp_path, draws=30).read_text()
    real = json.loads((tmp_path / "summary.json").read_text())["real"]
    assert real["composition"] == "searchified" and real["floor"]["last_touched_first"]["mrr"] == 0.604
    assert real["mrr_low"] < real["mrr"] < real["mrr_high"]
    assert real["beats_last_touched"]["resolved"]
    assert "beats the last-touched rule" in page and "cheapest first" in page


def test_a_folder_without_a_study_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"study\.json is missing; give the folder"):
        load(tmp_path)
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(InputError, match="is not JSON"):
        load(tmp_path)
