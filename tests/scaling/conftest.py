"""The published tables, where they are to be had."""

import os
from pathlib import Path

import numpy as np
import pytest

from unisc.scaling.read import read_table

_FOLDER = Path(os.environ.get("UNISC_REAL_DATA", Path(__file__).parents[2] / ".." / "shared" / "data")) / "scaling"


@pytest.fixture(scope="session")
def published():
    """Return the folder that holds a published table, or all of them; skip where it is absent."""

    def folder(name=""):
        if not (_FOLDER / name).is_dir():
            pytest.skip(f"{_FOLDER / name}: no published table there; set UNISC_REAL_DATA to the folder that holds scaling/")
        return _FOLDER / name

    return folder


@pytest.fixture(scope="session")
def epoch(published):
    """Return size, data, loss and FLOPs (245,) of the replication of Chinchilla's fit (arXiv 2404.10102)."""
    table = read_table(published("epoch_chinchilla") / "svg_extracted_data.csv")
    size, flops, loss = (table.numbers(name) for name in ("Model Size", "Training FLOP", "loss"))
    return size, flops / (6 * size), loss, flops


@pytest.fixture(scope="session")
def trimmed(epoch):
    """Return the columns of `epoch` without the five highest losses, which the published fit drops."""
    keep = epoch[2] < np.sort(epoch[2])[-5]
    return tuple(column[keep] for column in epoch)
