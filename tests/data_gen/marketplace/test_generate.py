"""Generating: the same bytes however it is run, whole or not at all, and one line for every mistake."""

import dataclasses
import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_gen.marketplace import generate as generating
from data_gen.marketplace.__main__ import main
from data_gen.marketplace.config import MarketplaceConfig, preset
from data_gen.marketplace.generate import generate
from unisc.data import manifest
from unisc.errors import InputError


@pytest.fixture
def tiny(default_config: MarketplaceConfig) -> MarketplaceConfig:
    return dataclasses.replace(default_config, requests=200, users=20, users_per_shard=7)


def test_the_number_of_workers_changes_no_byte(tiny, tmp_path):
    done: list[tuple[int, int]] = []
    alone = generate(tiny, tmp_path / "alone", workers=1, progress=lambda n, of: done.append((n, of)))
    together = generate(tiny, tmp_path / "together", workers=3)
    assert len(list((tmp_path / "alone" / "candidates").iterdir())) == 3
    assert {n: s["sha256"] for n, s in alone["shards"].items()} == {n: s["sha256"] for n, s in together["shards"].items()}
    assert alone["fingerprint"] == together["fingerprint"]
    assert done[-1] == (200, 200) and [n for n, _ in done] == sorted(n for n, _ in done)


def test_another_seed_is_another_shop(tiny, tmp_path):
    one = generate(tiny, tmp_path / "one", workers=1)
    two = generate(dataclasses.replace(tiny, seed=tiny.seed + 1), tmp_path / "two", workers=1)
    assert one["shards"]["items/part-00000.parquet"] != two["shards"]["items/part-00000.parquet"]
    assert one["fingerprint"] != two["fingerprint"]


def test_the_world_does_not_depend_on_how_long_it_is_watched(tiny, tmp_path):
    short = generate(tiny, tmp_path / "short", workers=1)
    long = generate(dataclasses.replace(tiny, requests=300), tmp_path / "long", workers=1)
    for table in ("items", "users", "queries"):
        assert short["shards"][f"{table}/part-00000.parquet"] == long["shards"][f"{table}/part-00000.parquet"]


def test_old_logs_are_replaced_and_nothing_else_is(tiny, tmp_path):
    out = tmp_path / "logs"
    out.mkdir()
    first = generate(tiny, out, workers=1)
    again = generate(dataclasses.replace(tiny, seed=9), out, workers=1)
    assert first["fingerprint"] != again["fingerprint"]
    assert manifest.read(out, kind="logs", verify=True)["fingerprint"] == again["fingerprint"]
    assert [p.name for p in tmp_path.iterdir()] == ["logs"]

    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "chapter.txt").write_text("years of work")
    with pytest.raises(InputError, match="left alone"):
        generate(tiny, thesis, workers=1)
    assert (thesis / "chapter.txt").read_text() == "years of work"

    real = tmp_path / "real"
    real.mkdir()
    manifest.write(real, kind="logs", config={}, counts={})
    with pytest.raises(InputError, match="did not make"):
        generate(tiny, real, workers=1)


def test_a_full_disk_says_so_and_harms_nothing(tiny, tmp_path, monkeypatch):
    out = tmp_path / "logs"
    before = generate(tiny, out, workers=1)["fingerprint"]

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(generating, "write_turns", full)
    with pytest.raises(InputError, match="disk is full"):
        generate(dataclasses.replace(tiny, seed=8), out, workers=1)
    assert manifest.read(out, kind="logs", verify=True)["fingerprint"] == before
    assert [p.name for p in tmp_path.iterdir()] == ["logs"]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_generate_leaves_nothing_in_place(tmp_path, how):
    out = tmp_path / "logs"
    command = [sys.executable, "-m", "data_gen.marketplace", "generate", "--out", str(out), "--workers", "2"]
    process = subprocess.Popen([*command, "--requests", "400000"], stderr=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".logs.*.part/candidates/part-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(how)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode != 0 and not out.exists()
    if how != signal.SIGKILL:
        assert process.returncode == 130 and stderr.decode().splitlines() == ["interrupted; nothing was left behind"]
        assert not list(tmp_path.iterdir())
    # Its workers go with it: the whole process group empties.
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    pytest.fail("a worker outlived the command")


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--users", "-5"], "users=-5"),
        (["--users", "many"], "--users"),
        (["--requests", "0"], "requests=0"),
        (["--requests", "9000000000"], "requests=9000000000"),
        (["--domain-overlap", "1.5"], "domain_overlap=1.5"),
        (["--domain-overlap", "nan"], "domain_overlap=nan"),
        (["--days", "1"], "days=1"),
        (["--exposed-min", "30", "--exposed-max", "20"], "exposed_min=30"),
        (["--candidates-max", "40"], "candidates_min=50"),
        (["--search-share", "0.9", "--rec-share", "0.9"], "search_share=0.9"),
        (["--items", "100"], "items=100"),
        (["--workers", "0"], "workers=0"),
        (["--seed", "-1"], "seed=-1"),
        (["--preset", "richest"], "'richest'"),
        (["--colour", "red"], "--colour"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(flags, named, tmp_path, capsys):
    assert main(["generate", "--out", str(tmp_path / "logs"), *flags]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and named in said[0]
    assert not list(tmp_path.iterdir())


def test_an_unwritable_folder_is_one_line_and_exit_2(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    flags = ["--requests", "10", "--workers", "1"]
    for out in (Path("/proc/logs"), tmp_path / "file", tmp_path / "file" / "logs"):
        assert main(["generate", "--out", str(out), *flags]) == 2
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1 and str(out) in said[0]


def test_an_unknown_field_is_refused():
    with pytest.raises(InputError, match="'itmes'"):
        preset("default", seed=0, itmes=3)


def test_the_command_writes_what_it_says(tmp_path, capsys):
    out = tmp_path / "logs"
    flags = ["--preset", "stationary", "--requests", "100", "--users", "10", "--workers", "1", "--seed", "4"]
    assert main(["generate", "--out", str(out), *flags]) == 0
    made = manifest.read(out, kind="logs", verify=True)
    assert made["config"]["seed"] == 4 and made["config"]["fatigue_scale"] == 0
    assert made["fingerprint"] in capsys.readouterr().out
