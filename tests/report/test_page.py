"""A page stands alone: text escaped, numbers written and sortable, figures repeatable and with ids of their own."""

import json
import re

import pytest

from unisc.errors import InputError
from unisc.report import style
from unisc.report.page import Page


def _drawn():
    fig, (ax,) = style.figure(1, 4.0, 2.0)
    ax.plot([1, 2, 4], [3, 1, 2], style.MARKERS[0] + style.LINES[1], color=style.colour("exposed"), label="a line")
    ax.set(xlabel="steps & such", xscale="log")
    ax.legend()
    return fig


def test_text_is_escaped_and_cells_are_written_for_the_reader():
    page = Page("a < b")
    page.answer(["yes & no"])
    page.items(["<one>"])
    page.table(["what", "n", "share"], [["<x>", 12345, ("half", 0.5)], ["y", None, "holds"]])
    html = page.html()
    assert "<title>a &lt; b</title>" in html and "<p>yes &amp; no</p>" in html and "<li>&lt;one&gt;</li>" in html
    assert '<td class="text">&lt;x&gt;</td><td data-value="12345">12,345</td><td data-value="0.5">half</td>' in html
    assert '<td data-value="-1e+308">n/a</td><td class="holds">holds</td>' in html


def test_only_a_sortable_table_is_sorted_and_boxed():
    page = Page("t")
    page.table(["a"], [[1]])
    page.table(["a"], [[1]], sortable=True)
    assert [part.startswith('<div class="scroll tall">') for part in page.parts] == [False, True]


def test_a_figure_drawn_twice_is_the_same_but_for_its_ids(tmp_path):
    page = Page("f")
    (tmp_path / "line.svg").write_text(style.svg(_drawn()))
    page.figure(tmp_path / "line.svg", "A line.")
    page.figure(_drawn(), "A line.")
    first, second = (re.search(r"<svg.*</svg>", part, re.DOTALL)[0] for part in page.parts)
    assert first != second and first == second.replace("f2-", "f1-")
    ids = re.findall(r'\bid="([^"]+)"', page.html())
    assert len(ids) == len(set(ids)) > 10
    assert ">steps &amp; such</text>" in first
    assert not re.findall(r'href="(?!#)', re.sub(r'xmlns(:\w+)?="[^"]*"', "", page.html()))


def test_page_and_numbers_are_written_or_refused_in_one_line(tmp_path):
    out = Page("p").write(tmp_path / "new" / "report", {"numbers.json": {"b": 1, "a": [0.5]}})
    assert out.read_text().endswith("</html>\n")
    assert json.loads((out.parent / "numbers.json").read_text()) == {"b": 1, "a": [0.5]}
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file: cannot be written"):
        Page("p").write(tmp_path / "file", {})


def test_sections_are_listed_and_numbered_once_contents_are_asked_for():
    page = Page("t")
    page.heading("Abstract")
    page.contents()
    page.heading("One & two")
    page.heading("A part", 3)
    html = page.html()
    assert '<nav><ol><li><a href="#one-two">One &amp; two</a></li></ol></nav>' in html
    assert "<main class=numbered>" in html and '<h2 class=plain id="abstract">' in html
    assert "<nav" not in Page("t").html() and "class=numbered" not in Page("t").html()


def test_sections_of_another_page_are_numbered_on():
    page, other = Page("t"), Page("")
    for one in (page, other):
        one.figure(_drawn(), "A line.")
        one.table(["a"], [[1]], caption="Numbers.")
        one.table(["a"], [[1]])
    page.add(other.body())
    html = page.html()
    assert re.findall(r"<b>(\w+ \d)\.</b>", html) == ["Figure 1", "Table 1", "Figure 2", "Table 2"]
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:url\(#|href="#)([^)"]+)', html)) <= set(ids)
    assert (page.figures, page.tables) == (2, 2)


def test_values_with_intervals_stay_on_one_line_and_verdicts_are_set_off():
    page = Page("t")
    page.table(["x"], [["−1.16 [−1.80, −0.52]"], ["two [words, here]"], ["opposite sign"]], text=(0,))
    assert page.parts[0].count('class="text value"') == 1 and '<td class="look text">opposite sign</td>' in page.parts[0]
