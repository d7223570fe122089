import io
import re

import pytest

from unisc.sweep import progress
from unisc.sweep.lease import Observer
from unisc.sweep.plan import run_folder, write_plan
from unisc.sweep.progress import Display
from unisc.sweep.record import write_record, write_status
from unisc.sweep.status import Monitor, Summary, clock, summary


def counts(done: int, running: int = 4, failed: int = 0, eta: float | None = 192.0) -> Summary:
    pending = 154 - done - running - failed
    return Summary(total=154, done=done, running=running, failed=failed, pending=pending, eta_secs=eta)


def test_a_summary_reads_as_one_short_line():
    assert str(counts(37)) == "37/154 runs, 4 running, 3:12 left"
    assert str(counts(37, failed=2, eta=None)) == "37/154 runs, 4 running, 2 failed, estimating time left"
    assert str(counts(154, running=0, eta=0.0)) == "154/154 runs, 0 running"
    assert [clock(s) for s in (0, 59.6, 61, 3725)] == ["0:00", "1:00", "1:01", "1:02:05"]


def test_without_a_terminal_a_line_appears_every_few_seconds_and_at_the_end(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    out = io.StringIO()
    with Display("study", file=out, line_secs=5.0) as tell:
        for second in range(12):
            now[0] = float(second)
            tell(counts(second))
        tell(counts(154, running=0, eta=0.0))
        tell(counts(154, running=0, eta=0.0))
    assert out.getvalue().splitlines() == [
        "study: 0/154 runs, 4 running, 3:12 left",
        "study: 5/154 runs, 4 running, 3:12 left",
        "study: 10/154 runs, 4 running, 3:12 left",
        "study: 154/154 runs, 0 running",
    ]


def test_on_a_terminal_one_line_is_rewritten(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    with Display("study", file=out) as tell:
        tell(counts(1))
        tell(counts(2))
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
    assert "1/154 runs, 4 running, 3:12 left" in shown
    assert "2/154 runs" in shown
    assert out.getvalue().count("\n") <= 2


@pytest.fixture
def planned(sweep):
    sweep.dir.mkdir()
    runs = write_plan(sweep.dir, [sweep.run(i, cost=10.0) for i in range(5)], prefixes=("sweep_experiments.",))
    for run in runs:
        run_folder(sweep.dir, run.fingerprint).mkdir(parents=True)
    return runs


def test_the_counts_come_from_the_files_and_the_time_left_from_what_is_finished(sweep, planned, monkeypatch):
    monkeypatch.setattr("unisc.sweep.status.time.time", lambda: 1000.0)
    _, failed, under_way, dead, *_ = (run.fingerprint for run in planned)
    monitor = Monitor(sweep.dir, planned)
    before = monitor.look()
    assert (before.pending, before.eta_secs) == (5, None)

    write_record(sweep.dir, planned[0], {"metrics": {}, "timing": {"wall_secs": 18.0, "setup_secs": 2.0}})
    write_status(sweep.dir, failed, "failed", failures=2, error="ValueError: x")
    assert Observer(stale_secs=60).claim(run_folder(sweep.dir, under_way)) is not None
    write_status(sweep.dir, under_way, "running", started_at=994.0, frac_done=0.0)
    write_status(sweep.dir, dead, "running", started_at=900.0, frac_done=0.9)  # nobody holds its lease

    now = monitor.look(num_workers=1)
    assert (now.done, now.failed, now.running, now.pending) == (1, 1, 1, 2)
    assert now.eta_secs == pytest.approx((20 - 6) + 20 + 20)
    assert monitor.look(num_workers=3).eta_secs == pytest.approx(20)
    assert [f.error for f in monitor.failures()] == ["ValueError: x"]
    assert summary(sweep.dir).done == 1


def test_before_anything_is_finished_the_reported_share_gives_the_time_left(sweep, planned, monkeypatch):
    monkeypatch.setattr("unisc.sweep.status.time.time", lambda: 1000.0)
    first = planned[0].fingerprint
    assert Observer(stale_secs=60).claim(run_folder(sweep.dir, first)) is not None
    write_status(sweep.dir, first, "running", started_at=990.0, frac_done=0.25)
    assert Monitor(sweep.dir, planned).look(num_workers=1).eta_secs == pytest.approx(30 + 4 * 40)
