"""For tests of adapters: what every directory of converted tables must hold to."""

import pyarrow.parquet as pq
import pytest

from data_gen.public.adapter import TABLES
from unisc.data.schema import LOG_TABLES


def _check_declared(logs, names=tuple(LOG_TABLES)):
    for name in names:
        for field in pq.read_schema(logs / name / "part-00000.parquet"):
            assert field.type == TABLES[name].columns.field(field.name).type, (name, field.name)


@pytest.fixture(scope="session")
def check_declared():
    """Check that every column of these tables in a directory has its declared type."""
    return _check_declared
