"""Two small shops, generated once a session: the richer preset and the one whose truth is a function of observables."""

from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pytest

from data_gen.marketplace.config import MarketplaceConfig, preset
from data_gen.marketplace.generate import generate

SMALL = {
    "requests": 2_000,
    "users": 160,
    "users_per_shard": 40,
    "items": 3_000,
    "category_1": 3,
    "category_2": 9,
    "category_3": 30,
    "brands": 25,
    "shops": 12,
    "attributes": 24,
    "queries": 90,
    "segments": 8,
}


@pytest.fixture(scope="session")
def default_config() -> MarketplaceConfig:
    return preset("default", seed=3, new_items_per_day=60, **SMALL)


@pytest.fixture(scope="session")
def stationary_config() -> MarketplaceConfig:
    return preset("stationary", seed=5, **SMALL)


@pytest.fixture(scope="session")
def default_logs(default_config: MarketplaceConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shop") / "default"
    generate(default_config, path, workers=1)
    return path


@pytest.fixture(scope="session")
def stationary_logs(stationary_config: MarketplaceConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shop") / "stationary"
    generate(stationary_config, path, workers=1)
    return path


Query = Callable[[Path, str], dict[str, np.ndarray]]


@pytest.fixture(scope="session")
def query() -> Query:
    """Run SQL over a logs directory; `{table}` in it stands for a table's files."""

    def run(logs: Path, sql: str) -> dict[str, np.ndarray]:
        tables = {p.name: f"read_parquet('{p}/*.parquet')" for p in logs.iterdir() if p.is_dir()}
        with duckdb.connect() as db:
            return db.execute(sql.format(**tables)).fetchnumpy()

    return run
