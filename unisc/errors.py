"""The one exception a user's mistake raises, and how a command shows it."""

import errno
import os
import signal
import sys
from collections.abc import Callable


class InputError(ValueError):
    """A mistake in what the user gave: one line naming the thing and the remedy.

    Commands print the message alone and exit with status 2; no traceback is shown.
    """


class Stopped(Exception):
    """A run was told to stop and has saved what it had; started again, it goes on from there."""


_DISK_ERRORS = {
    errno.ENOSPC: "the disk is full; free some space and type the same command again, it continues where it was",
    errno.EDQUOT: "the disk quota is used up; free some space and type the same command again, it continues where it was",
    errno.EACCES: "no permission; give a folder you may write to",
    errno.EPERM: "no permission; give a folder you may write to",
    errno.EROFS: "a read-only file system; give a folder you may write to",
    errno.ENOTDIR: "a file stands where a folder is needed; give another path",
    errno.EEXIST: "a file stands where a folder is needed; give another path",
}


def run_command(name: str, command: Callable[[], object]) -> None:
    """Run a command's body; a user's mistake or a failing disk is one line on standard error and exit status 2.

    `name` stands before the line. An interrupt exits with status 130; whatever else is raised is a bug and keeps its traceback.
    """
    try:
        command()
    except InputError as e:
        _fail(name, str(e))
    except BrokenPipeError:
        # Whoever read the output, like head, has had enough; what Python still holds of it has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except OSError as e:
        if e.errno not in _DISK_ERRORS:
            raise
        _fail(name, f"{e.filename or 'output'}: {_DISK_ERRORS[e.errno]}")
    except KeyboardInterrupt:
        sys.stderr.write(f"\n{name}: interrupted; type the same command again to continue\n")
        sys.exit(130)


def _fail(name: str, message: str) -> None:
    sys.stderr.write(f"{name}: {' '.join(message.split())}\n")
    sys.exit(2)
