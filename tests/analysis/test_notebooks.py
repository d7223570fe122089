"""Every notebook runs from top to bottom without real data, says the same as its script, and keeps no output."""

from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted((ROOT / "analysis" / "notebooks").glob("*.py"))


def _cells(notebook):
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def test_there_are_notebooks():
    assert [path.stem[:2] for path in SCRIPTS] == ["01", "02", "03", "04", "05"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_notebook_is_its_script_without_outputs(script):
    notebook = nbformat.read(script.with_suffix(".ipynb"), as_version=4)
    nbformat.validate(notebook)
    assert _cells(notebook) == _cells(jupytext.read(script)), f"run: jupytext --sync {script.relative_to(ROOT)}"
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_script_runs_as_a_notebook(script, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    notebook = jupytext.read(script)
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [out for cell in notebook.cells if cell.cell_type == "code" for out in cell.outputs]
    assert not [out for out in shown if out.output_type == "stream" and out.name == "stderr"]
    drawn = [out.data["image/svg+xml"] for out in shown if "image/svg+xml" in out.get("data", {})]
    assert drawn and all("<text" in svg for svg in drawn)
