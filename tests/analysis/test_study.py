"""Records become a flat table, whatever the shape of their configuration."""

import numpy as np
import pytest

from analysis.effects import cells_of
from analysis.isolation import ablation
from analysis.study import of_records
from unisc.errors import InputError


def test_columns_are_found_by_their_leaf_names(synthetic):
    study = synthetic.study()
    assert study.num_runs == len(synthetic.records())
    assert set(study.runs["isolation"].tolist()) == {"none", "dref", "dapga", "both"}
    assert study.runs["num_params_dense"].dtype == np.float64
    assert study.compositions == list(synthetic.COMPOSITIONS)
    assert (study.matched().runs["fraction"] == 1.0).all()
    assert set(study.grid().runs["study"].tolist()) == {"grid"}


def test_study_json_may_say_where_a_column_lies(synthetic):
    records = synthetic.records()
    for record in records:
        record["config"]["data"] = {"recipe": record["config"].pop("composition")}
    with pytest.raises(InputError, match=r"columns\.composition"):
        of_records(records, {})
    study = of_records(records, {"columns": {"composition": "config.data.recipe"}})
    assert study.compositions == list(synthetic.COMPOSITIONS)
    with pytest.raises(InputError, match=r"'config\.nowhere'"):
        of_records(records, {"columns": {"composition": "config.nowhere"}})


def test_the_study_of_a_run_may_stand_in_its_label(synthetic):
    records = synthetic.records()
    for record in records:
        del record["config"]["study"]
    assert set(of_records(records, {}).runs["study"].tolist()) == {"grid", "ablation", "baseline"}


def test_undefined_metrics_read_as_nan(synthetic):
    records = synthetic.records()
    records[0]["metrics"]["eval/exposed/gauc"] = None
    del records[1]["metrics"]["eval/exposed/gauc"]
    assert np.isnan(of_records(records, {}).runs["eval/exposed/gauc"][:2]).all()


def test_sizes_with_one_seed_do_not_cost_the_others_their_intervals(synthetic):
    study = synthetic.study()
    single = (study.runs["size"] == "l") & (study.runs["seed"] > 0)
    cells = cells_of(study.select(~single), "eval/exposed/auc_roc", 100.0)
    assert len(cells.sizes) == 5 and len(cells.seeds) == 3


def test_isolation_that_only_helps_is_not_called_a_flip(synthetic):
    records = synthetic.records()
    for record in records:
        if record["config"]["model"]["isolation"] == "none" and record["config"]["composition"] == "searchified":
            record["metrics"]["eval/exposed/auc_roc_expected"] += 0.003
    assert ablation(of_records(records, {}))["flip"]["verdict"] == "isolation helped but did not flip the sign"
