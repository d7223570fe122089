"""`python -m data_gen.marketplace generate --out DIR ...` and `python -m data_gen.marketplace describe DIR`."""

import argparse
import dataclasses
import json
import math
import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any, NoReturn

from data_gen.marketplace.config import PRESETS, MarketplaceConfig, preset
from unisc.errors import InputError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{self.prog}: {message}; see {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m data_gen.marketplace", description="A synthetic shop whose truth is known.", allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("generate", help="write the logs of a shop", allow_abbrev=False)
    make.add_argument("--out", required=True, help="directory to write; logs made before are replaced")
    make.add_argument("--preset", default="default", help=f"one of {', '.join(PRESETS)}")
    make.add_argument("--seed", type=int, default=0)
    make.add_argument("--workers", type=int, default=_cores(), help="processes; the logs are the same for any number")
    group = make.add_argument_group("fields of the preset", "each keeps the preset's value unless given")
    for field in dataclasses.fields(MarketplaceConfig):
        if field.name not in ("seed", "preset"):
            kind: Any = field.type
            group.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=None, help=f"default {field.default}")
    show = commands.add_parser("describe", help="print volumes, rates and the best possible figures", allow_abbrev=False)
    show.add_argument("dir")
    show.add_argument("--json", action="store_true", help="print everything as one JSON object")
    return parser


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _generate(args: argparse.Namespace) -> None:
    from data_gen.marketplace.generate import generate

    known = {f.name for f in dataclasses.fields(MarketplaceConfig)} - {"seed", "preset"}
    changes = {name: value for name, value in vars(args).items() if name in known and value is not None}
    config = preset(args.preset, seed=args.seed, **changes)
    started = time.monotonic()

    def progress(done: int, total: int) -> None:
        spent = time.monotonic() - started
        left = spent * (total - done) / max(done, 1)
        print(f"\r{done:,} of {total:,} requests, {left:.0f} s left   ", end="", file=sys.stderr, flush=True)

    try:
        made = generate(config, args.out, workers=args.workers, progress=progress if sys.stderr.isatty() else None)
    finally:
        if sys.stderr.isatty():
            print(file=sys.stderr)
    spent = time.monotonic() - started
    rows = made["counts"]["candidates"]
    print(
        f"{args.out}: {config.requests:,} requests, {rows:,} candidates, {made['counts']['events']:,} events in {spent:.1f} s "
        f"({rows / spent:,.0f} candidates a second), fingerprint {made['fingerprint']}"
    )


def _describe(args: argparse.Namespace) -> None:
    from data_gen.marketplace.describe import describe, render

    found = describe(args.dir)
    if args.json:
        print(json.dumps(_finite(found), indent=1))
    else:
        print(render(found))


def _finite(value: Any) -> Any:
    """Return the value with NaN as null, which JSON can hold."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return 0, or 2 after one line on stderr about what the user must change."""
    try:
        args = _parser().parse_args(argv)
        (_generate if args.command == "generate" else _describe)(args)
    except InputError as e:
        print(e, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; nothing was left behind", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    # A polite kill unwinds like an interrupt, so that what is half-written is removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
