"""What engines share: a worker kept going, its environment, its devices, and the machines that profiles name."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from unisc.errors import InputError
from unisc.sweep import worker as work
from unisc.sweep.launch import slurm, supervise
from unisc.sweep.launch.environment import check_devices, environment
from unisc.sweep.profile import profile_named, read_profiles

PROFILES = Path(__file__).parents[2] / "sweeps" / "profiles.toml"


def kept(tmp_path, monkeypatch, body, is_stopping=lambda: False):
    """Supervise a script in place of the worker; return the status and how often it ran."""
    log = tmp_path / "log.txt"
    script = f"open({str(log)!r}, 'a').write('x'); n = len(open({str(log)!r}).read())\n{body}"
    monkeypatch.setattr(supervise, "worker_command", lambda sweep_dir: [sys.executable, "-c", script])
    monkeypatch.setattr(supervise, "MAX_CRASHES", 2)
    code = supervise.supervise(tmp_path, env=os.environ, is_stopping=is_stopping)
    return code, len(log.read_text())


@pytest.mark.parametrize("code", [0, 2, 3, 75])
def test_a_worker_that_says_why_it_ended_is_not_begun_again(tmp_path, monkeypatch, code):
    assert kept(tmp_path, monkeypatch, f"raise SystemExit({code})") == (code, 1)


def test_a_killed_worker_is_begun_again_and_a_crash_loop_ends(tmp_path, monkeypatch):
    kill = "import os\nos.kill(os.getpid(), 9)"
    assert kept(tmp_path, monkeypatch, f"if n == 1:\n  {kill.replace(chr(10), '; ')}") == (0, 2)
    (tmp_path / "log.txt").unlink()
    assert kept(tmp_path, monkeypatch, kill) == (128 + signal.SIGKILL, 3)


def test_a_stop_reaches_the_worker_and_ends_the_pause_between_crashes(tmp_path, monkeypatch):
    started, told = time.monotonic(), []
    slow = "import signal, time\nsignal.signal(signal.SIGTERM, lambda *_: exit(75))\ntime.sleep(60)"

    def is_stopping():
        if (tmp_path / "log.txt").exists() and not told:
            time.sleep(0.3)
            told.append(1)
        return bool(told)

    assert kept(tmp_path, monkeypatch, slow, is_stopping) == (work.EXIT_INTERRUPTED, 1)
    assert time.monotonic() - started < 20


def test_a_task_told_to_end_before_its_worker_listens_says_75(sweep, tmp_path):
    task = subprocess.Popen(
        [sys.executable, "-m", "unisc.sweep.launch.slurm", "--sweep", str(tmp_path)], stderr=subprocess.PIPE
    )
    assert task.stderr is not None
    time.sleep(1.0)
    task.send_signal(signal.SIGTERM)
    assert task.wait(20) in (work.EXIT_INTERRUPTED, work.EXIT_INPUT_ERROR)  # 2: the worker was faster to find no sweep here
    task.stderr.close()


def test_the_platform_of_a_profile_outranks_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    env = environment(tmp_path, 8, platform="cuda")
    assert (env["JAX_PLATFORMS"], env["OMP_NUM_THREADS"], env["NPROC"]) == ("cuda,cpu", "3", "8")
    assert environment(tmp_path, 8)["JAX_PLATFORMS"] == "cpu"


def test_devices_that_a_profile_wants_and_the_machine_lacks_are_one_line(tmp_path):
    def missing(platform, count, **environ):
        with pytest.raises(InputError, match=f"^profile: wants {count} .PUs and this machine has ") as caught:
            check_devices(platform, count, dev=tmp_path, environ=environ)
        return int(str(caught.value).split(" has ")[1].split(";")[0])

    assert missing("cuda", 1) == missing("tpu", 1) == 0
    for name in ("nvidia0", "nvidia1", "nvidiactl", "accel0"):
        (tmp_path / name).touch()
    check_devices("cuda", 2, dev=tmp_path, environ={})
    check_devices("tpu", 1, dev=tmp_path, environ={})
    check_devices("cpu", 64, dev=tmp_path, environ={})
    assert missing("cuda", 3) == 2
    assert missing("cuda", 2, CUDA_VISIBLE_DEVICES="1") == 1
    assert missing("cuda", 1, CUDA_VISIBLE_DEVICES="") == 0


@pytest.mark.parametrize("name", ["local", "cpu", "a100", "h100", "tpu-v5e", "tpu-v6e", "tpu-v6e-16"])
def test_the_profiles_that_come_along_give_scripts_and_manifests(name, tmp_path):
    profile = profile_named(name, PROFILES)
    text = slurm.script(tmp_path, workers=2, profile=profile)
    assert ("--gpus-per-node" in text) == (profile.platform != "cpu")
    assert profile.price_per_device_hour == 0.0  # nobody's price is everybody's


def test_no_profile_is_left_untested():
    assert len(read_profiles(PROFILES)) == 7


@pytest.mark.parametrize(
    ("table", "line"),
    [
        ("platform = 'gpu'", "platform 'gpu' is not one JAX runs on; give one of cpu, cuda, tpu"),
        ("platform = 'cuda'\nhosts_per_worker = 0", "hosts_per_worker: 0 is fewer than 1; give 1 or more"),
        ("platform = 'tpu'\ndevices_per_worker = 6\nhosts_per_worker = 4", "6 cannot be shared out evenly to 4 hosts"),
        ("platform = 'cpu'\nutilization = 0.4", "utilization"),
    ],
)
def test_a_profile_that_makes_no_sense_is_named(tmp_path, table, line):
    path = tmp_path / "profiles.toml"
    path.write_text(f"[mine]\ndevice = 'x'\n{table}\n")
    with pytest.raises(InputError, match=f"profile 'mine': .*{line}"):
        profile_named("mine", path)
