"""A folder of rankers judged online at once: worlds are kept, and are what each ranker has when it is judged alone."""

import numpy as np
import pytest

from data_gen.marketplace.online import SEGMENTS
from experiments import online
from sweeps import online as sweep
from unisc.errors import InputError


def test_rankers_of_a_folder_are_judged_and_their_worlds_kept(small_shop, tmp_path, monkeypatch):
    shop, settings = online.open_shop(small_shop.logs), online.Settings(requests=300)
    rankers = sweep.find_rankers(small_shop.rankers["dlrm"].parent)
    assert set(rankers) == set(small_shop.rankers.values())
    found = sweep.judge(shop, rankers, "shop", settings, tmp_path, workers=1)["clicks"]
    assert sorted(found.families) == ["din", "dlrm"] and found.sold.shape == (2, len(found.control))
    alone = online.simulate(shop, [str(rankers[1])], settings, workers=1)
    charge = SEGMENTS.index("in charge")
    assert alone.sums[0, :, charge, 0].sum() == found.sold[1].sum()
    # Asked again nothing is simulated.
    monkeypatch.setattr(online, "simulate", lambda *_, **__: pytest.fail("a kept world was simulated again"))
    again = sweep.judge(shop, rankers, "shop", settings, tmp_path, workers=1)
    np.testing.assert_array_equal(again["clicks"].sold, found.sold)
    text = sweep.summary(again, settings)
    assert len(text["rankers"]) == 2 and text["spearman"]["clicks"]["eval/exposed/auc_roc"]["value"] is None


def test_mistakes_of_the_sweep_are_one_line(tmp_path):
    with pytest.raises(InputError, match="unknown preset 'huge'; the presets are: small, zoo"):
        sweep.prepare(tmp_path, preset="huge")
    with pytest.raises(InputError, match="unknown preset"):
        sweep.runs(tmp_path, preset="huge")
    with pytest.raises(InputError, match="holds no trained ranker"):
        sweep.find_rankers(tmp_path)
