"""Answers a batch of queries with one bundle: encode and search together, rank singly.

Shape suffixes: B users, J comment slots, T target videos, K items of an answer, D width.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from time import perf_counter
from typing import assert_never

import msgspec
import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from lsvcr.errors import LsvcrError
from service.engine.answer_items import Because, VideoNames, comment_items, video_items
from service.engine.comment_ranking import (
    AskedComments,
    CommentRanking,
    find_video,
)
from service.engine.encoder_session import CommentHead
from service.engine.engine import OpenBundle
from service.engine.explanation import explain_comments, explain_videos
from service.engine.known_events import KnownEvents, find_events
from service.engine.popularity import PopularItems
from service.engine.popularity_prior import LiveCounts, PopularityPrior
from service.engine.queries import (
    Answer,
    CommentQuery,
    EventHistory,
    FeedQuery,
    Query,
    RankedComment,
    RankedVideo,
    SimilarQuery,
    VideoQuery,
)
from service.engine.scoring import Ranked
from service.engine.users import Asked, CommentTaste, User, UserEncoding
from service.engine.video_ranking import VideoRanking
from service.errors import EngineFailedError, EngineLostError

LOGGED_DECIMALS = 5
"""Of scores in the log of exposures, of whose bytes a quarter would be further digits."""


class _First(msgspec.Struct, frozen=True, eq=False):
    """What was ranked for all queries of a batch together; None where that says nothing."""

    ranked: Ranked | None = None
    comments: tuple[Ranked, int] | None = None


_NOTHING_FIRST = _First()


class Ranker:
    """One bundle's rankings.

    One event loop owns it; only `update_popularity` may be called from other threads.

    Args:
        opened: The bundle with its encoder and indexes, wherever they run.
        prior: Where it was computed beforehand; None computes what the bundle alone says.
    """

    def __init__(self, opened: OpenBundle, prior: PopularityPrior | None = None) -> None:
        self.bundle = opened.bundle
        self.opened = opened
        self._catalogue = self.bundle.catalogue
        self._head = CommentHead(self.bundle)
        if prior is None:
            videos = self._catalogue.video_count
            popular = PopularItems.of_videos(self.bundle.popular, videos)
            prior = PopularityPrior.build(self.bundle, popular, None)
        else:
            popular = prior.overall
        self._videos = VideoRanking(opened, popular)
        self._video_names = VideoNames(self._catalogue, popular)
        self._comments = CommentRanking(opened, popular)
        self._users = UserEncoding(opened, self._comments.similarity)
        self._prior = prior
        self._videos.prepare(prior)
        self.latest_preference_D: NDArray[np.float32] | None = None
        for index in (self._catalogue.video_index, self._catalogue.comment_index):
            index.rows(index.sorted_hash_N[:1])  # prepares for all others, here and not in the loop

    def update_popularity(self, counts: LiveCounts) -> None:
        """Replace the popularity prior as a whole; the next batch sees it."""
        prior = PopularityPrior.build(self.bundle, self._videos.popular, counts, self._prior)
        self._videos.prepare(prior)
        self._prior = prior

    async def share_popularity(self) -> None:
        """Tell the engine the prior, where it chooses candidates by it.

        To be repeated, as an engine may be new; one that doesn't answer is told the next time.
        """
        if self._prior is not None and self.opened.sizes["video"].takes_parts:
            with contextlib.suppress(EngineLostError, EngineFailedError):
                await self.opened.set_prior(self._prior.logit_V)
                self._videos.choose_by_prior()

    async def answer(self, queries: Sequence[Query]) -> list[Answer | LsvcrError]:
        """Answer all queries; what is wrong with one of them is its own answer."""
        started_s = perf_counter()
        prior = self._prior
        events = find_events([_history(query) for query in queries], self._catalogue)
        about_videos = [*map(_about_videos, queries)]
        users = await self._users.encode(
            events,
            [*map(self._asked, queries, events.users, about_videos)],
            with_states=any(isinstance(query, FeedQuery) for query in queries),
            until_s=max(_deadline_s(query) for query in queries),
        )
        for user in users:
            if user.encoded is not None:
                self.latest_preference_D = user.encoded.video_preference_D
        encode_ms = (perf_counter() - started_s) * 1000
        ranked = self._videos.rank_together(about_videos, users, prior)
        comments = self._rank_comments(queries, users)
        await asyncio.sleep(0)  # requests that have just come are read, or refused
        ranked_ms = (perf_counter() - started_s) * 1000 - encode_ms
        answers: list[Answer | LsvcrError] = []
        for position, (query, user) in enumerate(zip(queries, users, strict=True)):
            ranking_s = perf_counter()
            try:
                first = _First(ranked.get(position), comments.get(position))
                answer = await self._answer_in_any_case(query, user, first, prior)
            except LsvcrError as error:
                answers.append(error)
                continue
            answer = structs.replace(answer, batch_size=len(queries))
            answer.timings_ms["encode"] = encode_ms
            answer.timings_ms["retrieve"] = ranked_ms + (perf_counter() - ranking_s) * 1000
            answers.append(answer)
        return answers

    def _asked(self, query: Query, events: KnownEvents, videos: VideoQuery | None) -> Asked:
        """What to ask the engine about a query's user."""
        if isinstance(query, CommentQuery):
            return Asked(comments=self._comments.ask(query, events))
        if videos is None:
            return Asked()
        return Asked(self._videos.first_count(videos, events), self._videos.first_weight(videos))

    def _rank_comments(
        self, queries: Sequence[Query], users: Sequence[User]
    ) -> dict[int, tuple[Ranked, int]]:
        """Rank comments together where one look is enough; also count unusable candidates."""
        asked = {
            position: one
            for position, (query, user) in enumerate(zip(queries, users, strict=True))
            if isinstance(query, CommentQuery)
            and (one := AskedComments.of(query, user)) is not None
        }
        ranked = zip(asked, self._comments.rank_together([*asked.values()]), strict=True)
        return {position: found for position, found in ranked if found is not None}

    async def _answer_in_any_case(
        self,
        query: Query,
        user: User,
        first: _First,
        prior: PopularityPrior | None,
    ) -> Answer:
        """Answer without the model where the engine fails only now, at a further search."""
        try:
            return await self._answer(query, user, first, prior)
        except (EngineLostError, EngineFailedError):
            unknown = User(user.events, degraded=("encoder",))
            return await self._answer(query, unknown, _NOTHING_FIRST, prior)

    async def _answer(
        self,
        query: Query,
        user: User,
        first: _First,
        prior: PopularityPrior | None,
    ) -> Answer:
        ranked = first.ranked
        match query:
            case VideoQuery():
                if ranked is None:
                    ranked = await self._videos.rank(query, user, prior)
                return self._answer_with_videos(ranked, user, query.explain)
            case FeedQuery():
                if ranked is None:
                    ranked = await self._videos.rank(query.videos, user, prior)
                answer = self._answer_with_videos(ranked, user, query.videos.explain)
                return self._with_comments(answer, query, ranked, user)
            case CommentQuery():
                best, ignored = first.comments or await self._comments.rank(query, user)
                taste = None if user.encoded is None else user.encoded.taste
                comments = self._comment_items(best, user, taste, query.explain)
                return self._answer_with(
                    comments,
                    best,
                    user,
                    comment_ids=tuple([comment.comment_id for comment in comments]),
                    ignored_candidates=ignored,
                )
            case SimilarQuery():
                row = find_video(self._catalogue, query.video_id)
                ranked = await self._videos.similar(row, query.k)
                answer = self._answer_with_videos(ranked, user, False)
                return structs.replace(answer, source="model")
            case _:
                assert_never(query)

    def _answer_with_videos(self, ranked: Ranked, user: User, explain: bool) -> Answer:
        because: Because = None
        if explain:
            because = () if user.encoded is None else explain_videos(user.encoded, self._catalogue)
        videos = video_items(ranked, self._video_names, because)
        return self._answer_with(
            videos.items,
            ranked,
            user,
            video_ids=videos.video_ids,
            popularity_deciles=videos.deciles,
        )

    def _with_comments(
        self, answer: Answer, query: FeedQuery, ranked: Ranked, user: User
    ) -> Answer:
        """Give each video its best comments: one run of the comment head for all of them."""
        tastes: list[CommentTaste | None] = [None] * len(ranked)
        preference_TD = None
        if user.encoded is not None and len(ranked):
            preference_BTD, share_BTJ = self._head.prefer_comments(
                user.encoded.comment_state_JD[None],
                user.encoded.comment_last_J[None],
                self.bundle.tables["video_query_VD"][ranked.row_K][None],
            )
            preference_TD = preference_BTD[0]
            tastes = list(map(CommentTaste, preference_TD, share_BTJ[0]))
        best_T = self._comments.rank_under_each(
            ranked.row_K, user, preference_TD, query.comments_per_video
        )
        comments_T = [
            self._comment_items(best, user, taste, query.videos.explain)
            for best, taste in zip(best_T, tastes, strict=True)
        ]
        items = zip(answer.items, comments_T, strict=True)
        return structs.replace(
            answer,
            items=tuple([structs.replace(video, comments=comments) for video, comments in items]),
            comment_ids=tuple([one.comment_id for comments in comments_T for one in comments]),
        )

    def _comment_items(
        self, ranked: Ranked, user: User, taste: CommentTaste | None, explain: bool
    ) -> tuple[RankedComment, ...]:
        because: Because = None
        if explain:
            because = ()
            if user.encoded is not None and taste is not None:
                because = explain_comments(user.encoded, taste.share_J, self._catalogue)
        return comment_items(ranked, self._catalogue, because)

    def _answer_with(
        self,
        items: tuple[RankedVideo, ...] | tuple[RankedComment, ...],
        ranked: Ranked,
        user: User,
        *,
        video_ids: tuple[str, ...] = (),
        comment_ids: tuple[str, ...] = (),
        popularity_deciles: tuple[int, ...] = (),
        ignored_candidates: int = 0,
    ) -> Answer:
        return Answer(
            items=items,
            source="popular" if user.encoded is None else "model",
            model_version=self.bundle.manifest.version,
            history_used=user.used,
            ignored=user.events.ignored + ignored_candidates,
            degraded=user.degraded,
            timings_ms={},
            batch_size=1,
            video_ids=video_ids,
            comment_ids=comment_ids,
            scores=tuple(ranked.score_K.round(LOGGED_DECIMALS).tolist()),
            popularity_deciles=popularity_deciles,
        )


def _history(query: Query) -> EventHistory | None:
    match query:
        case FeedQuery():
            return query.videos.history
        case SimilarQuery():
            return None
        case _:
            return query.history


def _about_videos(query: Query) -> VideoQuery | None:
    match query:
        case VideoQuery():
            return query
        case FeedQuery():
            return query.videos
        case _:
            return None


def _deadline_s(query: Query) -> float:
    return query.videos.deadline_s if isinstance(query, FeedQuery) else query.deadline_s
