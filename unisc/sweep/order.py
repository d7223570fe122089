"""Which run a worker tries next.

The rule, looked at afresh for each claim:
1. *Slack.* While the predicted work left is at least twice what all workers need for the longest run left
   (`2 x workers x longest`), a worker first takes runs whose `compile_key` it has already run (their programs are compiled
   in its child), then runs of a key that nobody has begun (so that workers spread over the keys), then the rest; longest
   first among equals.
2. *End game.* After that, longest first, whatever the key.
Nothing starves: while a longest run waits, every claim consumes slack, so the end game comes, and when it comes the work
left still fills every worker for longer than that run takes. What the affinity costs is thus at most about one longest run
at the end, and usually nothing.
Runs that have failed before come last, so that one bad run does not hold up the others.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence

from unisc.sweep.plan import Run

SLACK = 2.0


def claim_order(
    waiting: Sequence[Run],
    *,
    num_workers: int,
    warm_keys: Collection[str],
    begun_keys: Collection[str],
    failures: Mapping[str, int],
) -> list[Run]:
    """Return the waiting runs in the order in which a worker should try to claim them.

    `warm_keys` are the compile keys this worker's child has run, `begun_keys` those that any worker has, and `failures`
    counts failed attempts by fingerprint.
    """
    longest = max((run.cost for run in waiting), default=0.0)
    has_slack = sum(run.cost for run in waiting) >= SLACK * num_workers * longest

    def key(run: Run) -> tuple[int, bool, bool, float, str]:
        is_cold = has_slack and run.compile_key not in warm_keys
        is_crowded = is_cold and run.compile_key in begun_keys
        return failures.get(run.fingerprint, 0), is_cold, is_crowded, -run.cost, run.fingerprint

    return sorted(waiting, key=key)


class Queue:
    """Waiting runs, of which `best` is the first in `claim_order`, found by a look at each compile key, not at each run."""

    def __init__(self, waiting: Iterable[Run], failures: Mapping[str, int]):
        self._buckets: dict[tuple[int, str], list[Run]] = {}
        self._failures = failures
        self.runs: dict[str, Run] = {}
        for run in sorted(waiting, key=lambda run: (run.cost, _reversed(run.fingerprint))):
            self._buckets.setdefault((failures.get(run.fingerprint, 0), run.compile_key), []).append(run)
            self.runs[run.fingerprint] = run
        self._work = sum(run.cost for run in self.runs.values())

    def remove(self, run: Run) -> None:
        """Take a run out."""
        if self.runs.pop(run.fingerprint, None) is not None:
            self._work -= run.cost

    def best(self, *, num_workers: int, warm_keys: Collection[str], begun_keys: Collection[str]) -> Run | None:
        """Return the run to try next; None where none is left."""
        heads = [head for key in list(self._buckets) if (head := self._head(key)) is not None]
        longest = max((run.cost for run in heads), default=0.0)
        has_slack = self._work >= SLACK * num_workers * longest

        def rank(run: Run) -> tuple[int, bool, bool, float, str]:
            is_cold = has_slack and run.compile_key not in warm_keys
            is_crowded = is_cold and run.compile_key in begun_keys
            return self._failures.get(run.fingerprint, 0), is_cold, is_crowded, -run.cost, run.fingerprint

        return min(heads, key=rank, default=None)

    def like(self, run: Run, limit: int) -> list[Run]:
        """Return up to `limit` runs that one program may train together with `run`, the longest first."""
        found = []
        for other in reversed(self._buckets.get((0, run.compile_key), ())):
            if len(found) >= limit:
                break
            same = (other.experiment, other.version) == (run.experiment, run.version)
            if other.fingerprint in self.runs and other.fingerprint != run.fingerprint and same:
                found.append(other)
        return found

    def _head(self, key: tuple[int, str]) -> Run | None:
        bucket = self._buckets[key]
        while bucket and bucket[-1].fingerprint not in self.runs:
            bucket.pop()
        if not bucket:
            del self._buckets[key]
            return None
        return bucket[-1]


def _reversed(text: str) -> tuple[int, ...]:
    """A key that sorts texts the other way round."""
    return tuple(-ord(c) for c in text)
