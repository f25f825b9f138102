"""`python -m training data demo|import|check|update`: make, convert, check and renew data."""

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
from rich.console import Console
from rich.table import Table

from lsvcr.errors import DataError
from training.data_description import describe
from training.dataset_folder import (
    Dataset,
    fingerprint,
    load_dataset,
    refuse_target,
    write_dataset,
)
from training.demo_world import build_demo_world, midnight_before
from training.importers.gatherer import import_gatherer
from training.importers.kuaicomt import import_kuaicomt
from training.importers.movielens import import_movielens

IMPORTERS = {
    "folder": load_dataset,
    "gatherer": import_gatherer,
    "kuaicomt": import_kuaicomt,
    "movielens": import_movielens,
}
MOST_SKIPPED_SHOWN = 20

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_data_commands(subparsers: "Subparsers") -> None:
    """Add `data` with its sub-commands; each sets `run`, a function of the parsed arguments."""
    data = subparsers.add_parser(
        "data",
        help="make, convert and check dataset folders",
        description="Make, convert and check dataset folders. Their tables: docs/data.md.",
    )
    commands = data.add_subparsers(required=True, metavar="COMMAND")
    _add_demo(commands)
    _add_import(commands)
    _add_check(commands)
    _add_update(commands)


def _add_demo(commands: "Subparsers") -> None:
    demo = commands.add_parser("demo", help="generate the demo world")
    demo.add_argument("--videos", type=int, default=1000, help="default: %(default)s")
    demo.add_argument("--comments", type=int, default=4000, help="default: %(default)s")
    demo.add_argument("--users", type=int, default=600, help="default: %(default)s")
    demo.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    _add_target(demo)
    demo.set_defaults(run=run_demo)


def _add_import(commands: "Subparsers") -> None:
    importer = commands.add_parser(
        "import",
        help="convert and check a data set",
        description="Convert a data set to a checked dataset folder of Parquet files. The source "
        "`folder` is a dataset folder of your own, as CSV, CSV.gz or Parquet.",
    )
    importer.add_argument("source", choices=[*IMPORTERS], help="what the data set is")
    importer.add_argument("path", type=Path, help="the folder it lies in")
    importer.add_argument(
        "--skip-bad-rows",
        action="store_true",
        help="leave bad rows out, with what refers to them, and list them",
    )
    importer.add_argument(
        "--long-view",
        action="store_true",
        help="kuaicomt: videos watched long are video events, too, not only liked ones",
    )
    importer.add_argument(
        "--replies",
        action="store_true",
        help="gatherer: answering a comment is an event on that comment, too",
    )
    _add_target(importer)
    importer.set_defaults(run=run_import)


def _add_check(commands: "Subparsers") -> None:
    check = commands.add_parser("check", help="check a dataset folder and print its counts")
    check.add_argument("path", type=Path, metavar="DIR", help="the dataset folder")
    check.add_argument(
        "--skip-bad-rows", action="store_true", help="list all bad rows instead of the first"
    )
    check.set_defaults(run=run_check)


def _add_update(commands: "Subparsers") -> None:
    update = commands.add_parser(
        "update", help="put newer videos and comments into a dataset folder"
    )
    update.add_argument("path", type=Path, metavar="DIR", help="the dataset folder, as Parquet")
    update.add_argument(
        "--items",
        type=Path,
        required=True,
        help="folder with the tables videos and comments, or one of these files; an item that is "
        "known already is replaced",
    )
    update.set_defaults(run=run_update)


def _add_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="the dataset folder to write"
    )
    parser.add_argument(
        "--force", action="store_true", help="replace a dataset folder that is there already"
    )


def run_demo(args: argparse.Namespace) -> int:
    """Generate the demo world, up to last midnight, and write it."""
    refuse_target(args.out, overwrite=args.force)
    dataset = build_demo_world(
        videos=args.videos,
        comments=args.comments,
        users=args.users,
        seed=args.seed,
        end_ms=midnight_before(time.time_ns() // 1_000_000),
    )
    return _write(dataset, args)


def run_import(args: argparse.Namespace) -> int:
    """Convert a data set and write it.

    Raises:
        DataError: At what is wrong with the source or the target.
    """
    options = {}
    for option, source in (("long_view", "kuaicomt"), ("replies", "gatherer")):
        if getattr(args, option):
            if args.source != source:
                flag = option.replace("_", "-")
                raise DataError(f"--{flag} belongs to {source} (found {args.source})")
            options[option] = True
    refuse_target(args.out, overwrite=args.force)
    dataset = IMPORTERS[args.source](args.path, skip_bad_rows=args.skip_bad_rows, **options)
    return _write(dataset, args)


def run_check(args: argparse.Namespace) -> int:
    """Check a dataset folder; 1 if bad rows were found but left out."""
    dataset = load_dataset(args.path, skip_bad_rows=args.skip_bad_rows)
    _print(dataset)
    facts, advice = describe(dataset)
    table = Table(show_header=False, title="what it looks like")
    for fact in facts:
        table.add_row(*fact)
    console = Console()
    console.print(table)
    for sentence in advice:
        console.print(f"• {sentence}", highlight=False)
    print(f"content: {fingerprint(dataset)}")
    return 1 if len(dataset.skipped) else 0


def run_update(args: argparse.Namespace) -> int:
    """Put newer items into a dataset folder.

    Raises:
        DataError: At what is wrong with the items.
    """
    from training.new_items import update_items

    items = update_items(args.path, args.items)
    print(f"put in: {len(items.videos):,} videos, {len(items.comments):,} comments")
    return 0


def _write(dataset: Dataset, args: argparse.Namespace) -> int:
    write_dataset(dataset, args.out, overwrite=args.force)
    _print(dataset)
    print(f"written to {args.out}")
    return 0


def _print(dataset: Dataset) -> None:
    """Print what a data set holds and what was left out of it."""
    console = Console()
    table = Table("table", "rows", "users", "first", "last", title=dataset.source)
    for name, rows in dataset.counts().items():
        frame = getattr(dataset, name)
        users = f"{frame['user_id'].n_unique():,}" if "user_id" in frame.columns else ""
        first, last = _span(frame, dataset.time_unit)
        table.add_row(name, f"{rows:,}", users, first, last)
    console.print(table)
    if not len(dataset.skipped):
        return
    skipped = Table("file", "row", "column", "value", "reason", title="left out")
    for file, row, column, value, reason in dataset.skipped.head(MOST_SKIPPED_SHOWN).iter_rows():
        skipped.add_row(Path(file).name, f"{row:,}", column, value or "", reason)
    console.print(skipped)
    by_reason = dataset.skipped.group_by("file", "column", "reason").len().sort("len", "file")
    for file, column, reason, rows in by_reason.iter_rows():
        print(f"left out {rows:,} rows of {Path(file).name}: {column} {reason}")


def _span(frame: pl.DataFrame, time_unit: str) -> tuple[str, str]:
    """First and last day of a table's events."""
    if "timestamp" not in frame.columns or time_unit != "ms" or not len(frame):
        return "", ""
    times = frame["timestamp"].cast(pl.Datetime("ms"))
    return str(times.min())[:10], str(times.max())[:10]
