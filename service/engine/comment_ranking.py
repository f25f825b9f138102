"""Ranks comments for one user with one bundle: under one video, or over the whole catalogue.

Shape suffixes: B queries, T videos, N comment rows at hand, D width.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lsvcr.catalogue import Catalogue
from service.engine.candidate_index import CandidateBatch, Candidates
from service.engine.encoder_session import FloatArray
from service.engine.engine import OpenBundle
from service.engine.popularity import PopularComments, PopularItems, popular_ranking
from service.engine.profile_similarity import Profile, ProfileSimilarity
from service.engine.queries import CommentQuery
from service.engine.retrieval import Retriever, no_rows_beside
from service.engine.scoring import Parts, Proposed, Ranked, Rows, Scorer, nothing_beside
from service.engine.users import User
from service.engine.video_conditions import Allows, allow_except, allow_matching
from service.errors import UnknownVideoError

Preference = NDArray[np.float32] | None
"""Unit vector in the space of candidate comments; None where there is no history."""

MORE_WITH_PROFILE = 1000
"""Comments fetched beside, where another part than the encoder's has a say in their order."""


class CommentRanking:
    """All that ranking a bundle's comments takes."""

    def __init__(self, opened: OpenBundle, popular_videos: PopularItems) -> None:
        bundle = opened.bundle
        self._catalogue = bundle.catalogue
        self._candidate_CD = bundle.tables["comment_candidate_CD"]
        self._temperature = bundle.manifest.temperature
        self.similarity = ProfileSimilarity.of(bundle)
        self._opened = opened
        self._retriever = Retriever(opened, "comment")
        self._takes_profile = self.similarity is not None and opened.sizes["comment"].takes_parts
        self._popular = PopularComments.of(popular_videos, self._catalogue)

    async def fetch(
        self, queries: Sequence[CommentQuery], users: Sequence[User], preference_BD: FloatArray
    ) -> CandidateBatch:
        """Search all comments for some queries at once; of each the first look."""
        counts = [
            self._first_count(query, user) for query, user in zip(queries, users, strict=True)
        ]
        query_BX = preference_BD
        if self._takes_profile:
            query_BX = np.column_stack([preference_BD, self._weights(users)])
        return await self._opened.search("comment", query_BX, counts)

    def _weights(self, users: Sequence[User]) -> FloatArray:
        """What profiles add to queries, (B, F), in units of a cosine."""
        assert self.similarity is not None
        weight_BF = np.zeros((len(users), self.similarity.width), np.float32)
        for weight_F, user in zip(weight_BF, users, strict=True):
            if (profile := _profile(user)) is not None:
                weight_F[:] = profile.direction_F * np.float32(profile.scale * self._temperature)
        return weight_BF

    async def rank(
        self,
        query: CommentQuery,
        user: User,
        preference_D: Preference,
        fetched: Candidates | None = None,
    ) -> tuple[Ranked, int]:
        """Rank the query's `k` best comments; also count candidates that had to be ignored.

        Args:
            fetched: What `fetch` found, where it was asked.

        Raises:
            UnknownVideoError: If the catalogue doesn't know the query's video.
        """
        allows = self._allows(query, user)
        if is_about_all(query):
            return await self._best_of_all(query, allows, user, preference_D, fetched), 0
        row_N, ignored = self._rows_to_rank(query)
        return self._rank_rows(row_N[allows(row_N)], user, preference_D, query.k), ignored

    def rank_under_each(
        self, video_T: Rows, user: User, preference_TD: NDArray[np.float32] | None, k: int
    ) -> list[Ranked]:
        """Rank the `k` best comments under each of some videos, all in one go.

        Args:
            video_T: Video rows.
            preference_TD: What the comment head said of each video; None without history.
            k: Comments a video, at most.
        """
        slices = [self._catalogue.comments_under(video) for video in video_T.tolist()]
        if preference_TD is None:
            return [self._rank_rows(row_N, user, None, k) for row_N in slices]
        row_N = np.concatenate([np.empty(0, np.int64), *slices])
        owner_N = np.repeat(np.arange(len(slices)), [len(part) for part in slices])
        scored = Ranked(row_N, self._scorer(user, preference_TD[owner_N]).parts(row_N))
        ordered = scored.take(np.lexsort((row_N, -scored.score_K, owner_N)))
        starts = np.searchsorted(owner_N, np.arange(len(slices))).tolist()
        return [
            ordered.take(slice(start, start + min(k, len(part))))
            for start, part in zip(starts, slices, strict=True)
        ]

    def _rank_rows(self, row_N: Rows, user: User, preference_D: Preference, k: int) -> Ranked:
        """Rank some comments exactly: by score, or in the order of their popularity."""
        if preference_D is not None:
            return self._scorer(user, preference_D).rank(row_N).take(slice(k))
        first_N = self._catalogue.comment_start_V1[self._catalogue.comment_video_C[row_N]]
        return popular_ranking(row_N, row_N - first_N).take(slice(k))

    def _scorer(self, user: User, preference_D: NDArray[np.float32]) -> Scorer:
        """The whole score for one user; `preference_D` may be one for each row to score."""
        profile, similarity = _profile(user), self.similarity
        if profile is None or similarity is None:
            return Scorer(self._candidate_CD, self._temperature, preference_D)

        def beside(row_N: Rows) -> Parts:
            return {"profile": similarity.logits(profile, row_N)}

        return Scorer(self._candidate_CD, self._temperature, preference_D, beside)

    async def _best_of_all(
        self,
        query: CommentQuery,
        allows: Allows,
        user: User,
        preference_D: Preference,
        fetched: Candidates | None,
    ) -> Ranked:
        """Rank all comments: exact without a profile, and where the index knows profiles.

        Else it is approximate: the index proposes by the encoder's part and only then the whole
        score orders, so that a comment can be missed that its profile part alone lifts.
        """
        if preference_D is None:
            return self._popular.best(query.k, allows)
        if fetched is None:
            [fetched] = await self.fetch([query], [user], preference_D[None])
        scorer = self._scorer(user, preference_D)
        beside = no_rows_beside if scorer.beside is nothing_beside else _whatever
        return await self._retriever.best(scorer, query.k, allows, fetched, beside)

    def _first_count(self, query: CommentQuery, user: User) -> int:
        excluded = len(query.exclude_M)
        if query.exclude_seen:
            excluded += len(user.events.comment_M)
        count = self._retriever.first_count(query.k, excluded=excluded, is_filtered=True)
        is_chosen_by_all = self._takes_profile and query.filter is None
        if _profile(user) is None or self.similarity is None or is_chosen_by_all:
            return count
        return min(count + MORE_WITH_PROFILE, self._retriever.rows)

    def _rows_to_rank(self, query: CommentQuery) -> tuple[Rows, int]:
        """List the comments a query means, without repetition, and count the unusable ones."""
        video_row = None
        if query.video_id is not None:
            video_row = find_video(self._catalogue, query.video_id)
            if query.candidates is None:
                return self._catalogue.comments_under(video_row), 0
        names = dict.fromkeys(query.candidates or ())
        row_N = np.array([self._catalogue.comment_index.row(name) for name in names], np.int64)
        is_usable_N = row_N > 0
        if video_row is not None:
            is_usable_N &= self._catalogue.comment_video_C[row_N] == video_row
        return row_N[is_usable_N], int(np.sum(~is_usable_N))

    def _allows(self, query: CommentQuery, user: User) -> Allows:
        excluded = [self._catalogue.comment_index.rows(query.exclude_M)]
        if query.exclude_seen:
            excluded.append(user.events.comment_M)
        if query.filter is None or query.video_id is not None:  # under a video all have one
            return allow_except(np.concatenate(excluded))
        matching = allow_matching(query.filter, self._catalogue)
        video_C = self._catalogue.comment_video_C
        return allow_except(np.concatenate(excluded), lambda row_N: matching(video_C[row_N]))


def _profile(user: User) -> Profile | None:
    return None if user.encoded is None else user.encoded.profile


def _whatever(count: int) -> Proposed:
    """Propose nothing, and let pass what is left out."""
    return Proposed(np.empty(0, np.int64), -np.inf)


def is_about_all(query: CommentQuery) -> bool:
    """Whether it asks for the best of all videos' comments."""
    return query.video_id is None and query.candidates is None


def find_video(catalogue: Catalogue, video_id: str) -> int:
    """Look up a video's row; raises UnknownVideoError if it has none."""
    row = catalogue.video_index.row(video_id)
    if row == 0:
        raise UnknownVideoError(f"video {video_id!r} is unknown")
    return row
