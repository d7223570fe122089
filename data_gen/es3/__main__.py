"""Build ES3 samples from the command line: `python -m data_gen.es3 build LOGS --composition searchified --out DIR`."""

import sys
from pathlib import Path
from typing import Annotated

import tyro

from data_gen.es3.build import build
from data_gen.es3.config import ES3Config, parse_duration
from unisc.errors import InputError

app = tyro.extras.SubcommandApp()


@app.command(name="build")
def build_command(
    logs: Annotated[Path, tyro.conf.Positional],
    *,
    composition: str,
    out: Path,
    click_window: str = "24h",
    purchase_window: str = "72h",
    relevance: str = "category",
    unexposed_per_exposed: int = 2,
    history_len: int = 20,
    memory: str = "4GiB",
    threads: int | None = None,
    seed: int = 0,
) -> None:
    """Build list-wise samples from log tables.

    Args:
        logs: directory of log tables with its manifest.
        composition: exposed, unexposed, attributed or searchified; each adds to the one before.
        out: directory to make; must not hold anything yet.
        click_window: how long after a request an outside click may label it, like 24h.
        purchase_window: the same for purchases.
        relevance: category (the item's leaf category must be the query's, if it names one) or none.
        unexposed_per_exposed: unexposed candidates drawn for each exposed one.
        history_len: events of history kept a request.
        memory: memory to stay within, like 4GiB.
        threads: threads to use; all cores if not given.
        seed: of the draws and of the row order.
    """
    config = ES3Config(
        composition=composition,
        click_window=parse_duration(click_window),
        purchase_window=parse_duration(purchase_window),
        relevance=relevance,
        unexposed_per_exposed=unexposed_per_exposed,
        history_len=history_len,
        seed=seed,
    )
    made = build(logs, out, config, threads=threads, memory=memory)
    print(f"{out}: {composition}, fingerprint {made['fingerprint']}")
    for name, row in made["quality"]["volumes"].items():
        print(f"  {name:12}" + "".join(f"  {key} {n:,}" for key, n in row.items()))


def main() -> int:
    """Run the command; a user's mistake is one line on standard error and exit status 2."""
    try:
        app.cli(prog="python -m data_gen.es3", description=__doc__)
    except InputError as e:
        print(e, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
