"""Ranks comments with one bundle: under one video, or over the whole catalogue.

Shape suffixes: B queries, T videos, N comment rows at hand, D width, X of a target and one more.
"""

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from lsvcr.catalogue import Catalogue
from service.engine.candidate_index import Candidates
from service.engine.engine import OpenBundle
from service.engine.fetched_ranking import (
    Beside,
    FetchedQuery,
    FetchedRanking,
    Pairs,
    RankedQuery,
    slack_of,
)
from service.engine.known_events import KnownEvents
from service.engine.popularity import PopularComments, PopularItems, popular_ranking
from service.engine.profile_similarity import Profile, ProfileSimilarity
from service.engine.queries import CommentQuery
from service.engine.retrieval import Retriever, no_rows_beside
from service.engine.scoring import Parts, Proposed, Ranked, Rows, Scorer, nothing_beside
from service.engine.users import CommentAsked, User
from service.engine.video_conditions import Allows, allow_except, allow_matching
from service.errors import UnknownVideoError

MORE_WITH_PROFILE = 1000
"""Comments fetched beside, where another part than the encoder's has a say in their order."""


class AskedComments(msgspec.Struct, frozen=True, eq=False):
    """One query of a batch, for a user that is encoded.

    Attributes:
        preference_D: Unit vector in the space of candidate comments.
        fetched: What was found among all comments; None where the query means others.
    """

    query: CommentQuery
    user: User
    preference_D: NDArray[np.float32]
    fetched: Candidates | None

    @classmethod
    def of(cls, query: CommentQuery, user: User) -> "AskedComments | None":
        """None for a user of whom the comment head said nothing."""
        if user.encoded is None or user.encoded.taste is None:
            return None
        taste = user.encoded.taste
        fetched = taste.fetched if is_about_all(query) else None
        return cls(query, user, taste.preference_D, fetched)


class CommentRanking:
    """All that ranking a bundle's comments takes."""

    def __init__(self, opened: OpenBundle, popular_videos: PopularItems) -> None:
        bundle = opened.bundle
        self._catalogue = bundle.catalogue
        self._candidate_CD = bundle.tables["comment_candidate_CD"]
        self._video_query_VD = bundle.tables["video_query_VD"]
        self._temperature = bundle.manifest.temperature
        self._query_norm = bundle.manifest.query_norm
        self._pairs = FetchedRanking(self._candidate_CD, self._temperature)
        self.similarity = ProfileSimilarity.of(bundle)
        self._retriever = Retriever(opened, "comment")
        self._takes_profile = self.similarity is not None and opened.sizes["comment"].takes_parts
        self._popular = PopularComments.of(popular_videos, self._catalogue)

    def ask(self, query: CommentQuery, events: KnownEvents) -> CommentAsked | None:
        """What to ask about a query's user; None where the catalogue doesn't know its video."""
        target_X = np.zeros(self._video_query_VD.shape[1] + 1, np.float32)
        if query.video_id is None:  # the user's taste stands in for the video on screen
            target_X[-1] = self._query_norm
        elif row := self._catalogue.video_index.row(query.video_id):
            target_X[:-1] = self._video_query_VD[row]
        else:
            return None
        if not is_about_all(query):
            return CommentAsked(target_X)
        count = self._first_count(query, events)
        is_chosen_by_all = self._takes_profile and query.filter is None
        more = 0 if is_chosen_by_all else MORE_WITH_PROFILE
        return CommentAsked(target_X, count, min(count + more, self._retriever.rows))

    def rank_together(self, asked: Sequence[AskedComments]) -> list[tuple[Ranked, int] | None]:
        """As `rank` for each query; None for one that further looks have to answer."""
        ranked: list[tuple[Ranked, int] | None] = [None] * len(asked)
        listed = [place for place, one in enumerate(asked) if not is_about_all(one.query)]
        searched = [place for place, one in enumerate(asked) if one.fetched is not None]
        for places, rank in ((listed, self._rank_listed), (searched, self._rank_fetched)):
            if places:
                found = rank([asked[place] for place in places])
                for place, one in zip(places, found, strict=True):
                    ranked[place] = one
        return ranked

    async def rank(self, query: CommentQuery, user: User) -> tuple[Ranked, int]:
        """Rank the query's `k` best comments; also count candidates that had to be ignored.

        Raises:
            UnknownVideoError: If the catalogue doesn't know the query's video.
        """
        asked = AskedComments.of(query, user)
        if is_about_all(query):
            if asked is None or asked.fetched is None:
                return self._popular.best(query.k, self._allows(query, user)), 0
            return await self._best_of_all(asked, asked.fetched), 0
        if asked is not None:
            return self._rank_listed([asked])[0]
        row_N, ignored = self._rows_to_rank(query)
        return self._by_popularity(row_N[self._allows(query, user)(row_N)], query.k), ignored

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
            return [self._by_popularity(row_N, k) for row_N in slices]
        wanted = [RankedQuery(count=k, preference_D=one_D) for one_D in preference_TD]
        return self._pairs.rank(wanted, Pairs.of(slices), self._beside([user] * len(wanted)))

    def _rank_listed(self, asked: Sequence[AskedComments]) -> list[tuple[Ranked, int]]:
        """Rank the comments under each query's video, or those that it names, exactly."""
        rows, ignored = [], []
        for one in asked:
            row_N, unusable = self._rows_to_rank(one.query)
            rows.append(row_N[self._allows(one.query, one.user)(row_N)])
            ignored.append(unusable)
        wanted = [RankedQuery(count=one.query.k, preference_D=one.preference_D) for one in asked]
        beside = self._beside([one.user for one in asked])
        return [*zip(self._pairs.rank(wanted, Pairs.of(rows), beside), ignored, strict=True)]

    def _rank_fetched(self, asked: Sequence[AskedComments]) -> list[tuple[Ranked, int] | None]:
        """Rank what was fetched for each query; None where that isn't enough."""
        queries = [
            FetchedQuery(
                count=one.query.k,
                preference_D=one.preference_D,
                excluded_E=self._excluded(one.query, one.user),
                matching=self._matching(one.query),
                fetched=one.fetched,
            )
            for one in asked
            if one.fetched is not None
        ]
        beside = self._beside([one.user for one in asked])
        is_whole = beside is None or all(query.fetched.with_parts for query in queries)
        # Else all of them may be among the best, whatever their inner product.
        slack_B = slack_of(queries) if is_whole else np.full(len(queries), np.inf, np.float32)
        allowed = self._pairs.best_allowed(queries, self._pairs.fetched(queries), slack_B)
        ranked = self._pairs.rank(queries, allowed, beside)
        # What profiles alone lift, and no index proposes, is missed: see `_best_of_all`.
        floor = 0.0 if beside is None else -np.inf
        return [
            (best, 0) if self._pairs.suffices(best, query, floor) else None
            for query, best in zip(queries, ranked, strict=True)
        ]

    def _by_popularity(self, row_N: Rows, k: int) -> Ranked:
        """Rank some comments in the order of their popularity."""
        first_N = self._catalogue.comment_start_V1[self._catalogue.comment_video_C[row_N]]
        return popular_ranking(row_N, row_N - first_N).take(slice(k))

    def _beside(self, users: Sequence[User]) -> Beside | None:
        """The profiles' part of the score; `users` as they own the pairs."""
        similarity = self.similarity
        profiles = [profile for user in users if (profile := _profile(user)) is not None]
        if similarity is None or len(profiles) < len(users):
            return None

        def parts_of(pairs: Pairs) -> Parts:
            return {"profile": similarity.logits(profiles, pairs)}

        return parts_of

    def _scorer(self, user: User, preference_D: NDArray[np.float32]) -> Scorer:
        """The whole score for one user."""
        beside = self._beside([user])
        if beside is None:
            return Scorer(self._candidate_CD, self._temperature, preference_D)

        def of_rows(row_N: Rows) -> Parts:
            return beside(Pairs.of([row_N]))

        return Scorer(self._candidate_CD, self._temperature, preference_D, of_rows)

    async def _best_of_all(self, asked: AskedComments, fetched: Candidates) -> Ranked:
        """Rank all comments: exact without a profile, and where the index knows profiles.

        Else it is approximate: the index proposes by the encoder's part and only then the whole
        score orders, so that a comment can be missed that its profile part alone lifts.
        """
        allows = self._allows(asked.query, asked.user)
        scorer = self._scorer(asked.user, asked.preference_D)
        beside = no_rows_beside if scorer.beside is nothing_beside else _whatever
        return await self._retriever.best(scorer, asked.query.k, allows, fetched, beside)

    def _first_count(self, query: CommentQuery, events: KnownEvents) -> int:
        excluded = len(query.exclude_M)
        if query.exclude_seen:
            excluded += len(events.comment_M)
        return self._retriever.first_count(query.k, excluded=excluded, is_filtered=True)

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
        return allow_except(self._excluded(query, user), self._matching(query))

    def _excluded(self, query: CommentQuery, user: User) -> Rows:
        excluded = [user.events.comment_M[:0]]
        if len(query.exclude_M):
            excluded.append(self._catalogue.comment_index.rows(query.exclude_M))
        if query.exclude_seen:
            excluded.append(user.events.comment_M)
        return np.concatenate(excluded)

    def _matching(self, query: CommentQuery) -> Allows | None:
        if query.filter is None or query.video_id is not None:  # under a video all have one
            return None
        matching = allow_matching(query.filter, self._catalogue)
        video_C = self._catalogue.comment_video_C
        return lambda row_N: matching(video_C[row_N])


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
