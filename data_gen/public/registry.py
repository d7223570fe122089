"""The adapters there are. A module is imported when its adapter is asked for, and only from this list."""

import difflib
import importlib

from data_gen.public.adapter import Adapter
from unisc.errors import InputError

KINDS = {
    "amazon_cds": "sequences",
    "amazon_sequences": "sequences",
    "jdsearch": "lists",
    "kuairand": "logs",
    "kuaisar": "logs",
    "online_retail": "events",
    "open_bandit": "logs",
    "qilin": "logs",
    "retailrocket": "events",
    "sessions_diginetica": "sequences",
    "sessions_retailrocket": "sequences",
    "sessions_tmall": "sequences",
    "trivago": "logs",
    "ubi": "logs",
}
"""The kind of directory that each adapter's source makes, by name."""

NAMES = tuple(KINDS)
_TOGETHER = {name: "sessions" for name in NAMES if name.startswith("sessions_")}
"""Adapters that share a module, whose `ADAPTERS` holds them by name; any other has the module of its name to itself."""

MODULES = tuple(dict.fromkeys(_TOGETHER.get(name, name) for name in NAMES))


def adapter(name: str) -> Adapter:
    """Return the adapter of that name.

    Raises:
      InputError: there is none.
    """
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, n=1)
        raise InputError(f"adapter {name!r}: unknown; give {f'{near[0]}, or ' if near else ''}one of {', '.join(NAMES)}")
    module = importlib.import_module(f"data_gen.public.{_TOGETHER.get(name, name)}")
    return module.ADAPTERS[name] if name in _TOGETHER else module.ADAPTER
