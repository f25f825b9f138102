import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from export.candidate_index import IndexOptions
from export.item_vectors import forget_untrained_ids
from export.pipeline import export_run
from export.trained_run import TrainedRun
from lsvcr.registry import read_current
from tests.export.invented_run import COMMENTS, USERS, VIDEOS, invent_run, quiet


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors, several thread pools: waiting for one another would cost most of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def run() -> TrainedRun:
    """As an export leaves it: it may be another process of `pytest -n` that exports."""
    run = invent_run(videos=VIDEOS, comments=COMMENTS, users=USERS)
    forget_untrained_ids(run.recommender, run.training_events_V > 0)
    return run


@pytest.fixture(scope="session")
def bundle_folder(run: TrainedRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published bundle: exporting graphs takes long, so every test shares it. Don't change it.

    So do the processes of `pytest -n`: the others wait for the first one.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    registry = folder / "exported"
    registry.mkdir(exist_ok=True)
    with (folder / "exported.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        current = read_current(registry)
        if current is not None:
            return registry / current.version
        options = IndexOptions()
        return export_run(run, registry, options=options, activate=True, keep=3, step=quiet)
