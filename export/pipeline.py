"""From a trained run to a published bundle."""

from datetime import UTC, datetime
from pathlib import Path

from export.bundle_writer import Step, write_bundle
from export.candidate_index import IndexOptions
from export.publish import new_version, publishing, remove_old, staged
from export.trained_run import TrainedRun
from export.verify import verify_bundle
from lsvcr.registry import write_current


def export_run(
    run: TrainedRun,
    registry: Path,
    *,
    options: IndexOptions,
    activate: bool,
    keep: int,
    step: Step,
) -> Path:
    """Write a bundle, verify and publish it; returns its folder.

    Raises:
        BundleError: If it can't be written or isn't as it should be; then nothing is published.
    """
    created_at = datetime.now(UTC)
    version = new_version(created_at, run.data_fingerprint)
    with publishing(registry):
        with staged(registry, version) as folder:
            write_bundle(
                run, folder, version=version, created_at=created_at, options=options, step=step
            )
            with step("verification"):
                verify_bundle(folder)
        print(f"published {registry / version}")
        if activate:
            write_current(registry, version)
            print(f"current version: {version}")
        for removed in remove_old(registry, keep):
            print(f"removed {removed}")
    return registry / version
