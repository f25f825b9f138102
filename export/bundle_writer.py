"""A trained run as a bundle folder (`lsvcr.bundle`), checked against the model on the way.

Shape suffixes: V video rows, B histories, T target videos, D model width, Q queries.
"""

import logging
import platform
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from export.candidate_index import IndexOptions, build_index, write_index
from export.encoder_graph import export_graphs
from export.encoder_weights import lay_out_weights, shape_of
from export.item_vectors import build_profile_table, build_tables, forget_untrained_ids, query_norm
from export.parity import BundleGraphs, build_golden, invent_histories, measure_parity
from export.trained_run import TrainedRun
from lsvcr.bundle import (
    ENCODER_GRAPH,
    ENCODER_WEIGHTS,
    FORMAT,
    HALF_GRAPH,
    HALF_VIDEOS_GRAPH,
    MANIFEST,
    PROFILE_TABLE,
    Counts,
    IndexEntry,
    Manifest,
    PopularVideos,
    PriorEntry,
    ProfileEntry,
    describe_files,
)
from lsvcr.catalogue import Catalogue
from lsvcr.errors import BundleError
from lsvcr.history import NEVER
from training.popularity_prior import PriorSeed

LIBRARIES = ("lsvcr", "numpy", "torch", "onnx", "onnxscript", "onnxruntime", "faiss")
INDEX_FILES = {"video": "video.faiss", "comment": "comment.faiss"}
QUERY_USERS = 1_000
QUERY_BATCH = 100

FloatArray = NDArray[np.float32]

logger = logging.getLogger(__name__)


class Step(Protocol):
    """Tells somebody what is being done, for as long as it is being done."""

    def __call__(self, title: str) -> AbstractContextManager[None]:
        """Enter when the step begins, leave when it is done."""


def write_bundle(
    run: TrainedRun,
    folder: Path,
    *,
    version: str,
    created_at: datetime,
    options: IndexOptions,
    step: Step,
) -> Manifest:
    """Write a bundle into an existing, empty folder.

    Args:
        run: The trained model and the data it was trained on.
        folder: Not yet visible to anybody (`export.publish`).
        version: The bundle's name in the registry.
        created_at: With time zone.
        options: How indexes are chosen.
        step: Shows progress.

    Raises:
        BundleError: If a graph is invalid or answers other than the model.
    """
    with step("graphs"):
        model = run.config.model
        sequence = run.recommender.sequence
        export_graphs(sequence, folder, comments_per_event=model.comments_per_event)
    return complete_bundle(
        run, folder, version=version, created_at=created_at, options=options, step=step
    )


def complete_bundle(
    run: TrainedRun,
    folder: Path,
    *,
    version: str,
    created_at: datetime,
    options: IndexOptions,
    step: Step,
) -> Manifest:
    """Add all the rest to a folder that has the graphs; as `write_bundle`."""
    for name in ("tables", "index", "catalogue", "popular", "golden"):
        (folder / name).mkdir()
    recommender, model = run.recommender, run.config.model
    popular_comment_V = run.catalogue.popular_comment()
    with step("catalogue and popular videos"):
        run.catalogue.save(folder / "catalogue")
        popular = rank_popular(run.training_events_V, run.catalogue, run.prior_seed)
        popular.save(folder / "popular")
    with step("tables"):
        forget_untrained_ids(recommender, run.training_events_V > 0)
        tables = build_tables(recommender, popular_comment_V)
        for name, table in tables.items():
            np.save(folder / "tables" / f"{name}.npy", table, allow_pickle=False)
        if recommender.profile is not None:
            profile_CF = build_profile_table(recommender.profile)
            np.save(folder / PROFILE_TABLE, profile_CF, allow_pickle=False)
    with step("parity with the trained model"):
        samples = invent_histories(
            run.catalogue,
            max_history=model.max_history,
            comments_per_event=model.comments_per_event,
            seed=run.config.fit.seed,
        )
        shape = shape_of(model)
        graphs = BundleGraphs(folder, tables)
        parity = {ENCODER_GRAPH: measure_parity(recommender, popular_comment_V, graphs, samples)}
        if shape is not None:  # queries are made with the faster one
            weight_W = lay_out_weights(recommender.sequence)
            np.save(folder / ENCODER_WEIGHTS, weight_W, allow_pickle=False)
            graphs = BundleGraphs(folder, tables, ENCODER_WEIGHTS, shape)
            measured = measure_parity(recommender, popular_comment_V, graphs, samples)
            parity[ENCODER_WEIGHTS] = measured
        half = BundleGraphs(folder, tables, HALF_GRAPH)
        try:
            parity[HALF_GRAPH] = measure_parity(recommender, popular_comment_V, half, samples)
        except BundleError as error:  # a model with numbers that half precision can't tell apart
            logger.warning("%s: left out, a GPU runs %s", error, ENCODER_GRAPH)
            for name in (HALF_GRAPH, HALF_VIDEOS_GRAPH):
                (folder / name).unlink()
        golden = build_golden(recommender, popular_comment_V, samples, tables["video_candidate_VD"])
        golden.save(folder / "golden")
    with step("indexes"):
        indexes = _write_indexes(
            run, graphs, tables, golden.video_preference_BD, folder / "index", options
        )
    with step("manifest"):
        prior, repeat_logit = _prior_entry(run), _repeat_logit(run)
        profile = _profile_entry(run)
        beside = {"prior": prior, "repeat": repeat_logit, "profile": profile}
        manifest = Manifest(
            format=FORMAT,
            version=version,
            created_at=created_at.astimezone(UTC).isoformat(timespec="seconds"),
            width=model.width,
            max_history=model.max_history,
            comments_per_event=model.comments_per_event,
            temperature=model.temperature,
            encoder=shape,
            query_norm=query_norm(tables["video_query_VD"]),
            score_parts=("encoder", *(name for name, part in beside.items() if part is not None)),
            prior=prior,
            repeat_logit=repeat_logit,
            profile=profile,
            counts=_counts(run),
            indexes=indexes,
            files=describe_files(folder),
            data_fingerprint=run.data_fingerprint,
            data_until_ms=_newest_event_ms(run),
            config=run.config.model_dump(mode="json"),
            metrics={**run.metrics, "parity": parity},
            libraries=_libraries(),
        )
        (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return manifest


def rank_popular(
    training_events_V: NDArray[np.int64], catalogue: Catalogue, prior_seed: PriorSeed | None
) -> PopularVideos:
    """All videos by training events, the lower row first where they are equal."""
    overall_P = np.argsort(-training_events_V[1:], kind="stable") + 1
    category_P = catalogue.category_V[overall_P]
    by_category_Q = overall_P[np.argsort(category_P, kind="stable")]
    events = np.bincount(category_P, minlength=len(catalogue.categories))
    return PopularVideos(
        overall_P=overall_P.astype(np.int32),
        by_category_Q=by_category_Q.astype(np.int32),
        category_start=np.concatenate([[0], np.cumsum(events)]).astype(np.int64),
        decayed_count_HV=(
            np.zeros((0, catalogue.video_count), np.float32)
            if prior_seed is None
            else prior_seed.decayed_count_HV
        ),
    )


def _prior_entry(run: TrainedRun) -> PriorEntry | None:
    if run.prior_seed is None:
        return None
    return PriorEntry(
        half_lives_days=run.config.model.prior_half_lives_days,
        network=run.recommender.prior.network(),
        seed_hour=run.prior_seed.hour,
    )


def _repeat_logit(run: TrainedRun) -> float | None:
    repeat = run.recommender.repeat
    return None if repeat is None else (repeat.cosine / repeat.temperature).item()


def _profile_entry(run: TrainedRun) -> ProfileEntry | None:
    profile = run.recommender.profile
    if profile is None:
        return None
    return ProfileEntry(
        scale=profile.scale.item(),
        scale_by_count=profile.scale_by_count.item(),
        events=run.config.model.profile_events,
    )


def _write_indexes(
    run: TrainedRun,
    graphs: BundleGraphs,
    tables: dict[str, FloatArray],
    golden_preference_BD: FloatArray,
    folder: Path,
    options: IndexOptions,
) -> dict[str, IndexEntry]:
    """Real users ask; so do the golden histories, whose best videos a service checks."""
    video_query_QD, comment_query_QD = _queries(run, graphs, tables, options.seed)
    asked = {
        "video": (tables["video_candidate_VD"], [video_query_QD, golden_preference_BD]),
        "comment": (tables["comment_candidate_CD"], [comment_query_QD]),
    }
    entries = {}
    for kind, (candidate_ND, askers) in asked.items():
        index, entries[kind] = build_index(candidate_ND, askers, options)
        write_index(index, folder / INDEX_FILES[kind])
    return entries


def _queries(
    run: TrainedRun, graphs: BundleGraphs, tables: dict[str, FloatArray], seed: int
) -> tuple[FloatArray, FloatArray]:
    """What a sample of real users would ask of either index.

    Over all comments, the user's video preference stands in for the target video, as in serving.
    """
    norm = query_norm(tables["video_query_VD"])
    user_Q = np.random.default_rng(seed).permutation(run.users)[:QUERY_USERS]
    videos, comments = [], []
    for start in range(0, len(user_Q), QUERY_BATCH):
        user_B = user_Q[start : start + QUERY_BATCH]
        cut_B = np.full(len(user_B), NEVER)
        max_history = run.config.model.max_history
        history = run.timelines.windows_before(user_B, cut_B, max_history)
        first_B1 = np.ones((len(user_B), 1), np.int32)  # any target: the encoder doesn't read it
        preference_BD = graphs.answer(history, first_B1).video_preference_BD
        answers = graphs.answer_vectors(history, preference_BD[:, None] * np.float32(norm))
        videos.append(preference_BD)
        comments.append(answers.comment_preference_BTD[:, 0])
    return np.concatenate(videos), np.concatenate(comments)


def _newest_event_ms(run: TrainedRun) -> int | None:
    times = (run.timelines.video_time_N, run.timelines.comment_time_M)
    return max((int(time_N.max()) for time_N in times if len(time_N)), default=None)


def _counts(run: TrainedRun) -> Counts:
    return Counts(
        videos=run.catalogue.video_count - 1,
        comments=run.catalogue.comment_count - 1,
        users=run.users,
        video_events=int(run.training_events_V.sum()),
        comment_events=run.comment_events,
    )


def _libraries() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        **{name: import_module(name).__version__ for name in LIBRARIES},
    }
