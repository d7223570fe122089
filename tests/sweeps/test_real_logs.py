"""The ablation on real logs: its points, its folders from source files, and a run on them."""

import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_gen.public import retailrocket
from data_gen.public.actions import ActionsConfig
from experiments import uniscale
from sweeps import real_logs, uniscale_retailrocket, uniscale_trivago
from unisc.config import Runtime, from_plain
from unisc.errors import InputError

SOURCES = [uniscale_trivago.SOURCE, uniscale_retailrocket.SOURCE]
REAL = Path(os.environ.get(real_logs.DATA, Path(__file__).parents[2].parent / "shared" / "data"))


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """A folder of made-up events: visitors walk through items, put every third of them into the cart, buy half of these."""
    rng, rows = np.random.default_rng(0), []
    for user in range(40):
        t = 1_433_000_000 + int(rng.integers(10**6))
        for step, item in enumerate((rng.integers(20) + rng.integers(0, 3, 12).cumsum()) % 24):
            t += 60
            rows.append((user, int(item), "view", t))
            if step % 3 == 2:
                rows.append((user, int(item), "cart", t + 5))
            if step % 6 == 5:
                rows.append((user, int(item), "buy", t + 9))
    folder = tmp_path / "data" / uniscale_retailrocket.SOURCE.folder
    folder.mkdir(parents=True)
    names = ("user", "item", "behavior", "timestamp")
    pq.write_table(pa.table(dict(zip(names, zip(*rows, strict=True), strict=True))), folder / retailrocket.SUBSET)
    pq.write_table(pa.table({"user": [0], "item": [23]}), folder / retailrocket.TEST)
    monkeypatch.setenv(real_logs.DATA, str(tmp_path / "data"))
    monkeypatch.setattr(uniscale_retailrocket, "CONFIG", ActionsConfig(target="cart", candidates=8, touched=4))
    return folder


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_laptop_is_the_whole_ablation_at_every_seed(source):
    preset = source.presets["laptop"]
    samples = {name: f"{place:016x}" for place, name in enumerate(source.compositions)}
    sizes = {name: 1000 * (1 + place) for place, name in enumerate(source.compositions)}
    found = real_logs.points(preset, samples, sizes, table_learning_rate=0.03)
    cells = Counter(
        (config.data.composition, config.model.isolation, config.size)
        for study, config in found
        if config.data.fraction == 1.0 and study in ("grid", "ablation")
    )
    assert len(cells) == len(source.compositions) * 4 * len(preset.sizes)
    assert set(cells.values()) == {len(preset.seeds)} and len(preset.seeds) >= 3
    assert all(config.train.table_learning_rate == 0.03 for _, config in found)
    shares = {(c.data.composition, c.data.fraction) for study, c in found if study == "volume"}
    wanted = {(name, round(1000 / of, 4)) for name, of in sizes.items() if of > 1000}
    assert shares == (wanted if preset.equal_volumes else set())


def test_prepared_folders_are_made_once_and_planned(shop, tmp_path):
    root = tmp_path / "root"
    uniscale_retailrocket.prepare(root, preset="smoke")
    with np.load(root / real_logs.FLOORS) as floors:
        assert {name.partition("/")[0] for name in floors.files} == {"last_touched_first", "retrieval_first", "popular_first"}
    times = {path: path.stat().st_mtime_ns for path in root.rglob("manifest.json")}
    uniscale_retailrocket.prepare(root, preset="laptop")
    shutil.rmtree(shop)  # what is made needs no source
    uniscale_retailrocket.prepare(root, preset="laptop")
    assert times == {path: path.stat().st_mtime_ns for path in root.rglob("manifest.json")}
    planned = uniscale_retailrocket.runs(root, preset="smoke")
    assert len(planned) == len({run.fingerprint for run in planned}) == 2 * 3 * 2 * 2
    assert all(run.cost > 0 for run in planned)
    assert {run.label.split("/")[0] for run in planned} == {"grid", "ablation"}


def test_a_run_ranks_the_floors_lists(shop, tmp_path):
    root = tmp_path / "root"
    uniscale_retailrocket.prepare(root, preset="smoke")
    planned = uniscale_retailrocket.runs(root, preset="smoke")
    run = next(run for run in planned if run.label == "grid/xs/searchified@1/both/seed0")
    work = tmp_path / "work"
    work.mkdir()
    found = uniscale.run(from_plain(uniscale.Config, run.config), Runtime(data_dir=str(root), work_dir=str(work)))
    with np.load(work / "eval.npz") as arrays, np.load(root / real_logs.FLOORS) as floors:
        assert arrays["exposed/mrr"].shape == floors["last_touched_first/mrr"].shape
        assert found["metrics"]["eval/exposed/mrr"] == pytest.approx(np.nanmean(arrays["exposed/mrr"]))
    assert "eval/oracle/log_loss" not in found["metrics"]


def test_samples_of_another_configuration_are_refused(shop, tmp_path, monkeypatch):
    root = tmp_path / "root"
    uniscale_retailrocket.prepare(root, preset="smoke")
    monkeypatch.setattr(uniscale_retailrocket, "CONFIG", ActionsConfig(target="purchase"))
    with pytest.raises(InputError, match="samples of other events or another version; remove"):
        uniscale_retailrocket.prepare(root, preset="smoke")


@pytest.mark.parametrize("module", [uniscale_trivago, uniscale_retailrocket])
def test_bad_input_is_one_line(tmp_path, monkeypatch, module):
    for ask in (module.prepare, module.runs):
        with pytest.raises(InputError, match=r"unknown preset 'paper'; the presets are: smoke, laptop"):
            ask(tmp_path, preset="paper")
    monkeypatch.delenv(real_logs.DATA, raising=False)
    with pytest.raises(InputError, match=f"the folder of real logs is not known; set {real_logs.DATA}"):
        module.prepare(tmp_path, preset="smoke")
    monkeypatch.setenv(real_logs.DATA, str(tmp_path))
    with pytest.raises(InputError, match=f"no such folder; set {real_logs.DATA}"):
        module.prepare(tmp_path, preset="smoke")


@pytest.mark.real_data
@pytest.mark.skipif(
    not (REAL / uniscale_trivago.SOURCE.folder).is_dir(),
    reason=f"no trivago extract in {REAL}; set {real_logs.DATA} to the real data's folder",
)
def test_trivago_is_prepared_with_its_floors(tmp_path, monkeypatch):
    monkeypatch.setenv(real_logs.DATA, str(REAL))
    uniscale_trivago.prepare(tmp_path, preset="smoke")
    with np.load(tmp_path / real_logs.FLOORS) as floors:
        assert floors["last_touched_first/mrr"].mean() == pytest.approx(0.6000, abs=1e-4)
        assert len(floors["shown_order/mrr"]) == 2420
    planned = uniscale_trivago.runs(tmp_path, preset="laptop")
    assert len(planned) == 2 * 4 * 3 * 3 + 2 * 4 * 3 * 3
    assert planned[0].config["train"]["table_learning_rate"] == uniscale_trivago.TABLE_LEARNING_RATE
