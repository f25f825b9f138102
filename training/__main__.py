"""`python -m training`: data, run, and the steps of a run alone."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lsvcr.errors import DataError, LsvcrError
from training.config import PRESETS, RunConfig
from training.data_commands import add_data_commands
from training.quality_tables import TABLES
from training.run_folder import RunFolder

SETTINGS_HELP = """
Settings (--set) are listed with their values in RUN/config.json and explained in
docs/training.md. The value is JSON or a bare word: --set fit.epochs=5 --set model.norm=post
"""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 2 for an error on purpose, 130 for Ctrl-C."""
    # Read when torch is imported. Threads that spin while they wait stand still as soon as another
    # program wants a core: an epoch of the demo world then took over 50 s instead of 12.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    args = build_parser().parse_args(arguments)
    try:
        return int(args.run(args) or 0)
    except LsvcrError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; run the same command to go on", file=sys.stderr)
        return 130


def run_all(args: argparse.Namespace) -> None:
    """`run`: every step that isn't finished."""
    # torch and transformers take seconds to import, which --help and `data` must not wait for
    from training import processes
    from training.steps import align_step, embed_step, evaluate_step, fit_step, start_run

    with processes.joined():
        run, prepared = start_run(**_start(args))
        align_step(run, prepared)
        embed_step(run, prepared)
        fit_step(run, prepared)
        evaluate_step(run, prepared)
        if processes.is_first():
            run_report(argparse.Namespace(run_folders=[run.path], out=None))


def run_embed(args: argparse.Namespace) -> None:
    """`embed`: begin a run with its first step, or go on behind `align`."""
    from training import processes
    from training.steps import align_step, embed_step, start_run

    with processes.joined():
        run, prepared = start_run(**_start(args))
        align_step(run, prepared)
        embed_step(run, prepared)
        if processes.is_first():
            print(f"text vectors in {run.text_vectors}")


def run_align(args: argparse.Namespace) -> None:
    """`align`: begin a run with stage 1."""
    from training import processes
    from training.steps import align_step, start_run

    start = _start(args)
    if not start["config"].align.epochs:
        raise DataError("align.epochs = 0, so there is nothing to align: add --set align.epochs=1")
    with processes.joined():
        align_step(*start_run(**start))


def run_fit(args: argparse.Namespace) -> None:
    """`fit` alone."""
    from training import processes
    from training.steps import fit_step, load_prepared

    with processes.joined():
        run = RunFolder.open(args.run_folder)
        fit_step(run, load_prepared(run))


def run_evaluate(args: argparse.Namespace) -> None:
    """`evaluate` alone."""
    from training import processes
    from training.steps import evaluate_step, load_prepared

    with processes.joined():
        run = RunFolder.open(args.run_folder)
        run.need("fit")
        evaluate_step(run, load_prepared(run))


def run_report(args: argparse.Namespace) -> None:
    """`report`: print the main metrics and write the page."""
    from training.html_report import write_page
    from training.report import summary_rows

    runs = [RunFolder.open(path) for path in args.run_folders]
    header, *rows = summary_rows(runs[0].read_metrics())
    table = Table(*header)
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    print(f"written to {write_page(runs, args.out or runs[0].path / 'report.html')}")


def run_compare(args: argparse.Namespace) -> None:
    """`compare`: paired differences of two evaluated systems."""
    from training.compare import System, compare

    table = Table("ranking", "users", "first", "second", "difference", "95 % interval", "")
    first = System(args.first, args.first_system)
    for row in compare(first, System(args.second, args.second_system)):
        table.add_row(
            f"{row.task} {row.ranking} {row.metric}",
            f"{row.users:,}",
            f"{row.first:.4f}",
            f"{row.second:.4f}",
            f"{row.second - row.first:+.4f}",
            f"{row.low:+.4f} to {row.high:+.4f}",
            "clear" if row.is_clear else "within noise",
        )
    Console().print(table)


def run_reproduce(args: argparse.Namespace) -> None:
    """`reproduce`: run a table of docs/results.md again."""
    from training import processes
    from training.reproduce import reproduce

    text_vectors = args.text_vectors or default_store(args.runs, args.data)
    out = args.out / f"{args.table}.json"
    with processes.joined():
        table = reproduce(
            args.table,
            data=args.data,
            runs=args.runs,
            text_vectors=text_vectors,
            only=args.rows,
            out=out,
        )
        if processes.is_first():
            print(f"{table}\n\nwritten to {out}")


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training",
        description="From a dataset folder to a trained and evaluated recommender.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_data_commands(commands)
    for name, function, text in (
        ("run", run_all, "align, embed, fit, evaluate, report; finished steps are skipped"),
        ("align", run_align, "begin a run: tune the language model (where align.epochs > 0)"),
        ("embed", run_embed, "begin a run: turn its texts into vectors, only those that are new"),
    ):
        command = commands.add_parser(name, help=text, description=text, epilog=SETTINGS_HELP)
        _add_start(command)
        command.set_defaults(run=function)
    for name, function, text in (
        ("fit", run_fit, "train a run's model, or go on after an interruption"),
        ("evaluate", run_evaluate, "measure a fitted run beside the baselines"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument(
            "--run", type=Path, required=True, dest="run_folder", metavar="RUN", help="run folder"
        )
        command.set_defaults(run=function)
    report = commands.add_parser("report", help="print a run's metrics and write report.html")
    report.add_argument(
        "--run",
        type=Path,
        nargs="+",
        required=True,
        dest="run_folders",
        metavar="RUN",
        help="run folder; the model of further ones is compared with the first's",
    )
    report.add_argument("--out", type=Path, metavar="FILE", help="default: report.html in RUN")
    report.set_defaults(run=run_report)
    _add_compare(commands.add_parser("compare", help="paired differences of two evaluated runs"))
    _add_reproduce(commands.add_parser("reproduce", help="run a table of docs/results.md again"))
    return parser


def _add_compare(command: argparse.ArgumentParser) -> None:
    """Add what names two systems; the same run twice compares its model with a baseline."""
    add = command.add_argument
    for side in ("first", "second"):
        add(
            side,
            type=_runs,
            metavar="RUN[,RUN…]",
            help="run folder, or those of several seeds: the mean of each user is compared",
        )
    for side in ("first", "second"):
        add(
            f"--{side}-system",
            default="model",
            metavar="NAME",
            help=f"of the {side} run: model, or a baseline by its name (default: %(default)s)",
        )
    command.set_defaults(run=run_compare)


def _runs(text: str) -> tuple[Path, ...]:
    return tuple(Path(name) for name in text.split(","))


def _add_reproduce(command: argparse.ArgumentParser) -> None:
    """Add what a table needs; its rows' settings are data, in `training/quality_tables.py`."""
    add = command.add_argument
    add("table", choices=[*TABLES], metavar="TABLE", help=", ".join(TABLES))
    add("--data", type=Path, required=True, metavar="DIR", help="dataset folder")
    add("--runs", type=Path, required=True, metavar="DIR", help="where the run folders lie")
    add("--text-vectors", type=Path, metavar="DIR", help="default: text_vectors/ beside --runs")
    add(
        "--row",
        action="append",
        default=[],
        dest="rows",
        metavar="NAME",
        help="only this and the first",
    )
    add(
        "--out",
        type=Path,
        default=Path("benchmarks/results/quality"),
        metavar="DIR",
        help="where TABLE.json is written (default: %(default)s)",
    )
    command.set_defaults(run=run_reproduce)


def _add_start(command: argparse.ArgumentParser) -> None:
    """Add what describes a run."""
    add = command.add_argument
    add("--data", type=Path, required=True, metavar="DIR", help="dataset folder")
    add("--out", type=Path, required=True, metavar="RUN", help="run folder to make or go on with")
    add("--preset", choices=[*PRESETS], default="small", help="default: %(default)s")
    add(
        "--set",
        action="append",
        default=[],
        dest="assignments",
        metavar="SECTION.KEY=VALUE",
        help="change one setting of the preset; may be repeated",
    )
    add("--sample-users", type=int, metavar="N", help="learn from N random users only")
    add(
        "--text-vectors",
        type=Path,
        metavar="DIR",
        help="where text vectors are kept for this and later runs "
        "(default: text_vectors/ and the name of the dataset folder, beside RUN)",
    )
    add("--skip-bad-rows", action="store_true", help="leave bad rows out and list them")


def _start(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `start_run`."""
    return {
        "path": args.out,
        "config": _config(args),
        "data": args.data,
        "text_vectors": args.text_vectors or default_store(args.out, args.data),
        "skip_bad_rows": args.skip_bad_rows,
    }


def default_store(out: Path, data: Path) -> Path:
    """Beside the run, so that the next run finds it; by data set, as each needs its own basis."""
    return out.resolve().parent / "text_vectors" / data.resolve().name


def _config(args: argparse.Namespace) -> RunConfig:
    assignments = list(args.assignments)
    if args.sample_users is not None:
        assignments.append(f"data.sample_users={args.sample_users}")
    return PRESETS[args.preset].override(assignments)


if __name__ == "__main__":
    sys.exit(main())
