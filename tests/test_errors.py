"""How a command ends: one line for a user's mistake, nothing at all for a reader who has had enough."""

import subprocess
import sys


def command(body):
    code = f"from unisc.errors import InputError, run_command\ndef body():\n    {body}\nrun_command('tool', body)"
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
    )


def test_a_mistake_is_one_line_and_status_2():
    out, error = (process := command("raise InputError('size: 0 is too small;\\n give 1')")).communicate()
    assert (process.returncode, out, error) == (2, "", "tool: size: 0 is too small; give 1\n")


def test_a_reader_who_leaves_ends_the_command_quietly():
    process = command("[print(i) for i in range(1_000_000)]")
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == "0\n"
    process.stdout.close()
    assert process.wait(60) == 141
    assert process.stderr.read() == ""
    process.stderr.close()


def test_a_bug_keeps_its_traceback():
    _, error = (process := command("raise KeyError('x')")).communicate()
    assert process.returncode == 1 and "Traceback" in error
