"""Training curves for TensorBoard, copied from the runs' `metrics.jsonl` as they grow; whatever engine trains them."""

import json
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from unisc.errors import InputError
from unisc.sweep.plan import Run, run_folder

NAME = "tensorboard"


def follower(folder: Path, runs: Sequence[Run]) -> Callable[[], None]:
    """Return what, called now and then, appends the runs' new lines to `folder/tensorboard/<label>`.

    What a call has read is in the files when it returns, and none is left open: a sweep may have thousands of runs.

    Raises:
      InputError: tensorboardX is not installed.
    """
    try:
        # Its messages and its checksum. Its `SummaryWriter` holds two threads and an open file for every run, and its `flush`
        # does not wait for the threads.
        from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyrefly: ignore[missing-module-attribute]
        from tensorboardX.record_writer import masked_crc32c
        from tensorboardX.summary import scalar
    except ModuleNotFoundError as e:
        raise InputError("--tensorboard: needs tensorboardX; install unisc[tensorboard]") from e
    files: dict[str, Path] = {}
    read: dict[str, tuple[int, int]] = {}

    def append(path: Path, events: Iterable[Any]) -> None:
        """Append events as TFRecords: length, checksum of the length, message, checksum of the message."""
        with path.open("ab") as f:
            for event in events:
                message = event.SerializeToString()
                length = struct.pack("<Q", len(message))
                f.write(length + struct.pack("<I", masked_crc32c(length)))
                f.write(message + struct.pack("<I", masked_crc32c(message)))

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
            now, lines = time.time(), [json.loads(line) for line in whole.splitlines()]
            events = []
            if run.fingerprint not in files or is_new:
                curves = folder / NAME / f"{run.label.replace('/', '_')}-{run.fingerprint[:6]}"
                curves.mkdir(parents=True, exist_ok=True)
                files[run.fingerprint] = curves / f"events.out.tfevents.{time.time_ns()}"
                events.append(Event(wall_time=now, file_version="brain.Event:2"))
                # What an earlier file showed of these steps is to be forgotten.
                start = SessionLog(status=SessionLog.SessionStatus.Value("START"))
                events.append(Event(wall_time=now, step=lines[0]["step"], session_log=start))
            for values in lines:
                step = values.pop("step")
                events += [Event(wall_time=now, step=step, summary=scalar(key, value)) for key, value in values.items()]
            append(files[run.fingerprint], events)
            read[run.fingerprint] = (inode, (0 if is_new else offset) + len(whole))

    return follow
