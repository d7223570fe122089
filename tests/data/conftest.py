"""Fixtures for tests of the data path."""

import importlib.util
from pathlib import Path

import pytest


def _load_tiny_samples():
    spec = importlib.util.spec_from_file_location("tiny_samples", Path(__file__).with_name("tiny_samples.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tiny():
    """The writer of small samples directories."""
    return _load_tiny_samples()


@pytest.fixture(scope="session")
def samples(tiny, tmp_path_factory):
    """A samples directory of 200 train and 60 test requests."""
    train, test = tiny.random_requests(200, seed=1), tiny.random_requests(60, seed=2, first_id=1000)
    return tiny.write_samples(tmp_path_factory.mktemp("samples") / "exposed", train=train, test=test)
