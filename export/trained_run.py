"""What a finished training run hands over to the export.

Shape suffix: V video rows.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsvcr.catalogue import Catalogue
from lsvcr.history import Timelines
from training.checkpoint import load_recommender
from training.config import RunConfig
from training.encoder import Recommender
from training.popularity_prior import PriorSeed, seed_prior
from training.run_folder import RunFolder
from training.run_texts import load_text
from training.split import Prepared, TextTables
from training.steps import load_prepared


@dataclass(frozen=True)
class TrainedRun:
    """The model with what it was trained on.

    Attributes:
        timelines: Of all users, held-out events included.
        recommender: In evaluation mode, on the CPU. The export zeroes ids that no event trained.
        training_events_V: Popularity of all time, without held-out events.
        prior_seed: Popularity of late, with them; None without a prior.
        comment_events: Comment events trained on.
        metrics: `metrics.json`.
    """

    config: RunConfig
    catalogue: Catalogue
    timelines: Timelines
    recommender: Recommender
    training_events_V: NDArray[np.int64]
    prior_seed: PriorSeed | None
    comment_events: int
    metrics: dict[str, Any]
    data_fingerprint: str

    @property
    def users(self) -> int:
        """Users with a timeline."""
        return len(self.timelines.video_start_U1) - 1


def open_run(path: Path, data: Path | None = None) -> TrainedRun:
    """Read the best model of a finished run, and its data again.

    Args:
        path: The run's folder.
        data: Where its dataset folder is now; None: where it was.

    Raises:
        DataError: If a step isn't finished, or the data isn't what the run learned from.
    """
    run = open_folder(path, data)
    prepared = load_prepared(run)
    return read_trained(run, prepared, load_text(run, prepared).tables)


def open_folder(path: Path, data: Path | None) -> RunFolder:
    """Open the folder of a finished run; arguments and errors as of `open_run`."""
    run = RunFolder.open(path)
    if data is not None:
        run = replace(run, source=replace(run.source, folder=str(data.resolve())))
    run.need("fit")
    return run


def read_trained(run: RunFolder, prepared: Prepared, text: TextTables) -> TrainedRun:
    """Read what training wrote, to the data and the text tables at hand."""
    metrics = run.read_metrics()
    return TrainedRun(
        config=run.config,
        catalogue=prepared.catalogue,
        timelines=prepared.timelines,
        recommender=load_recommender(run.path, run.config, text),
        training_events_V=prepared.training_events_V,
        prior_seed=seed_prior(prepared, run.config.model.prior_half_lives_days),
        comment_events=len(prepared.comment_targets("train")),
        metrics=metrics,
        data_fingerprint=run.source.fingerprint,
    )
