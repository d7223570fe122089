"""Public logs: `python -m data_gen.public list`, `convert NAME FOLDER --out DIR`, then `dataset`, `retrieve`, `actions`."""

import textwrap
from pathlib import Path
from typing import Annotated, Any

import tyro

from data_gen.blocks import ROWS_PER_BLOCK
from data_gen.public import actions, adapter, registry
from data_gen.public.dataset import write_datasets
from data_gen.public.retrieved import RetrieveConfig, retrieve
from unisc.errors import run_command

app = tyro.extras.SubcommandApp()
Name = Annotated[str, tyro.conf.Positional]
Folder = Annotated[Path, tyro.conf.Positional]


@app.command(name="list")
def list_command() -> None:
    """Say of every adapter what its source is, what it gives and what it cannot."""
    for name in registry.NAMES:
        found = registry.adapter(name)
        print(f"{name}: {found.title}")
        print(f"  kind         {registry.KINDS[name]}")
        print(f"  licence      {found.licence}")
        print(f"  from         {found.source}")
        print(f"  files        {', '.join(found.columns)}")
        for title, texts in (("gives", found.gives), ("cannot give", found.cannot_give)):
            for text in texts:
                print(textwrap.fill(text, 120, initial_indent=f"  {title:12} ", subsequent_indent=" " * 15))
                title = ""
        print()


@app.command(name="convert")
def convert_command(name: Name, folder: Folder, *, out: Path) -> None:
    """Read the files of a public log and write its tables, as ES3 and other programs read them.

    Args:
        name: of the adapter, as `list` gives it.
        folder: holding the files, as their source distributes them.
        out: directory to make; must not hold anything yet.
    """
    made = adapter.convert(registry.adapter(name), folder, out)
    _print(out, made)
    for text in made["cannot_give"]:
        print(textwrap.fill(text, 120, initial_indent="  cannot give  ", subsequent_indent=" " * 15))


@app.command(name="dataset")
def dataset_command(
    converted: Folder, *, out: Path, rows_per_block: int = ROWS_PER_BLOCK, num_shards: int | None = None
) -> None:
    """Write converted tables as TFDS datasets of array_record, one in a folder of `out` each.

    Args:
        converted: directory that `convert` made.
        out: directory to make; must not hold anything yet.
        rows_per_block: rows in one record.
        num_shards: files per split; one for every 1024 records if not given.
    """
    _print(out, write_datasets(converted, out, rows_per_block=rows_per_block, num_shards=num_shards))


@app.command(name="retrieve")
def retrieve_command(
    converted: Folder,
    *,
    out: Path,
    candidates: int = 100,
    train_requests: int = 30_000,
    train_candidates: int = 20,
    test_requests: int = 0,
    seed: int = 0,
) -> None:
    """Make samples of a source without lists: item-to-item retrieval, learned from its train part, proposes the candidates.

    Args:
        converted: directory of sequences or interactions that `convert` made.
        out: directory to make; must not hold anything yet.
        candidates: of a test list.
        train_requests: train requests drawn, of which those with their target among the candidates are kept.
        train_candidates: kept in a train list, the target among them.
        test_requests: test requests drawn; 0 for all.
        seed: of the draws.
    """
    config = RetrieveConfig(
        candidates=candidates,
        train_requests=train_requests,
        train_candidates=train_candidates,
        test_requests=test_requests,
        seed=seed,
    )
    made = retrieve(converted, out, config)
    print(f"{out}: samples of {made['config']['made_from']['source']}, fingerprint {made['fingerprint']}")
    print("  requests     " + ", ".join(f"{name} {count:,}" for name, count in made["counts"].items()))
    for split in ("train", "test"):
        name = f"{split} targets retrieved"
        print(f"  {name}: {made['quality'][name]:.4f}")
    for rule, found in made["quality"]["floors"].items():
        print(f"  floor, {rule:12} " + "  ".join(f"{name} {value:.4f}" for name, value in found.items()))


@app.command(name="actions")
def actions_command(
    converted: Folder,
    *,
    out: Path,
    target: str = "purchase",
    test_share: float = 0.25,
    candidates: int = 30,
    touched: int = 15,
    requests_a_user: int = 50,
    foreign_requests: int = 20_000,
    seed: int = 0,
) -> None:
    """Make samples of events of several kinds: actions of one kind are to be ranked, those of the others are foreign domains.

    Args:
        converted: directory of events that `convert` made.
        out: directory to make, with a folder for each of the compositions exposed, attributed and searchified.
        target: kind of the action to rank for: purchase, cart or click.
        test_share: of the target requests, the last by time.
        candidates: of a list.
        touched: of them, at most, items of the visitor's own past.
        requests_a_user: of one kind, at most.
        foreign_requests: of each foreign kind, at most.
        seed: of the draws.
    """
    config = actions.ActionsConfig(
        target=target,
        test_share=test_share,
        candidates=candidates,
        touched=touched,
        requests_a_user=requests_a_user,
        foreign_requests=foreign_requests,
        seed=seed,
    )
    for name, made in actions.build(converted, out, config).items():
        print(f"{out / name}: fingerprint {made['fingerprint']}")
        print("  " + ", ".join(f"{what} {count:,}" for what, count in made["counts"].items()))
    for what, share in made["quality"].items():
        print(f"  {what}: {share:.4f}")


def _print(out: Path, made: dict[str, Any]) -> None:
    print(f"{out}: {made['kind']} of {made['config']['source']}, fingerprint {made['fingerprint']}")
    print("  rows         " + ", ".join(f"{name} {count:,}" for name, count in made["counts"].items()))


def main() -> None:
    """Run the command; a user's mistake is one line on standard error and exit status 2."""
    run_command("data_gen.public", lambda: app.cli(prog="python -m data_gen.public", description=__doc__))


if __name__ == "__main__":
    main()
