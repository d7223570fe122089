"""Fixtures for tests of the data path."""

import pytest


@pytest.fixture(scope="session")
def samples(tiny, tmp_path_factory):
    """A samples directory of 200 train and 60 test requests."""
    train, test = tiny.random_requests(200, seed=1), tiny.random_requests(60, seed=2, first_id=1000)
    return tiny.write_samples(tmp_path_factory.mktemp("samples") / "exposed", train=train, test=test)
