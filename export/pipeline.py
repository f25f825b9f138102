"""From a trained run to a published bundle, and from that one to one with newer items."""

import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from export.added_items import add_items
from export.bundle_writer import Step, complete_bundle, write_bundle
from export.candidate_index import IndexOptions
from export.publish import new_version, publishing, remove_old, staged
from export.trained_run import TrainedRun, open_folder, read_trained
from export.verify import verify_bundle
from lsvcr.bundle import Manifest, load_bundle
from lsvcr.errors import BundleError
from lsvcr.registry import read_current, write_current
from training.new_items import describe_new_items, items_beyond, load_new_items
from training.run_texts import load_text
from training.steps import load_prepared

WriteBundle = Callable[..., Manifest]
"""`write_bundle`, or what does the same from a bundle that is there."""


def export_run(
    run: TrainedRun,
    registry: Path,
    *,
    options: IndexOptions,
    activate: bool,
    keep: int,
    step: Step,
    write: WriteBundle = write_bundle,
) -> Path:
    """Write a bundle, verify and publish it; returns its folder.

    Raises:
        BundleError: If it can't be written or isn't as it should be; then nothing is published.
    """
    created_at = datetime.now(UTC)
    version = new_version(created_at, run.data_fingerprint)
    with publishing(registry):
        with staged(registry, version) as folder:
            write(run, folder, version=version, created_at=created_at, options=options, step=step)
            with step("verification"):
                verify_bundle(folder)
        print(f"published {registry / version}")
        if activate:
            write_current(registry, version)
            print(f"current version: {version}")
        for removed in remove_old(registry, keep):
            print(f"removed {removed}")
    return registry / version


def export_added(
    run_folder: Path,
    data: Path | None,
    items: Path,
    registry: Path,
    *,
    options: IndexOptions,
    activate: bool,
    keep: int,
    step: Step,
) -> Path | None:
    """Publish the registry's current bundle with newer items in it; None where none is new.

    Args:
        run_folder, data: The run that the bundle was exported from, and its data.
        items: As `training.new_items.load_new_items` reads them.

    Raises:
        BundleError: If there is no such bundle, or it is another run's.
        DataError: If the items are wrong, or their texts can't be embedded as the run's were.
    """
    current = read_current(registry)
    if current is None:
        raise BundleError(f"registry {registry} has no current version to add to: export the run")
    with step("current bundle"):
        bundle = load_bundle(registry / current.version)
        new = load_new_items(items, bundle.catalogue)
    if not len(new):
        print(f"nothing new: {current.version} has all of these items")
        return None
    with step("run"):
        run = open_folder(run_folder, data)
        config = run.config.model_dump(mode="json")
        fingerprint = bundle.manifest.data_fingerprint
        if (fingerprint, bundle.manifest.config) != (run.source.fingerprint, config):
            raise BundleError(f"version {current.version} wasn't exported from {run_folder}")
        prepared = load_prepared(run)
        text = load_text(run, prepared).tables
    print(f"new: {len(new.videos):,} videos, {len(new.comments):,} comments")
    all_new = new.after(items_beyond(bundle.catalogue, prepared.catalogue))
    new_text = describe_new_items(run, prepared, all_new)
    grown = add_items(read_trained(run, prepared, text), all_new, new_text)

    def write(run: TrainedRun, folder: Path, **how: object) -> Manifest:
        for name in bundle.manifest.files:
            if name.endswith(".onnx"):  # graphs know no items: tables are their inputs
                _link(bundle.folder / name, folder / name)
        return complete_bundle(run, folder, **how)

    return export_run(
        grown, registry, options=options, activate=activate, keep=keep, step=step, write=write
    )


def _link(source: Path, target: Path) -> None:
    """The same bytes under another name; where links can't be had, a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
