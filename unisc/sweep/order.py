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

from collections.abc import Collection, Mapping, Sequence

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
