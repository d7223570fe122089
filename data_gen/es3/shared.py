"""shim"""

from dataclasses import dataclass


@dataclass
class Shared:
    pass


def make_shared(session, logs, config):
    return Shared()


def write_shared(session, shared, out):
    (out / "x.json").write_text("{}")


def read_shared(session, d):
    return Shared()
