"""`unisc fit` on somebody's table: what it writes, and one line for everything it cannot use."""

import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unisc.cli import main
from unisc.errors import InputError
from unisc.scaling.command import FitOptions, fit_table
from unisc.scaling.read import read_table, refuse_duplicates

TRUTH = {"E": 0.30, "A": 0.6, "B": 2.0, "alpha": 0.30, "beta": 0.35}
QUICK = {"bootstrap": 60, "loss": "squared"}


def columns(noise=1e-3):
    size, data = (axis.ravel() for axis in np.meshgrid(np.geomspace(2e3, 3e5, 6), np.geomspace(2e4, 6e5, 5)))
    loss = TRUTH["E"] + TRUTH["A"] / size ** TRUTH["alpha"] + TRUTH["B"] / data ** TRUTH["beta"]
    loss = loss * np.exp(noise * np.random.default_rng(0).standard_normal(len(size)))
    return {"params": size, "examples": data, "flops": 6 * size * data, "loss": loss, "recipe": ["a", "b"] * 15}


@pytest.fixture
def write(tmp_path):
    """Write columns as a table of some kind and return its path."""

    def _write(table, name="runs.csv"):
        path, arrow = tmp_path / name, pa.table(table)
        if name.endswith(".parquet"):
            pq.write_table(arrow, path)
        elif name.endswith(".jsonl"):
            path.write_text("".join(json.dumps(row) + "\n" for row in arrow.to_pylist()))
        else:
            lines = [",".join(arrow.column_names), *(",".join(map(str, row.values())) for row in arrow.to_pylist())]
            path.write_text("\n".join(lines) + "\n")
        return path

    return _write


def run(monkeypatch, capsys, *words):
    """Type a command; return its exit status and what it wrote."""
    monkeypatch.setattr(sys, "argv", ["unisc", *map(str, words)])
    try:
        main()
        status = 0
    except SystemExit as e:
        status = e.code or 0
    return status, *capsys.readouterr()


def test_the_command_writes_every_documented_key(write, tmp_path, monkeypatch, capsys):
    out = tmp_path / "deep" / "fit.json"
    status, text, _ = run(
        monkeypatch, capsys, "fit", write(columns()), "--params-col", "params", "--data-col", "examples", "--loss", "squared",
        "--bootstrap", 60, "--holdout-largest", 2, "--target", "N=1e6,D=1e6", "--budget", "1e13", "--json", out,
    )  # fmt: skip
    assert status == 0
    found = json.loads(out.read_text())
    keys = {"table", "law", "contract", "parameters", "objective", "certificate", "intervals", "backtest", "predictions"}
    assert keys <= set(found)
    assert found["parameters"] == pytest.approx(TRUTH, rel=0.5)
    assert found["contract"]["params_counted"] == "params"
    assert found["predictions"][0]["at"] == {"N": 1e6, "D": 1e6}
    assert found["predictions"][0]["low"] < found["predictions"][0]["value"] < found["predictions"][0]["high"]
    widened = found["predictions"][0]["widened"]
    assert widened["low"] <= found["predictions"][0]["low"] and found["predictions"][0]["high"] <= widened["high"]
    assert found["plan"]["plan"]["cost"] <= 1e13 and found["plan"]["plan"]["ratio"] < 1
    assert found["backtest"]["num_held"] == 2
    assert "prediction at N=1e+06, D=1e+06" in text and "backtest: 2 largest runs" in text


@pytest.mark.parametrize("name", ["runs.csv", "runs.parquet", "runs.jsonl"])
def test_every_kind_of_table_gives_the_same_fit(write, name):
    options = FitOptions(params_col="params", data_col="examples", **QUICK)
    expected = fit_table(write(columns(), "other.csv"), options).fit.params
    assert fit_table(write(columns(), name), options).fit.params == pytest.approx(expected, rel=1e-6)


def test_data_from_compute_equal_a_column_of_data(write):
    path = write(columns())
    given = fit_table(path, FitOptions(params_col="params", data_col="examples", **QUICK))
    derived = fit_table(path, FitOptions(params_col="params", compute_col="flops", **QUICK))
    assert derived.fit.params == pytest.approx(given.fit.params)
    assert derived.fit.contract.data_counted == "flops / (6 params)"


def test_rows_are_chosen_and_the_worst_are_dropped(write):
    table = columns()
    options = FitOptions(params_col="params", data_col="examples", where=("recipe=a",), drop_highest=2, **QUICK)
    found = fit_table(write(table), options)
    assert found.fit.num_runs == 13 and found.to_json()["table"]["num_read"] == 30
    kept = np.sort(table["loss"][::2])[:13]
    np.testing.assert_allclose(np.sort(found.prepared.metric), kept)


def test_all_laws_are_ranked(write):
    found = fit_table(write(columns()), FitOptions(law="all", params_col="params", data_col="examples", **QUICK))
    assert found.ranking is not None
    assert "chinchilla" in found.ranking.winners
    assert found.fit.law.name == found.ranking.entries[0].name
    assert found.to_json()["tournament"]["entries"][-1]["name"] == "mean"


def test_a_composition_prices_its_origins(write):
    rng = np.random.default_rng(0)
    size, own, foreign = 10 ** rng.uniform(4, 6, 60), 10 ** rng.uniform(4, 6, 60), 10 ** rng.uniform(4, 6, 60)
    foreign[::3] = 0.0
    loss = 0.3 + 20 / size**0.4 + 40 / (own + 0.31 * foreign) ** 0.35
    path = write({"n": size, "exposed": own, "searchified": foreign, "loss": loss})
    options = FitOptions(law="composition", params_col="n", origin_cols=("exposed", "searchified"), **QUICK)
    assert fit_table(path, options).fit.params["w_searchified"] == pytest.approx(0.31, rel=1e-2)


def test_few_runs_are_named_as_a_concern(write):
    table = {"n": [1e3, 1e4, 1e5], "loss": [3.0, 2.0, 1.5]}
    found = fit_table(write(table), FitOptions(law="power_floor", params_col="n"))
    assert any("3 runs for 3 parameters" in concern for concern in found.concerns)
    assert found.to_json()["backtest"].keys() == {"missing"}


class TestBadInput:
    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--params-col", "parms"], "no column 'parms'; did you mean 'params'?"),
            (["--params-col", "recipe"], "recipe holds 'a' in row 0; write plain numbers"),
            (["--params-col", "params", "--law", "cubic"], "law 'cubic' is unknown"),
            (["--params-col", "params"], "law 'chinchilla' needs D; name its column with --data-col"),
            ([], "no axis; name a column of sizes"),
            (["--params-col", "params", "--data-col", "examples", "--fix", "E"], "--fix E: not understood"),
            (["--params-col", "params", "--data-col", "examples", "--target", "N=1"], "--target N=1: D is not what"),
            (
                ["--params-col", "params", "--data-col", "examples", "--where", "recipe=c"],
                "no row has recipe=c; it holds 'a', 'b'",
            ),
            (["--params-col", "params", "--data-col", "examples", "--drop-highest", "40"], "the table has 30 runs; drop fewer"),
            (
                ["--law", "power_floor", "--params-col", "params", "--data-col", "examples"],
                "takes one axis, and the table gives N, D",
            ),
        ],
    )
    def test_is_one_line_and_status_2(self, write, monkeypatch, capsys, words, message):
        status, out, error = run(monkeypatch, capsys, "fit", write(columns()), *words)
        assert status == 2 and out == ""
        assert message in error and error.count("\n") == 1

    def test_tables_that_are_none(self, tmp_path, write):
        with pytest.raises(InputError, match="no such file"):
            read_table(tmp_path / "absent.csv")
        with pytest.raises(InputError, match="unknown kind of table"):
            read_table(tmp_path / "runs.xlsx")
        (tmp_path / "bad.parquet").write_bytes(b"not parquet")
        with pytest.raises(InputError, match="not readable as parquet"):
            read_table(tmp_path / "bad.parquet")
        (tmp_path / "empty.csv").write_text("n,loss\n")
        with pytest.raises(InputError, match="the table has no rows"):
            read_table(tmp_path / "empty.csv")
        (tmp_path / "hole.csv").write_text("n,loss\n1,2\n2,\n")
        with pytest.raises(InputError, match="loss has no finite number in row 1"):
            read_table(tmp_path / "hole.csv").numbers("loss")

    def test_the_same_run_twice(self, write):
        table = {name: [*values, values[3]] for name, values in columns().items()}
        with pytest.raises(InputError, match="rows 3 and 30 are the same run"):
            refuse_duplicates(read_table(write(table)))

    def test_two_units_in_one_column(self, write):
        table = columns()
        table["params"] = np.where(table["params"] > 1e5, table["params"] * 1e-9, table["params"])
        with pytest.raises(InputError, match=r"params jumps from .* give all runs in one unit"):
            fit_table(write(table), FitOptions(params_col="params", data_col="examples"))


def test_the_command_line_lists_its_options_without_importing_what_fits():
    code = "import sys, unisc.cli; print([name for name in sys.modules if name.split('.')[0] in ('numpy', 'scipy', 'jax')])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
