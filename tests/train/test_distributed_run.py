"""Several processes on loopback train one run: as one would, through kills, and on as many others afterwards."""

import dataclasses
import json
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).with_name("group_run.py")
PARTS = 4
TIMEOUT = 240


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Group:
    """Processes of one run, `devices` each, started together."""

    def __init__(self, out, count, samples, config, *, devices=1, changes=(), **given):
        out.mkdir(exist_ok=True)
        self.out = out
        common = {"samples": str(samples), "out": str(out), "devices": devices, "model": "tiny", "config": config, **given}
        if count > 1:
            common |= {"coordinator": f"127.0.0.1:{free_port()}", "processes": count}
        self.logs = [out / f"log-{i}.txt" for i in range(count)]
        self.processes = []
        for i, log in enumerate(self.logs):
            own = common | ({"process_id": i} if count > 1 else {}) | (changes[i] if changes else {})
            with log.open("w") as f:
                self.processes.append(
                    subprocess.Popen([sys.executable, str(SCRIPT), json.dumps(own)], stdout=f, stderr=subprocess.STDOUT)
                )

    def wait(self):
        until = time.monotonic() + TIMEOUT
        try:
            return [process.wait(max(until - time.monotonic(), 0.1)) for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()
                process.wait()

    def said(self):
        return "\n".join(log.read_text() for log in self.logs)

    def finish(self):
        assert self.wait() == [0] * len(self.processes), self.said()
        lines = [json.loads(line) for line in (self.out / "metrics.jsonl").read_text().splitlines()]
        return Outcome(
            losses=np.array([line["train/loss"] for line in lines]),
            steps=[line["step"] for line in lines],
            norms=np.array([line["train/grad_norm"] for line in lines]),
            examples=[line["perf/num_examples"] for line in lines],
            summaries=[json.loads((self.out / f"summary-{i}.json").read_text()) for i in range(len(self.processes))],
            state=dict(np.load(self.out / "state.npz")),
        )


@dataclasses.dataclass
class Outcome:
    losses: np.ndarray
    steps: list
    norms: np.ndarray
    examples: list
    summaries: list
    state: dict


@pytest.fixture
def plain(config):
    changed = dataclasses.replace(config, batch_candidates=64, num_parts=PARTS, table_optimizer="adam", num_epochs=1)
    return dataclasses.asdict(changed)


def close(a, b):
    """Losses, gradients, metrics and state alike to rounding; the data in the same order."""
    assert a.steps == b.steps
    assert a.examples == b.examples, "the same candidates in every step"
    np.testing.assert_allclose(a.losses, b.losses, rtol=2e-4)
    np.testing.assert_allclose(a.norms, b.norms, rtol=2e-3)
    for name in a.state:
        np.testing.assert_allclose(a.state[name], b.state[name], rtol=2e-3, atol=2e-4)
    for name, value in a.summaries[0]["metrics"].items():
        assert value == pytest.approx(b.summaries[0]["metrics"][name], rel=5e-3, abs=5e-3), name


def same_bits(a, b):
    assert a.steps == b.steps
    np.testing.assert_array_equal(a.losses, b.losses)
    for name in a.state:
        np.testing.assert_array_equal(a.state[name], b.state[name])
    assert a.summaries == b.summaries


def test_two_processes_are_killed_and_go_on_as_two_or_one(samples, plain, tmp_path):
    whole = Group(tmp_path / "whole", 2, samples, plain, dropout=0.1)
    killed = Group(tmp_path / "run", 2, samples, plain, dropout=0.1, die_at=17, dying=[1])
    codes = killed.wait()
    assert codes[1] == -9 and codes[0] not in (0, None), "who is left behind does not go on alone, nor wait"
    assert (tmp_path / "run/checkpoint/15").is_dir(), killed.said()
    shutil.copytree(tmp_path / "run", tmp_path / "as-one")

    again, alone = (Group(tmp_path / name, n, samples, plain, dropout=0.1) for name, n in (("run", 2), ("as-one", 1)))
    whole = whole.finish()
    assert len({json.dumps(s) for s in whole.summaries}) == 1, "every process has all scores"
    same_bits(again.finish(), whole)
    close(alone.finish(), whole)


def test_processes_of_other_configurations_train_nothing(samples, plain, tmp_path):
    changes = [{}, {"config": plain | {"learning_rate": 0.02}}]
    group = Group(tmp_path / "run", 2, samples, plain, changes=changes)
    assert group.wait() == [2, 2], group.said()
    for log in group.logs:
        line = log.read_text().splitlines()[-1]
        assert line.startswith("unisc: run: ") and "on process 1; start all with the same command, samples and code" in line
    assert not (tmp_path / "run/metrics.jsonl").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("model", "first", "then"), [("tiny", 4, 2), ("tiny", 2, 4), ("transformer", 4, 1)])
def test_all_of_several_processes_are_killed_and_another_number_goes_on(samples, plain, tmp_path, model, first, then):
    plain = plain | {"num_parts": 8}
    if model != "tiny":
        plain = plain | {"learning_rate": 1e-3, "list_len": 4}
    whole = Group(tmp_path / "whole", 1, samples, plain, model=model, devices=1).finish()
    killed = Group(tmp_path / "run", first, samples, plain, model=model, devices=2, die_at=23, dying=list(range(first)))
    assert killed.wait() == [-9] * first, killed.said()
    close(Group(tmp_path / "run", then, samples, plain, model=model, devices=2).finish(), whole)


@pytest.mark.slow
def test_who_leads_is_killed_and_nobody_goes_on(samples, plain, tmp_path):
    group = Group(tmp_path / "run", 3, samples, plain | {"num_parts": 3, "batch_candidates": 48}, die_at=7, dying=[0])
    codes = group.wait()
    assert codes[0] == -9 and 0 not in codes, group.said()


@pytest.mark.slow
def test_one_process_is_told_to_stop_and_all_save_after_the_same_step(samples, plain, tmp_path):
    changes = [{}, {"stop_after": 7}]
    group = Group(tmp_path / "run", 2, samples, plain, changes=changes)
    assert group.wait() == [1, 1], group.said()
    assert group.said().count("Stopped: told to stop after step 8 of ") == 2
    assert (tmp_path / "run/checkpoint/8").is_dir()
    whole, again = (Group(tmp_path / name, 2, samples, plain) for name in ("whole", "run"))
    same_bits(again.finish(), whole.finish())


@pytest.mark.slow
def test_other_first_parameters_are_named(samples, plain, tmp_path):
    group = Group(tmp_path / "run", 2, samples, plain, changes=[{}, {"model_seed": 1}])
    assert group.wait() == [2, 2], group.said()
    assert "first parameters: " in group.said()


@pytest.mark.slow
def test_parts_that_the_devices_of_all_processes_cannot_share(samples, plain, tmp_path):
    group = Group(tmp_path / "run", 2, samples, plain, devices=3)
    assert group.wait() == [2, 2], group.said()
    assert "num_parts 4: 6 devices cannot share them out; give a multiple of 6\n" in group.said()
