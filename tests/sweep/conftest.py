import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from unisc.config import Runtime
from unisc.sweep.launch.local import run_sweep
from unisc.sweep.plan import Run

HERE = Path(__file__).parent
PREFIXES = ("sweep_experiments.",)


@pytest.fixture(autouse=True)
def _experiments_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]))


@pytest.fixture
def sweep(tmp_path: Path) -> Iterator[SimpleNamespace]:
    """A sweep directory, a data folder that runs leave traces in, and shorthands."""
    from sweep_experiments import planted, tiny

    data = tmp_path / "data"
    data.mkdir()
    folder = tmp_path / "sweep"
    runtime = Runtime(work_dir="", data_dir=str(data))

    def tiny_run(index: int, cost: float = 1.0, compile_key: str = "", **config: Any) -> Run:
        chosen = tiny.Config(index=index, **config)
        return Run.of(tiny, chosen, cost=cost, label=f"tiny {index}", compile_key=compile_key)

    def go(runs: list[Run], **options: Any) -> list[dict[str, Any]]:
        defaults = {"runtime": runtime, "workers": 2, "progress": False, "prefixes": PREFIXES}
        return run_sweep(runs, folder, **{**defaults, **options})

    def executions(kind: str = "start") -> list[int]:
        path = data / "executions.txt"
        lines = path.read_text().splitlines() if path.exists() else []
        return [int(line.split()[1]) for line in lines if line.startswith(kind)]

    yield SimpleNamespace(
        dir=folder, data=data, runtime=runtime, run=tiny_run, go=go, executions=executions, planted=planted, tiny=tiny
    )
