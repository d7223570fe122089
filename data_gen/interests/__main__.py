"""Interests for encoders: `python -m data_gen.interests build PATH --out DIR`, `python -m data_gen.interests describe DIR`."""

from pathlib import Path
from typing import Annotated

import tyro

from data_gen.interests.build import build
from data_gen.interests.config import InterestsConfig
from data_gen.interests.describe import describe
from unisc.errors import run_command

app = tyro.extras.SubcommandApp()
Folder = Annotated[Path, tyro.conf.Positional]


@app.command(name="build")
def build_command(
    path: Folder,
    *,
    out: Path,
    vocab_size: int = 2048,
    history_len: int = 50,
    max_shown: int = 20,
    domains: str = "",
    validation_share: float | None = None,
    visual_dim: int = 64,
    seed: int = 0,
) -> None:
    """Make a directory of interests: a catalogue with texts as tokens, and who wanted what after which history.

    Args:
        path: log tables, or a directory of sequences or interactions that `data_gen.public convert` made.
        out: directory to make; must not hold anything yet.
        vocab_size: tokens of the byte-level BPE, at most; it is learned on titles and the queries of train.
        history_len: items of a history, the last ones.
        max_shown: items that a page showed and nobody touched, the first by position.
        domains: of log tables, whose clicks become examples, like search,rec; if not given the logs' first, in the shop search.
        validation_share: of the train examples; of log tables the last by time, of interactions drawn. If not given .1 of the
            former and none of the latter. Sequences have a validation part of their own.
        visual_dim: width of the visual vectors of a generated shop (stand-ins for a frozen vision encoder), 0 for none.
        seed: of pairs drawn for validation and of the visual vectors.
    """
    config = InterestsConfig(
        vocab_size=vocab_size,
        history_len=history_len,
        max_shown=max_shown,
        domains=tuple(d for d in domains.split(",") if d),
        validation_share=validation_share,
        visual_dim=visual_dim,
        seed=seed,
    )
    made = build(path, out, config)
    print(f"{out}: interests of {made['config']['made_from']['source'] or path}, fingerprint {made['fingerprint']}")
    print("  " + ", ".join(f"{name} {count:,}" for name, count in made["counts"].items()))


@app.command(name="describe")
def describe_command(directory: Folder) -> None:
    """Print what a directory of interests holds: counts, lengths, tokens, and what was cut or left out.

    Args:
        directory: one that `build` made.
    """
    print(describe(directory))


def main() -> None:
    """Run the command; a user's mistake is one line on standard error and exit status 2."""
    run_command("data_gen.interests", lambda: app.cli(prog="python -m data_gen.interests", description=__doc__))


if __name__ == "__main__":
    main()
