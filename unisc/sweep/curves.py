"""Training curves for TensorBoard, copied from the runs' `metrics.jsonl` as they grow; whatever engine trains them."""

import atexit
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from unisc.errors import InputError
from unisc.sweep.plan import Run, run_folder

NAME = "tensorboard"
FLUSH_SECS = 1
"""A thread of the writer's own brings lines to the file; its `flush` does not wait for those that are queued."""


def follower(folder: Path, runs: Sequence[Run]) -> Callable[[], None]:
    """Return what, called now and then, appends the runs' new lines to `folder/tensorboard/<label>`.

    Raises:
      InputError: tensorboardX is not installed.
    """
    try:
        from tensorboardX import SummaryWriter
    except ModuleNotFoundError as e:
        raise InputError("--tensorboard: needs tensorboardX; install unisc[tensorboard]") from e
    writers: dict[str, SummaryWriter] = {}
    read: dict[str, tuple[int, int]] = {}

    def follow() -> None:
        for run in runs:
            path = run_folder(folder, run.fingerprint) / "work" / "metrics.jsonl"
            try:
                with path.open("rb") as f:
                    inode, size = path.stat().st_ino, path.stat().st_size
                    known, offset = read.get(run.fingerprint, (inode, 0))
                    is_new = inode != known or size < offset  # a run that went on from a checkpoint has rewritten its file
                    f.seek(0 if is_new else offset)
                    text = f.read()
            except OSError:
                continue
            whole = text[: text.rfind(b"\n") + 1]
            if not whole:
                continue
            if run.fingerprint not in writers or is_new:
                name = f"{run.label.replace('/', '_')}-{run.fingerprint[:6]}"
                first = json.loads(whole.split(b"\n", 1)[0])["step"]
                # What an earlier writer showed of these steps is to be forgotten.
                writers[run.fingerprint] = SummaryWriter(str(folder / NAME / name), purge_step=first, flush_secs=FLUSH_SECS)
                atexit.register(writers[run.fingerprint].close)  # which waits for what is still queued
            for line in whole.splitlines():
                values = json.loads(line)
                step = values.pop("step")
                for key, value in values.items():
                    writers[run.fingerprint].add_scalar(key, value, step)
            read[run.fingerprint] = (inode, (0 if is_new else offset) + len(whole))

    return follow
