"""Fixtures for tests of the report: synthetic studies, and one report built from each."""

import json
from pathlib import Path

import pytest

from analysis.report import build


@pytest.fixture(scope="session")
def synthetic(load_file):
    """The maker of synthetic studies."""
    return load_file(Path(__file__).with_name("synthetic.py"))


@pytest.fixture(scope="session")
def report(synthetic, tmp_path_factory):
    """The folder of a full study's report."""
    return build(synthetic.study(), tmp_path_factory.mktemp("report"), draws=100).parent


@pytest.fixture(scope="session")
def summary(report):
    """The numbers of that report."""
    return json.loads((report / "summary.json").read_text())
