"""The entire-space sample system: `python -m data_gen.es3 build LOGS --composition searchified --out DIR`."""

import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import tyro

from data_gen.blocks import ROWS_PER_BLOCK
from data_gen.es3 import truth
from data_gen.es3.build import Resources, build
from data_gen.es3.config import ES3Config, parse_duration
from data_gen.es3.dataset import write_dataset
from data_gen.es3.degrade import TASKS, degrade
from data_gen.es3.report import report
from data_gen.es3.rowwise import export_labels
from data_gen.es3.tables import describe_logs
from unisc.data.columns import SPLITS
from unisc.errors import InputError, run_command

app = tyro.extras.SubcommandApp()
Folder = Annotated[Path, tyro.conf.Positional]


@app.command(name="build")
def build_command(
    logs: Folder,
    *,
    composition: str,
    out: Path,
    engine: str = "duckdb",
    master: str | None = None,
    click_window: str = "24h",
    purchase_window: str = "72h",
    relevance: str = "category",
    text_threshold: float = 0.5,
    label_half_life: str = "0s",
    level_confidence: float = 1.0,
    sampling: str = "uniform",
    unexposed_per_exposed: int = 2,
    strata: int = 4,
    hard_share: float = 0.5,
    negatives: str = "similar",
    history_len: int = 20,
    history_max_age: str = "0s",
    layout: str = "list",
    memory: str = "4GiB",
    threads: int | None = None,
    buckets: int | None = None,
    max_quarantine: float = 0.05,
    seed: int = 0,
) -> None:
    """Build samples from log tables; a build that was killed continues when the same command is typed again.

    Args:
        logs: directory of log tables with its manifest.
        composition: exposed, unexposed, attributed or searchified; each adds to the one before.
        out: directory to make; must not hold anything yet.
        engine: duckdb (in this process) or spark (extra `spark`, Java 17).
        master: Spark master, like local[4] or spark://host:7077.
        click_window: how long after a request an outside click may label it, like 24h.
        purchase_window: the same for purchases.
        relevance: category (the item's leaf category must be the query's, if it names one), text (words in common) or none.
        text_threshold: share of the query's words, weighted by rarity, that a title must hold under relevance text.
        label_half_life: attributed labels weigh half after this long, like 12h; 0s for no discount.
        level_confidence: factor on an attributed label's weight for each level below the first; 1 for no discount.
        sampling: of unexposed candidates: uniform, stratum (of pre-rank) or hard (best-ranked first).
        unexposed_per_exposed: unexposed candidates drawn for each exposed one.
        strata: strata of pre-rank under sampling stratum.
        hard_share: share of the draws that goes to the best-ranked under sampling hard.
        negatives: of pseudo requests: similar (to the clicked item), all or random.
        history_len: events of history kept a request.
        history_max_age: how far back history reaches, like 30d; 0s for no limit.
        layout: list (one row a request) or row (one row a candidate, about twice the size; for other programs).
        memory: memory to stay within, like 4GiB.
        threads: threads to use; all cores if not given.
        buckets: parts of the users worked on one after the other; as many as the memory asks for if not given.
        max_quarantine: share of a table's rows that may break its schema or repeat before the build stops.
        seed: of the draws and of the row order.
    """
    config = ES3Config(
        composition=composition,
        click_window=parse_duration(click_window),
        purchase_window=parse_duration(purchase_window),
        relevance=relevance,
        text_threshold=text_threshold,
        label_half_life=parse_duration(label_half_life),
        level_confidence=level_confidence,
        sampling=sampling,
        unexposed_per_exposed=unexposed_per_exposed,
        strata=strata,
        hard_share=hard_share,
        negatives=negatives,
        history_len=history_len,
        history_max_age=parse_duration(history_max_age),
        seed=seed,
    )
    if layout not in ("list", "row"):
        raise InputError(f"layout {layout!r}: unknown; give list or row")
    resources = Resources(
        engine=engine, master=master, threads=threads, memory=memory, buckets=buckets, max_quarantine=max_quarantine
    )
    made = build(logs, out, config, rows=layout == "row", say=_say, **asdict(resources))
    print(f"{out}: {composition}, fingerprint {made['fingerprint']}")
    for name, row in made["quality"]["volumes"].items():
        print(f"  {name:12}" + "".join(f"  {key} {n:,}" for key, n in row.items()))
    if set_aside := made["quality"]["quarantine"]:
        print("  set aside    " + ", ".join(f"{reason} {n:,}" for reason, n in set_aside.items()))


@app.command(name="export")
def export_command(samples: Folder, *, out: Path) -> None:
    """Write every label as a row of its own, to be checked with any SQL.

    Args:
        samples: a samples directory that `build` made.
        out: Parquet file to make.
    """
    print(f"{out}: {export_labels(samples, out):,} rows")


@app.command(name="dataset")
def dataset_command(
    samples: Folder, *, out: Path, requests_per_block: int = ROWS_PER_BLOCK, num_shards: int | None = None
) -> None:
    """Write samples as a TFDS dataset of array_record, as training reads it.

    Args:
        samples: a samples directory that `build` made.
        out: directory to make; must not hold anything yet.
        requests_per_block: requests in one record.
        num_shards: files per split; one for every 1024 records if not given.
    """
    made = write_dataset(samples, out, requests_per_block=requests_per_block, num_shards=num_shards)
    counts = (
        f"{made['counts'][f'{split}_{what}']:,} {split} {what}" for split in SPLITS for what in ("requests", "candidates")
    )
    print(f"{out}: fingerprint {made['fingerprint']}, {', '.join(counts)}")


@app.command(name="report")
def report_command(directory: Folder, *, out: Path | None = None, logs: Path | None = None) -> None:
    """Write a page with plots and `quality.json` about samples, or about logs.

    Args:
        directory: samples that `build` made, or logs in their common form.
        out: folder to write; the directory's name and `.report`, beside it, if not given.
        logs: the logs the samples were made from, to look labels and features up in.
    """
    where, numbers = report(directory, out, logs=logs)
    look = [f"{v['check']}: {v['number']} (rule: {v['rule']})" for v in numbers.get("verdicts", []) if v["verdict"] == "look"]
    print("\n  look: ".join([f"{where / 'index.html'}", *look]))


@app.command(name="degrade")
def degrade_command(samples: Folder, *, out: Path, wrong_label_rate: float, seed: int = 0) -> None:
    """Move a share of the attributed train labels to random other candidates of their requests; nothing else changes.

    Args:
        samples: a samples directory that `build` made, of a composition with attributed labels.
        out: directory to make; must not hold anything yet.
        wrong_label_rate: share of the labels to move, above 0 and at most 1.
        seed: of which labels move, and where to.
    """
    made = degrade(samples, out, wrong_label_rate=wrong_label_rate, seed=seed)
    moved = (f"{of['moved']:,} of {of['labels']:,} {kind} labels" for kind, of in made["degradation"].items() if kind in TASKS)
    print(f"{out}: fingerprint {made['fingerprint']}, moved {' and '.join(moved)}")


@app.command(name="truth")
def truth_command(samples: Folder, *, logs: Path) -> None:
    """Print how right the attributed labels are, by the truth of the generated shop they come from; 90 % intervals.

    Args:
        samples: a samples directory that `build` or `degrade` made.
        logs: the logs it was made from, with their oracle and causes.
    """
    found = truth.measure(samples, logs)
    for kind in TASKS:
        said = [f"{found[kind]['labels']:,} labels"]
        for name in ("precision", "recall"):
            of = found[kind][name]
            said.append(f"{name} " + ("n/a" if of["value"] is None else "{value:.4f} [{low:.4f}, {high:.4f}]".format(**of)))
        print(f"{kind:8} " + ", ".join(said))


@app.command(name="describe-logs")
def describe_command(logs: Folder, *, domains: str, test_start: str) -> None:
    """Write the manifest of log tables made by any program, so that `build` can read them.

    Args:
        logs: directory holding items, users, queries, requests, candidates and events as `<table>/part-*.parquet`.
        domains: names of the domains, the target domain first, like search,rec,shop.
        test_start: where the test split starts: unix seconds, or a UTC time like 2026-11-01 or 2026-11-01T12:00.
    """
    made = describe_logs(logs, tuple(domains.split(",")), _parse_time(test_start))
    print(f"{logs}: fingerprint {made['fingerprint']}, " + ", ".join(f"{n:,} {name}" for name, n in made["counts"].items()))


def _parse_time(text: str) -> int:
    if text.isdecimal():
        return int(text)
    try:
        when = datetime.fromisoformat(text)
    except ValueError as e:
        raise InputError(f"test-start {text!r}: not understood; give unix seconds or a time like 2026-11-01T12:00") from e
    return int((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp())


def _say(text: str) -> None:
    sys.stderr.write(f"  {text}\n")


def main() -> None:
    """Run the command; a user's mistake is one line on standard error and exit status 2."""
    run_command("data_gen.es3", lambda: app.cli(prog="python -m data_gen.es3", description=__doc__))


if __name__ == "__main__":
    main()
