"""Encodes the histories of one batch of queries.

Shape suffixes: B users, A of them whose comments are asked for, I and J slots of the video and
comment side, K comments a slot, F numbers of a profile, D width, X of a target and one more.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from lsvcr.errors import LsvcrError
from lsvcr.history import HistoryBatch, LatestHistories
from service.engine.candidate_index import Candidates
from service.engine.engine import OpenBundle
from service.engine.first_look import CommentLook, CommentTastes, FirstLook
from service.engine.known_events import KnownBatch, KnownEvents
from service.engine.profile_similarity import Profile, ProfileSimilarity
from service.errors import EngineFailedError, EngineLostError

logger = logging.getLogger(__name__)


class CommentAsked(msgspec.Struct, frozen=True, eq=False):
    """What is asked about one user's comments.

    Attributes:
        target_X: float32; a vector for the comment head to look for, and how much of the user's own
            preference comes to it.
        count: Of all comments, how many candidates to fetch.
        count_with_profile: The same for a user who has a profile.
    """

    target_X: NDArray[np.float32]
    count: int = 0
    count_with_profile: int = 0


class Asked(msgspec.Struct, frozen=True, eq=False):
    """What is asked about one user.

    Attributes:
        videos: Candidates to fetch.
        weight: Of the prior in choosing these.
        comments: None where nobody asks for any.
    """

    videos: int = 0
    weight: float = 0.0
    comments: CommentAsked | None = None


class CommentTaste(msgspec.Struct, frozen=True, eq=False):
    """What the comment head said of one user and one target.

    Attributes:
        fetched: The comments nearest to the preference, as many as were asked for.
    """

    preference_D: NDArray[np.float32]
    share_J: NDArray[np.float32]
    fetched: Candidates | None = None


class EncodedHistory(msgspec.Struct, frozen=True, eq=False):
    """One row of an encoded batch.

    Attributes:
        video_preference_D: Unit vector.
        video_I: Video rows by slot, 0 where there is no event.
        video_share_I: Attention over the video slots.
        comment_JK: Comment rows by slot, newest first, 0 where there are none.
        comment_last_J: The comment head's mask.
        comment_state_JD: The comment head's input; empty where it isn't asked for.
        taste: Where comments are asked for.
        profile: Where comments are asked for and the bundle has profiles.
        candidates: The videos nearest to the preference.
        used: Events that were read: (videos, comments).
    """

    video_preference_D: NDArray[np.float32]
    video_I: NDArray[np.int32]
    video_share_I: NDArray[np.float32]
    comment_JK: NDArray[np.int32]
    comment_last_J: NDArray[np.int32]
    comment_state_JD: NDArray[np.float32]
    taste: CommentTaste | None
    profile: Profile | None
    candidates: Candidates
    used: tuple[int, int]


class User(msgspec.Struct, frozen=True, eq=False):
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


@dataclass(frozen=True, slots=True)
class UserEncoding:
    """How one bundle's histories are encoded.

    Attributes:
        similarity: None for a bundle without profiles.
    """

    opened: OpenBundle
    similarity: ProfileSimilarity | None

    async def encode(
        self,
        events: KnownBatch,
        asked: Sequence[Asked],
        *,
        with_states: bool,
        until_s: float,
    ) -> list[User]:
        """Encode histories, all in one run.

        A run that fails is done again in halves, so that what is too much at once gets through,
        and a history that fails fails alone.

        Args:
            events: Of each user.
            asked: About each.
            with_states: Whether the comment head will be asked for more.
            until_s: When nobody waits for any of them any more.
        """
        users = [User(known) for known in events.users]
        known_B = [position for position, user in enumerate(users) if not user.events.is_empty]
        if not known_B:
            return users
        asked_B = [asked[position] for position in known_B]
        encoded: list[EncodedHistory | None]
        try:
            known = events.to_encode(known_B)
            encoded = await self._encode(known, asked_B, with_states, until_s)
        except EngineLostError:  # known and logged where it was lost
            encoded = [None] * len(known_B)
        except Exception as error:  # out of memory, say, or a history that nobody foresaw
            if isinstance(error, LsvcrError) and not isinstance(error, EngineFailedError):
                raise
            logger.warning("encoding %d histories failed", len(known_B), exc_info=error)
            if len(known_B) > 1:
                middle = len(users) // 2
                return [
                    user
                    for half in (slice(middle), slice(middle, None))
                    for user in await self.encode(
                        KnownBatch.of(events.users[half]),
                        asked[half],
                        with_states=with_states,
                        until_s=until_s,
                    )
                ]
            encoded = [None]
        for position, row in zip(known_B, encoded, strict=True):
            degraded = () if row is not None else ("encoder",)
            users[position] = User(users[position].events, row, degraded)
        return users

    async def _encode(
        self,
        events: KnownBatch,
        asked: Sequence[Asked],
        with_states: bool,
        until_s: float,
    ) -> list[EncodedHistory | None]:
        manifest, catalogue = self.opened.bundle.manifest, self.opened.bundle.catalogue
        latest = LatestHistories.build(
            video_N=events.video_N,
            video_time_N=events.video_time_N,
            video_start_B1=events.video_start_B1,
            comment_C=events.comment_M,
            comment_time_C=events.comment_time_M,
            comment_start_B1=events.comment_start_B1,
            comment_video=catalogue.comment_video_C,
            comments_per_event=manifest.comments_per_event,
            max_history=manifest.max_history,
        )
        profiles: list[Profile | None] = [None] * len(events.users)
        with_comments = any(one.comments is not None for one in asked)
        if self.similarity is not None and (with_states or with_comments):
            profiles = [*self.similarity.profiles(latest.comment_MK, latest.comment_start_B1)]
        look = FirstLook(
            [one.videos for one in asked],
            [one.weight for one in asked],
            with_states,
            self._comment_look(asked, profiles) if with_comments else None,
        )
        encoded = await self.opened.encode(latest.content_BSF, look, until_s=until_s)
        tastes = _tastes(look.comments, encoded.comments, latest.comment_slots)
        encoding, history = encoded.encoding, HistoryBatch.unpacked(latest.content_BSF)
        comment = slice(latest.comment_slots)
        is_finite_B = np.all(np.isfinite(encoding.video_preference_BD), axis=1)
        return [
            EncodedHistory(
                video_preference_D=preference_D,
                video_I=history.video_BI[row],
                video_share_I=encoding.video_share_BI[row],
                comment_JK=history.comment_BJK[row, comment],
                comment_last_J=history.comment_last_BJ[row, comment],
                comment_state_JD=encoding.comment_state_BJD[row, comment],
                taste=tastes.get(row),
                profile=profiles[row],
                candidates=candidates,
                used=latest.used_B[row],
            )
            if is_finite_B[row]
            else None
            for row, (preference_D, candidates) in enumerate(
                zip(encoding.video_preference_BD, encoded.candidates, strict=True)
            )
        ]

    def _comment_look(
        self, asked: Sequence[Asked], profiles: Sequence[Profile | None]
    ) -> CommentLook:
        """What is asked about comments, of those who ask for any."""
        about = {user: one.comments for user, one in enumerate(asked) if one.comments is not None}
        counts = [
            one.count if profiles[user] is None else one.count_with_profile
            for user, one in about.items()
        ]
        weight_AF = np.zeros((len(about), 0), np.float32)
        if self.similarity is not None and self.opened.sizes["comment"].takes_parts:
            temperature = self.opened.bundle.manifest.temperature
            weight_AF = self.similarity.weights([profiles[user] for user in about], temperature)
        target_AX = np.stack([one.target_X for one in about.values()])
        return CommentLook([*about], target_AX, counts, weight_AF)


def _tastes(
    look: CommentLook | None, tastes: CommentTastes | None, slots: int
) -> dict[int, CommentTaste]:
    """Of each user whose comments were asked for, by place in the batch."""
    if look is None or tastes is None:
        return {}
    found = zip(tastes.preference_AD, tastes.share_AJ[:, :slots], tastes.candidates, strict=True)
    return dict(zip(look.users, (CommentTaste(*one) for one in found), strict=True))
