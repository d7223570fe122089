"""The adapters there are. A module is imported when its adapter is asked for, and only from this list."""

import difflib
import importlib

from data_gen.public.adapter import Adapter
from unisc.errors import InputError

KINDS = {
    "jdsearch": "lists",
    "kuairand": "logs",
    "kuaisar": "logs",
    "qilin": "logs",
    "ubi": "logs",
}
"""The kind of directory that each adapter's source makes, by name; a module of this package has the adapter's name."""

MODULES = tuple(KINDS)


def adapter(name: str) -> Adapter:
    """Return the adapter of that name.

    Raises:
      InputError: there is none.
    """
    if name not in MODULES:
        near = difflib.get_close_matches(name, MODULES, n=1)
        raise InputError(f"adapter {name!r}: unknown; give {f'{near[0]}, or ' if near else ''}one of {', '.join(MODULES)}")
    return importlib.import_module(f"data_gen.public.{name}").ADAPTER
