"""`python -m export`: a finished training run becomes a published bundle."""

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from export.publish import MIN_KEPT
from lsvcr.bundle import load_manifest
from lsvcr.errors import LsvcrError
from lsvcr.registry import list_versions, read_current

if TYPE_CHECKING:
    from export.candidate_index import IndexOptions


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = build_parser()
    args = parser.parse_args(arguments)
    try:
        if args.command == "verify":
            verify(args.bundle)
        elif args.command == "list":
            print_versions(args.registry)
        elif args.command == "add":
            add(args)
        elif args.run is None or args.registry is None:
            parser.error("--run and --registry are needed")
        else:
            export(args)
    except LsvcrError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; nothing was published", file=sys.stderr)
        return 130
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m export",
        description="Write, verify and publish a bundle from a finished training run.",
    )
    parser.add_argument("--run", type=Path, help="the run's folder")
    parser.add_argument("--registry", type=Path, help="where bundles are published")
    _add_publishing_options(parser)
    commands = parser.add_subparsers(dest="command", title="other commands", metavar="COMMAND")
    check = commands.add_parser("verify", help="check a bundle's files and answers")
    check.add_argument("bundle", type=Path, help="the bundle's folder")
    versions = commands.add_parser("list", help="list a registry's versions")
    # SUPPRESS: a subcommand's default would replace what was given before it.
    versions.add_argument("--registry", type=Path, required=True, default=argparse.SUPPRESS)
    newer = commands.add_parser("add", help="add items that came after the training")
    newer.add_argument(
        "--items",
        type=Path,
        required=True,
        help="folder with the tables videos and comments, or one of these files; what is known "
        "already is left out",
    )
    newer.add_argument("--run", type=Path, required=True, help="whose model the bundle has")
    newer.add_argument("--registry", type=Path, required=True, help="its current bundle grows")
    _add_publishing_options(newer)
    return parser


def _add_publishing_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, help="dataset folder, if it isn't where it was")
    parser.add_argument("--activate", action="store_true", help="make it the current version")
    parser.add_argument(
        "--keep",
        type=_kept,
        default=MIN_KEPT,
        metavar="N",
        help=f"versions kept in the registry, at least {MIN_KEPT} (default {MIN_KEPT})",
    )
    parser.add_argument(
        "--flat-below",
        type=_positive,
        metavar="N",
        help="fewer candidates are searched exactly, more by inverted lists (default 200000)",
    )
    parser.add_argument(
        "--nlist",
        type=_positive,
        metavar="N",
        help="how many inverted lists (default 4·√candidates)",
    )


def export(args: argparse.Namespace) -> None:
    """Export one run as the command line says."""
    # torch takes seconds to import, which --help and `list` must not wait for
    import torch

    from export.pipeline import export_run
    from export.trained_run import open_run

    torch.set_num_threads(1)  # histories are small: threads would mostly wait for one another
    with show_step("run"):
        run = open_run(args.run, args.data)
    export_run(
        run,
        args.registry,
        options=_index_options(args),
        activate=args.activate,
        keep=args.keep,
        step=show_step,
    )


def add(args: argparse.Namespace) -> None:
    """Publish the current bundle with newer items in it."""
    import torch

    from export.pipeline import export_added

    torch.set_num_threads(1)
    export_added(
        args.run,
        args.data,
        args.items,
        args.registry,
        options=_index_options(args),
        activate=args.activate,
        keep=args.keep,
        step=show_step,
    )


def _index_options(args: argparse.Namespace) -> "IndexOptions":
    from export.candidate_index import IndexOptions

    chosen = {"flat_below": args.flat_below, "nlist": args.nlist}
    return IndexOptions(**{name: value for name, value in chosen.items() if value is not None})


def verify(bundle: Path) -> None:
    """Check a bundle and say what it is."""
    from export.verify import verify_bundle

    with show_step("verification"):
        manifest = verify_bundle(bundle)
    counts = manifest.counts
    print(f"{manifest.version}: {counts.videos:,} videos, {counts.comments:,} comments")
    for kind, entry in sorted(manifest.indexes.items(), reverse=True):
        probes = f", nprobe {entry.nprobe}" if entry.nprobe else ""
        print(f"{kind} index: {entry.kind}{probes}, recall@100 {entry.recall_at_100:.4f}")


def print_versions(registry: Path) -> None:
    """List versions, oldest first, and mark the current one."""
    current = read_current(registry)
    for version in list_versions(registry):
        manifest = load_manifest(registry / version)
        mark = "*" if current and current.version == version else " "
        counts = manifest.counts
        print(
            f"{mark} {version}  {manifest.created_at}  "
            f"{counts.videos:,} videos  {counts.comments:,} comments"
        )


@contextmanager
def show_step(title: str) -> Iterator[None]:
    """Print what is being done and how long it took."""
    print(f"{title} … ", end="", flush=True)
    started_s = time.monotonic()
    try:
        yield
    except BaseException:
        print("failed")
        raise
    print(f"{time.monotonic() - started_s:.1f} s", flush=True)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _kept(text: str) -> int:
    keep = int(text)
    if keep < MIN_KEPT:
        raise argparse.ArgumentTypeError(f"at least {MIN_KEPT} versions are kept")
    return keep


if __name__ == "__main__":
    sys.exit(main())
