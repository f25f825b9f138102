"""The bundle's encoder and index as one would use them first, for the baselines beside it.

The same model, index and histories as the service's, read with `lsvcr`; no prior, no filters, no
experiments, no deadlines. `BUNDLE` names the bundle's folder, `STORE` the store's URL, `THREADS`
how many a session has.

Shape suffixes: B users, N video events, M comment events, K candidates, D width.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import faiss
import numpy as np
import onnxruntime as ort

from benchmarks.baselines.answer_models import Body
from benchmarks.baselines.whole_lists import with_whole_vectors
from lsvcr.bundle import ENCODER_GRAPH, load_bundle
from lsvcr.history import HistoryBatch, Timelines
from service.engine.queries import EventHistory
from service.history_value import decode_history
from service.settings import Settings
from service.store_keys import StoreKeys

STORE_URL = os.environ["STORE"]
MAX_EVENTS = Settings.model_fields["history_max_events"].default
PATH, READY = "/recommend/videos", "/health/ready"
TABLES = ("video_input_VD", "comment_video_input_VD", "comment_input_CD")


class PlainModel:
    """Answers some users together."""

    def __init__(self) -> None:
        folder = Path(os.environ["BUNDLE"])
        self._bundle = load_bundle(folder, verify_checksums=False)
        self._catalogue = self._bundle.catalogue
        options = ort.SessionOptions()
        options.intra_op_num_threads = int(os.environ["THREADS"])  # 0: as many as there are cores
        self._session = ort.InferenceSession(
            folder / ENCODER_GRAPH, options, providers=["CPUExecutionProvider"]
        )
        index = faiss.read_index(str(folder / "index" / "video.faiss"))
        if isinstance(index, faiss.IndexIVFPQ):  # a plain search of shortened vectors finds too few
            index = with_whole_vectors(index, self._bundle.tables["video_candidate_VD"])
        self._index = index
        self._tables = {name: self._bundle.tables[name] for name in TABLES}
        self._keys = StoreKeys(Settings.model_fields["store_shards"].default)

    def key(self, user_id: str) -> str:
        """Where the store keeps a user's history."""
        return self._keys.history(user_id)

    def answer(
        self, bodies: Sequence[Body], values: Sequence[bytes | None]
    ) -> list[dict[str, object]]:
        """Answer some requests, given what the store has of their users."""
        histories = [
            None if value is None else decode_history(value, max_events=MAX_EVENTS)
            for value in values
        ]
        known = [history for history in histories if history is not None]
        if not known:
            return [{"user_id": body.user_id, "items": []} for body in bodies]
        video_BN = [self._catalogue.video_index.rows(one.video_hash_N) for one in known]
        inputs = self._inputs(known, video_BN)
        [preference_BD] = self._session.run(
            ["video_preference"], {**inputs.arrays(), **self._tables}
        )
        fetched = max(body.k for body in bodies) + max(map(len, video_BN))
        score_BK, row_BK = self._index.search(preference_BD, fetched)
        found = zip(score_BK.tolist(), row_BK.tolist(), video_BN, strict=True)
        return [
            {
                "user_id": body.user_id,
                "items": [] if one is None else self._items(body.k, *next(found)),
            }
            for body, one in zip(bodies, histories, strict=True)
        ]

    def _inputs(
        self, histories: Sequence[EventHistory], video_BN: Sequence[np.ndarray]
    ) -> HistoryBatch:
        users = np.arange(len(histories))
        comment_BM = [self._catalogue.comment_index.rows(one.comment_hash_M) for one in histories]
        comment_C = np.concatenate(comment_BM)
        return Timelines.build(
            users=len(histories),
            video_user_N=np.repeat(users, list(map(len, video_BN))),
            video_N=np.concatenate(video_BN),
            video_time_N=np.concatenate([one.video_timestamp_N for one in histories]),
            comment_user_C=np.repeat(users, list(map(len, comment_BM))),
            comment_C=comment_C,
            comment_video_C=self._catalogue.comment_video_C[comment_C],
            comment_time_C=np.concatenate([one.comment_timestamp_M for one in histories]),
            comments_per_event=self._bundle.manifest.comments_per_event,
        ).latest_windows(self._bundle.manifest.max_history)

    def _items(
        self, k: int, score_K: list[float], row_K: list[int], video_N: np.ndarray
    ) -> list[dict[str, object]]:
        seen = set(video_N.tolist())
        best = [
            (row, score)
            for row, score in zip(row_K, score_K, strict=True)
            if row > 0 and row not in seen
        ][:k]
        return [
            {
                "video_id": self._catalogue.video_id[row],
                "rank": rank,
                "score": score,
                "title": self._catalogue.video_title[row],
            }
            for rank, (row, score) in enumerate(best, start=1)
        ]
