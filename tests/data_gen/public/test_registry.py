"""Every adapter is listed, says what it must, and goes from a folder of files to a dataset by the commands."""

import csv
import importlib
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow_datasets as tfds

import data_gen.public
from data_gen.public import registry
from data_gen.public.__main__ import main
from data_gen.public.adapter import KINDS_OF_DIRECTORY, TABLES, Adapter, convert
from data_gen.public.dataset import write_datasets
from unisc.data import manifest
from unisc.errors import InputError

REAL = Path(os.environ.get("UNISC_REAL_DATA", Path(__file__).parents[3] / ".." / "shared" / "data")) / "schema_samples"


def test_every_module_with_an_adapter_is_listed_under_its_name():
    modules = [m.name for m in pkgutil.iter_modules(data_gen.public.__path__) if m.name != "__main__"]
    with_adapter = [
        m for m in modules if {"ADAPTER", "ADAPTERS"} & vars(importlib.import_module(f"data_gen.public.{m}")).keys()
    ]
    assert sorted(registry.MODULES) == sorted(with_adapter)
    for name in registry.MODULES:
        assert importlib.import_module(f"data_gen.public.{name}").__doc__


@pytest.mark.parametrize("name", registry.NAMES)
def test_every_adapter_says_whose_the_data_is_and_what_it_gives_and_cannot(name):
    found = registry.adapter(name)
    assert isinstance(found, Adapter) and found.name == name
    assert registry.KINDS[name] in KINDS_OF_DIRECTORY
    assert found.source.startswith("https://")
    for text in (found.title, found.licence, *found.gives, *found.cannot_give):
        assert text.strip() == text != "" and "\n" not in text
    assert found.gives and found.cannot_give and found.columns
    for schema in found.columns.values():
        assert len(schema) > 0


@pytest.mark.parametrize(("name", "message"), [("kuairan", "give kuairand, or one of"), ("os", "'os': unknown; give one of")])
def test_only_listed_modules_are_imported(name, message):
    with pytest.raises(InputError, match=message):
        registry.adapter(name)


def test_listing_names_imports_none_of_them():
    code = "import sys; from data_gen.public import registry; assert not any(f'data_gen.public.{m}' in sys.modules for m in "
    subprocess.run([sys.executable, "-c", code + "registry.MODULES)"], check=True, cwd=Path(__file__).parents[3])


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["data_gen.public", *map(str, arguments)])
    main()


def write_kuairand(folder):
    """Forty pages of a feed, in the published form."""
    shown = [
        {"user_id": page % 3, "video_id": v, "time_ms": 1_650_485_801_000 + 600_000 * page, "is_click": v % 2, "is_like": 0,
         "is_follow": 0, "is_comment": 0, "is_forward": 0, "is_hate": 0, "long_view": 0, "is_profile_enter": 0, "is_rand": 0,
         "tab": 1}
        for page in range(40)
        for v in (page % 7, page % 5 + 7)
    ]  # fmt: skip
    files = {
        "log_standard_1k.csv": shown,
        "video_features_basic_1k.csv": [
            {"video_id": v, "author_id": 1, "upload_dt": "2022-01-01", "tag": "3"} for v in range(12)
        ],
        "user_features_1k.csv": [{"user_id": u, "onehot_feat1": 1} for u in range(3)],
    }
    folder.mkdir()
    for name, rows in files.items():
        with (folder / name).open("w", newline="") as f:
            writer = csv.DictWriter(f, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return folder


def test_the_commands_lead_from_a_folder_to_a_dataset(tmp_path, monkeypatch, capsys):
    folder = write_kuairand(tmp_path / "in")
    run(monkeypatch, "convert", "kuairand", folder, "--out", tmp_path / "tables")
    said = capsys.readouterr().out
    assert "tables: logs of kuairand, fingerprint" in said and "cannot give  searches, queries" in said
    made = manifest.read(tmp_path / "tables", kind=registry.KINDS["kuairand"], verify=True)
    assert made["licence"] == registry.adapter("kuairand").licence
    run(monkeypatch, "dataset", tmp_path / "tables", "--out", tmp_path / "tfds", "--rows-per-block", 16, "--num-shards", 2)
    assert "tfds: tables of kuairand" in capsys.readouterr().out
    source = tfds.builder_from_directory(tmp_path / "tfds" / "candidates").as_data_source("whole")
    assert (len(source), sum(len(block["item_id"]) for block in source)) == (5, 80)


def test_the_list_says_what_each_adapter_gives(monkeypatch, capsys):
    run(monkeypatch, "list")
    said = capsys.readouterr().out
    for name in registry.NAMES:
        found = registry.adapter(name)
        assert f"{name}: {found.title}\n  kind         {registry.KINDS[name]}\n  licence      {found.licence}\n" in said
    plain = " ".join(said.split())
    for text in (*found.gives, *found.cannot_give):
        assert text in plain


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["convert", "none", "in", "--out", "out"], "adapter 'none': unknown; give one of "),
        (["convert", "ubi", "in", "--out", "out"], "in: no such folder"),
        (["dataset", "in", "--out", "out"], "in: no manifest.json"),
        (["dataset", "in", "--out", "out", "--rows-per-block", "0"], "in: no manifest.json"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, *arguments)
    said = capsys.readouterr()
    assert (stopped.value.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert said.err.startswith(f"data_gen.public: {message}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.real_data
@pytest.mark.skipif(not REAL.is_dir(), reason=f"{REAL}: no schema samples there; set UNISC_REAL_DATA to their parent")
@pytest.mark.parametrize("name", ["jdsearch", "qilin", "ubi"])
def test_samples_of_real_logs_become_datasets_of_the_listed_kind(tmp_path, name):
    converted = convert(registry.adapter(name), REAL, tmp_path / "tables")
    assert converted["kind"] == registry.KINDS[name]
    made = write_datasets(tmp_path / "tables", tmp_path / "tfds", rows_per_block=32)
    for table in TABLES:
        if table in converted["counts"]:
            counts = {k: n for k, n in made["counts"].items() if k.startswith(f"{table}/")}
            assert sum(counts.values()) == converted["counts"][table]
            blocks = tfds.builder_from_directory(tmp_path / "tfds" / table).as_data_source("all")
            assert sum(len(next(v for k, v in b.items() if k.endswith("_id"))) for b in blocks) == converted["counts"][table]
