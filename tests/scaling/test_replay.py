"""The published fits, run again by one command."""

import sys

import pytest

from unisc.cli import main
from unisc.errors import InputError
from unisc.scaling.replay import Check, replay


@pytest.mark.real_data
def test_every_anchor_is_reached(published, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["unisc", "fit", "replay", "--anchors", str(published())])
    try:
        main()
    except SystemExit:
        pass  # status 1 where a time was missed: other tests share the machine
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 48
    assert {line.split()[1] for line in lines} == {"A1", "A2", "A3", "A4", "A5", "B1", "B2", "C1", "D1", "J1"}
    assert [line for line in lines if line.startswith("DIFFERS") and line.split()[1] != "A5"] == []


def test_a_check_knows_when_it_fails():
    near = Check(id="X", what="", published=1.0, obtained=1.2, tolerance=0.1)
    most = Check(id="X", what="", published=1.0, obtained=0.2, tolerance=0.0, kind="most")
    assert not near.passed and most.passed


def test_a_missing_folder_is_one_line(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        next(replay(tmp_path / "absent"))
    with pytest.raises(InputError, match="no such file"):
        next(replay(tmp_path))
