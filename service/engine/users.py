"""Encodes the histories of one batch of queries.

Shape suffixes: B users, I and J slots of the video and comment side, K comments a slot, D width.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lsvcr.bundle import Bundle
from service.engine.encoder_session import CpuEncoder
from service.engine.known_events import KnownEvents, build_timelines, count_used, find_events
from service.engine.profile_similarity import Profile, ProfileSimilarity
from service.engine.queries import EventHistory

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EncodedHistory:
    """One row of an encoded batch.

    Attributes:
        video_preference_D: Unit vector.
        video_I: Video rows by slot, 0 where there is no event.
        video_share_I: Attention over the video slots.
        comment_JK: Comment rows by slot, newest first, 0 where there are none.
        comment_last_J: The comment head's mask.
        comment_state_JD: The comment head's input; empty where no comments are asked for.
        profile: Where comments are asked for and the bundle has profiles.
        used: Events that were read: (videos, comments).
    """

    video_preference_D: NDArray[np.float32]
    video_I: NDArray[np.int32]
    video_share_I: NDArray[np.float32]
    comment_JK: NDArray[np.int32]
    comment_last_J: NDArray[np.int32]
    comment_state_JD: NDArray[np.float32]
    profile: Profile | None
    used: tuple[int, int]


@dataclass(frozen=True, slots=True)
class User:
    """Whom one query is answered for.

    Attributes:
        encoded: None where nothing is known of the user, or the encoder failed.
        degraded: `("encoder",)` where it failed.
    """

    events: KnownEvents
    encoded: EncodedHistory | None = None
    degraded: tuple[str, ...] = ()

    @property
    def used(self) -> tuple[int, int]:
        """Events that reached the encoder: (videos, comments)."""
        return (0, 0) if self.encoded is None else self.encoded.used


def encode_users(
    histories: Sequence[EventHistory | None],
    bundle: Bundle,
    encoder: CpuEncoder,
    similarity: ProfileSimilarity | None,
    *,
    with_comments: bool,
) -> list[User]:
    """Look up and encode histories, all in one run; a history that fails fails alone."""
    users = [User(events) for events in find_events(histories, bundle.catalogue)]
    known_B = [position for position, user in enumerate(users) if not user.events.is_empty]
    if not known_B:
        return users
    try:
        encoded = _encode(
            [users[position].events.newest() for position in known_B],
            bundle,
            encoder,
            similarity,
            with_comments,
        )
    except Exception:  # whatever the runtime or the driver throws
        logger.exception("encoding %d histories failed", len(known_B))
        if len(known_B) > 1:
            return [
                encode_users([history], bundle, encoder, similarity, with_comments=with_comments)[0]
                for history in histories
            ]
        encoded = [None]
    for position, row in zip(known_B, encoded, strict=True):
        degraded = () if row is not None else ("encoder",)
        users[position] = User(users[position].events, row, degraded)
    return users


def _encode(
    users: Sequence[KnownEvents],
    bundle: Bundle,
    encoder: CpuEncoder,
    similarity: ProfileSimilarity | None,
    with_comments: bool,
) -> list[EncodedHistory | None]:
    timelines = build_timelines(
        users, bundle.catalogue, comments_per_event=bundle.manifest.comments_per_event
    )
    history = timelines.latest_windows(bundle.manifest.max_history)
    profiles: list[Profile | None] = [None] * len(users)
    if similarity is not None and with_comments:
        profiles = [*similarity.profiles(timelines)]
    encoding = encoder.encode(history, with_comments=with_comments)
    used_B = count_used(history)
    return [
        EncodedHistory(
            video_preference_D=preference_D,
            video_I=history.video_BI[row],
            video_share_I=encoding.video_share_BI[row],
            comment_JK=history.comment_BJK[row],
            comment_last_J=history.comment_last_BJ[row],
            comment_state_JD=encoding.comment_state_BJD[row],
            profile=profiles[row],
            used=used_B[row],
        )
        if np.isfinite(preference_D).all()
        else None
        for row, preference_D in enumerate(encoding.video_preference_BD)
    ]
