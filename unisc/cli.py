"""The `unisc` command: thin, and the only module of the package that may import the leaf folders."""

import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import tyro

from unisc.errors import InputError, run_command
from unisc.fit_options import FitOptions


def study(
    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(help="which study; `uniscale` is the one there is")],
    /,
    preset: str = "laptop",
    source: str = "marketplace",
    path: Path | None = None,
    out: Path | None = None,
    work: Path | None = None,
    workers: int = 0,
) -> None:
    """Run a study end to end: logs, samples, runs, laws, report. Killed and typed again it continues.

    Args:
        preset: how much to run: smoke, laptop, stationary (floor known exactly) or paper.
        source: marketplace (a generated shop), or real logs with --path: trivago, retailrocket.
        path: folder of the real logs.
        out: where the report goes; report/ (report/<source>/ for real logs) if not given.
        work: where logs, samples and runs are kept between calls; study/<source>-<preset>/ if not given.
        workers: worker processes; 0 means one a core.
    """
    if name != "uniscale":
        raise InputError(f"unknown study {name!r}; the studies are: uniscale")
    if workers < 0:
        raise InputError(f"--workers {workers}: must be 0 (one a core) or more")
    if source == "marketplace":
        from sweeps import uniscale

        if path is not None:
            raise InputError("--path goes with --source trivago or retailrocket; the marketplace makes its own logs")
        uniscale.study(preset=preset, out=out or Path("report"), work=work or Path("study", preset), workers=workers)
    elif source in ("trivago", "retailrocket"):
        from sweeps import real_logs, uniscale_retailrocket, uniscale_trivago

        chosen = {"trivago": uniscale_trivago, "retailrocket": uniscale_retailrocket}[source].SOURCE
        if path is None:
            raise InputError(f"--source {source} needs --path, the folder that holds the source's files")
        real_logs.study(
            chosen,
            path=path,
            preset=preset,
            out=out or Path("report", source),
            work=work or Path("study", f"{source}-{preset}"),
            workers=workers,
        )
    else:
        raise InputError(f"unknown source {source!r}; the sources are: marketplace, trivago, retailrocket")


def train(
    experiment: tyro.conf.Positional[Path],
    /,
    samples: Path,
    out: Path,
    model: str | None = None,
    size: str | None = None,
    seed: int = 0,
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    devices: int | None = None,
    profile: bool = False,
    coordinator: str | None = None,
    processes: int | None = None,
    process_id: int | None = None,
    join_secs: float = 300.0,
) -> None:
    """Train one model of an experiment and score it; killed and typed again it continues.

    Several processes, on one host or many, train one run where a launcher started them together (Slurm's srun, mpirun, a TPU
    pod, an indexed Kubernetes Job) or where each is given --coordinator, --processes and its --process-id. They share --out
    and --samples. With the same train.num_parts another number of processes may continue.

    Args:
        experiment: file of the experiment, like experiments/rankers.py.
        samples: samples that `python -m data_gen.es3 build` made, or what else the experiment is of.
        out: directory for checkpoints, metrics.jsonl and record.json.
        model: model of the experiment by name, such as a ranker; the experiment's own choice if not given.
        size: its size by name, such as xxs to xxl; the experiment's own choice if not given.
        seed: of parameters, table and order.
        set: change of a field of the configuration, like train.learning_rate=0.001; may be given several times. For less
            memory: train.num_parts=8 (a batch in more parts, their gradients added up) and train.remat=true (layers computed
            again in the backward pass).
        devices: virtual devices on a CPU, if not given one a core up to a power of two; accelerators are all used.
        profile: trace some steps into DIR/profile, for TensorBoard or Perfetto.
        coordinator: address HOST:PORT of process 0, where the processes of a run meet; any free port.
        processes: how many they are.
        process_id: which one this is, from 0.
        join_secs: how long they wait for each other at the start.
    """
    from unisc import cpu
    from unisc.sweep.plan import check_module

    name = ".".join(experiment.with_suffix("").parts)
    check_module(name)
    if devices is not None and devices < 1:
        raise InputError(f"--devices {devices}: must be at least 1")
    if os.environ.get("JAX_PLATFORMS", "cpu") == "cpu":
        # A power of two, so that batches, which are such, divide among them.
        cpu.restart(devices or 1 << (cpu.num_cores().bit_length() - 1))
    from unisc.cluster import find_cluster
    from unisc.distributed import is_first, join, leave_at_once

    cluster = find_cluster(coordinator, processes, process_id)
    if cluster is not None:
        join(cluster, join_secs=join_secs)
    with leave_at_once():
        found = _train(experiment, name, samples, out, {"model": model, "size": size, "seed": seed}, set, profile)
        if is_first():
            (out / "record.json").write_text(json.dumps(found, indent=1))
            for section in ("metrics", "counts", "timing"):
                for key, value in found[section].items():
                    sys.stdout.write(f"{section:8} {key:32} {value:,.6g}\n")


def _train(
    experiment: Path,
    name: str,
    samples: Path,
    out: Path,
    which: dict[str, Any],
    changes: tuple[str, ...],
    profile: bool,
) -> dict[str, Any]:
    import jax

    from unisc.config import Runtime, override, to_json
    from unisc.train.progress import DivergedError

    if importlib.util.find_spec(name) is None:
        raise InputError(f"{experiment}: no such experiment; give a file like experiments/rankers.py")
    module = importlib.import_module(name)
    if not hasattr(module, "default"):
        raise InputError(f"{experiment}: has no default configuration to train; run it by its sweep")
    config = module.default(samples, **{name: value for name, value in which.items() if value is not None})
    # The devices share a batch out; of a ranker's, a part is as large as a core's caches like.
    parts = {"train.num_parts": jax.device_count()} if hasattr(config.train, "num_parts") else {}
    config = override(config, {**parts, **dict(map(_change, changes))})
    out.mkdir(parents=True, exist_ok=True)
    runtime = Runtime(data_dir=str(samples), work_dir=str(out), checkpoint_every_steps=200, profile=profile)
    try:
        found = module.run(config, runtime)
    except DivergedError as e:
        raise InputError(f"{out}: {e}") from e
    return {"config": json.loads(to_json(config)), "devices": jax.device_count(), "processes": jax.process_count(), **found}


def fit(
    table: tyro.conf.Positional[Path],
    /,
    options: Annotated[FitOptions, tyro.conf.arg(name="")],
    json_out: Annotated[Path | None, tyro.conf.arg(name="json")] = None,
    report_out: Annotated[Path | None, tyro.conf.arg(name="report")] = None,
    anchors: Path | None = None,
) -> None:
    """Fit a scaling law to a run table and say how far it is to be trusted. `unisc fit replay` runs published fits again.

    Args:
        table: runs as .csv, .parquet or .jsonl, one a row; or the word replay.
        options: what to fit.
        json_out: file that receives the whole result.
        report_out: folder that receives a page of numbers and figures, and the result as fit.json.
        anchors: with replay, the folder that holds the published tables.
    """
    from unisc.scaling import describe

    if str(table) == "replay":
        from unisc.scaling.replay import replay

        if anchors is None:
            raise InputError("replay needs --anchors, the folder that holds epoch_chinchilla/, porian_isoflop/ and the others")
        checks = []
        for check in replay(anchors):
            checks.append(check)
            sys.stdout.write(f"{describe.replay_line(check)}\n")
        result: Any = [check.to_json() for check in checks]
        failed = [check for check in checks if not check.passed]
    else:
        from unisc.scaling.command import fit_table

        found = fit_table(table, options)
        sys.stdout.writelines(f"{line}\n" for line in describe.outcome_lines(found))
        result, failed = found.to_json(), []
        if report_out is not None:
            from analysis.fit_report import build

            sys.stdout.write(f"{build(found, report_out)}\n")
    if json_out is not None:
        json_out.parent.mkdir(parents=True, exist_ok=True)
        json_out.write_text(json.dumps(result, indent=1))
    if failed:
        sys.exit(1)


def _change(text: str) -> tuple[str, Any]:
    path, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"--set {text}: not understood; write it like train.learning_rate=0.001")
    try:
        return path, json.loads(value)
    except ValueError:
        return path, value


def status(directory: tyro.conf.Positional[Path], /) -> None:
    """Say how far a sweep is: runs done, running, failed and pending, and the time left.

    Args:
        directory: a sweep directory, holding plan.jsonl and runs/.
    """
    from unisc.sweep.status import summary

    sys.stdout.write(f"{summary(directory)}\n")


def report(target: tyro.conf.Positional[Path], /, out: Path = Path("report")) -> None:
    """Make the report of a finished study again, from its records, or that of a fit, from its JSON and table.

    Args:
        target: a study's work folder, or the file that `unisc fit --json` wrote.
        out: where the report goes.
    """
    from analysis import fit_report
    from analysis import report as study_report

    made = study_report.build_from(target, out) if target.is_dir() else fit_report.build_from(target, out)
    sys.stdout.write(f"{made}\n")


def sweep(arguments: Annotated[tuple[str, ...], tyro.conf.Positional] = (), /) -> None:
    """Plan, run and watch a sweep, on this machine, Slurm, Ray or Kubernetes; see `unisc sweep --help`.

    Args:
        arguments: plan, run, status, retry, cancel, export or gc, and what that wants.
    """
    from unisc.sweep import command

    command.main(list(arguments))


def ab(
    control: tyro.conf.Positional[str],
    treatment: tyro.conf.Positional[str],
    /,
    logs: Path,
    requests: int = 100_000,
    days: int = 7,
    seed: int = 0,
    domains: str = "search",
    looks: int = 10,
    workers: int = 0,
    json_out: Annotated[Path | None, tyro.conf.arg(name="json")] = None,
) -> None:
    """Put two rankers in charge of a generated shop's pages, on the same visitors and random numbers, and say who sells more.

    Args:
        control: folder of a trained ranker, or shop, random or oracle, which the shop has itself.
        treatment: the same; another one.
        logs: logs of the shop, on samples of which the rankers were trained.
        requests: pages that visitors ask for in each ranker's world.
        days: how long the test lasts from where the rankers' training data ended; more requests than visitors make in that
            time are further lives of theirs.
        seed: of everything that happens.
        domains: where the rankers are in charge: search, or all.
        looks: how often the test is looked at on its way.
        workers: worker processes; 0 means one a core. The result is the same for any number.
        json_out: file that receives the whole result.
    """
    from analysis.online_text import lines
    from experiments.ab import ab as run
    from experiments.online import Settings
    from unisc import cpu

    for name, value, least in (("--workers", workers, 0), ("--looks", looks, 1)):
        if value < least:
            raise InputError(f"{name} {value}: must be at least {least}")
    settings = Settings(requests=requests, seed=seed, days=days, domains=domains)

    def progress(done: int, total: int) -> None:
        sys.stderr.write(f"{done:,} of {total:,} requests\n")

    found = run(control, treatment, logs, settings, workers=workers or cpu.num_cores(), looks=looks, progress=progress)
    sys.stdout.writelines(f"{line}\n" for line in lines(found))
    if json_out is not None:
        json_out.parent.mkdir(parents=True, exist_ok=True)
        json_out.write_text(json.dumps(found, indent=1))


def main() -> None:
    """Run the command line; a user's mistake is one line on standard error and exit status 2."""
    if sys.argv[1:2] == ["sweep"]:  # it has commands, and flags, of its own
        sys.path.insert(0, str(Path.cwd()))  # where sweeps/ and experiments/ are
        return run_command("unisc sweep", lambda: sweep(tuple(sys.argv[2:])))
    return run_command(
        "unisc",
        lambda: tyro.extras.subcommand_cli_from_dict(
            {"study": study, "sweep": sweep, "status": status, "report": report, "train": train, "fit": fit, "ab": ab},
            prog="unisc",
            description="Scaling-law research and ranking-model experiments for e-commerce search.",
        ),
    )


if __name__ == "__main__":
    main()
