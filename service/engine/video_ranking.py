"""Ranks videos for one user with one bundle.

Shape suffixes: N rows at hand, V catalogue rows, D width.
"""

from collections.abc import Sequence

import numpy as np

from service.engine.batch_ranking import BatchRanking, PlainQuery
from service.engine.diversity import Caps, choose_diverse, diversity_window, is_diverse
from service.engine.engine import OpenBundle
from service.engine.known_events import KnownEvents
from service.engine.popularity import PopularItems
from service.engine.popularity_prior import PopularityPrior
from service.engine.queries import VideoQuery
from service.engine.retrieval import (
    MARGIN,
    MARGIN_WITH_PRIOR,
    SCAN_AT_ONCE_BELOW,
    Retriever,
)
from service.engine.scoring import Ranked, Rows, Scorer
from service.engine.users import EncodedHistory, User
from service.engine.video_conditions import Allows, allow_except, allow_matching
from service.engine.video_parts import Repeats, VideoParts

WIDENING = 8


class VideoRanking:
    """All that ranking a bundle's videos takes.

    Args:
        popular: All videos, in the bundle's popular order.
    """

    def __init__(self, opened: OpenBundle, popular: PopularItems) -> None:
        bundle = opened.bundle
        self._bundle = bundle
        self._catalogue = bundle.catalogue
        self._candidate_VD = bundle.tables["video_candidate_VD"]
        self._retriever = Retriever(opened, "video")
        self._is_prior_shared = False
        self._batch = BatchRanking(self._candidate_VD, bundle.manifest.temperature)
        self._is_small = self._catalogue.video_count < SCAN_AT_ONCE_BELOW
        self.popular = popular

    def first_count(self, query: VideoQuery, events: KnownEvents) -> int:
        """Say how many candidates to fetch for a query at first; 0 where all are compared."""
        if self._is_small and self._is_plain(query):
            return 0
        wanted = diversity_window(query.k) if is_diverse(query.diversity) else query.k
        excluded = len(query.exclude_M)
        if query.exclude_seen:
            excluded += len(events.video_N) + len(events.comment_M)
        is_reordered = self._bundle.manifest.prior is not None and not self.first_weight(query)
        return self._retriever.first_count(
            wanted,
            excluded=excluded,
            is_filtered=query.filter is not None,
            margin=MARGIN_WITH_PRIOR if is_reordered else MARGIN,
        )

    def first_weight(self, query: VideoQuery) -> float:
        """Say how much the prior counts in choosing them; 0 where it is added only here."""
        return query.popularity_weight if self._is_prior_shared and self._is_plain(query) else 0.0

    def choose_by_prior(self) -> None:
        """Have candidates chosen by the prior, too, from now on: the engine knows it."""
        self._is_prior_shared = True

    def prepare(self, prior: PopularityPrior | None) -> None:
        """Read what the first batch would wait for; may be called from other threads."""
        if self._is_small:
            self._batch.prepare_all(prior)
        elif prior is not None:
            self._batch.prepare_candidates(prior)

    def rank_together(
        self,
        queries: Sequence[VideoQuery | None],
        users: Sequence[User],
        prior: PopularityPrior | None,
    ) -> dict[int, Ranked]:
        """Rank all the plain queries that one look is enough for; the others are left to `rank`.

        Args:
            queries: None stands for one that isn't about videos.

        Returns:
            By the position of the query.
        """
        positions, plain = [], []
        for position, (query, user) in enumerate(zip(queries, users, strict=True)):
            if query is not None and user.encoded is not None and self._is_plain(query):
                positions.append(position)
                plain.append(self._plain(query, user, user.encoded))
        if not plain:
            return {}
        ranked: Sequence[Ranked | None]
        if self._is_small:
            ranked = self._batch.rank_all(plain, prior)
        else:
            ranked = self._batch.rank_candidates(plain, prior)
        found = zip(positions, ranked, strict=True)
        return {position: best for position, best in found if best is not None}

    async def rank(self, query: VideoQuery, user: User, prior: PopularityPrior | None) -> Ranked:
        """Rank the query's `k` best videos; by popularity where `user` isn't encoded.

        Args:
            prior: As it is now; None for a bundle without.
        """
        allows = self._allows(query, user)
        if not is_diverse(query.diversity):
            return await self._best(query, query.k, user, allows, prior)
        window = diversity_window(query.k)
        count = window
        while True:
            ranked = await self._best(query, count, user, allows, prior)
            chosen = self._diversify(query, ranked, window)
            if len(chosen) >= query.k or len(ranked) < count:
                return chosen
            count *= WIDENING

    async def similar(self, video_row: int, k: int) -> Ranked:
        """Rank the videos nearest to one, itself left out; the score is the cosine."""
        vector_D = np.asarray(self._candidate_VD[video_row])
        count = self._retriever.first_count(k, excluded=1, is_filtered=False)
        fetched = await self._retriever.search(vector_D, count)
        scorer = Scorer(self._candidate_VD, 1.0, vector_D)
        return await self._retriever.best(scorer, k, allow_except(np.array([video_row])), fetched)

    def _is_plain(self, query: VideoQuery) -> bool:
        """Whether an answer is the best videos by encoder and prior, and nothing else."""
        has_no_repeats = query.exclude_seen or self._bundle.manifest.repeat_logit is None
        return has_no_repeats and not is_diverse(query.diversity) and query.popularity_weight != 0

    def _plain(self, query: VideoQuery, user: User, encoded: EncodedHistory) -> PlainQuery:
        return PlainQuery(
            count=query.k,
            preference_D=encoded.video_preference_D,
            weight=query.popularity_weight,
            excluded_E=self._excluded(query, user),
            matching=self._matching(query),
            fetched=encoded.candidates,
        )

    def _allows(self, query: VideoQuery, user: User) -> Allows:
        return allow_except(self._excluded(query, user), self._matching(query))

    def _excluded(self, query: VideoQuery, user: User) -> Rows:
        events, excluded = user.events, []
        if query.exclude_seen:
            excluded = [events.video_N, self._catalogue.comment_video_C[events.comment_M]]
        if len(query.exclude_M) or not excluded:
            excluded.append(self._catalogue.video_index.rows(query.exclude_M))
        return np.concatenate(excluded)

    def _matching(self, query: VideoQuery) -> Allows | None:
        return None if query.filter is None else allow_matching(query.filter, self._catalogue)

    async def _best(
        self,
        query: VideoQuery,
        wanted: int,
        user: User,
        allows: Allows,
        prior: PopularityPrior | None,
    ) -> Ranked:
        if user.encoded is None:
            popular = self.popular if prior is None else prior
            return popular.best(wanted, allows)
        parts = VideoParts(
            None if query.popularity_weight == 0 else prior,
            query.popularity_weight,
            self._repeats(query, user),
        )
        scorer = Scorer(
            self._candidate_VD,
            self._bundle.manifest.temperature,
            user.encoded.video_preference_D,
            parts.of,
        )
        candidates = user.encoded.candidates
        if candidates.with_parts:  # and not enough of them: `rank_together` has tried
            count = len(candidates.row_N) + MARGIN_WITH_PRIOR
            candidates = await self._retriever.search(scorer.preference_D, count)
        return await self._retriever.best(scorer, wanted, allows, candidates, parts.propose)

    def _repeats(self, query: VideoQuery, user: User) -> Repeats | None:
        logit = self._bundle.manifest.repeat_logit
        if logit is None or query.exclude_seen:
            return None
        return Repeats(user.events.video_N, logit)

    def _diversify(self, query: VideoQuery, ranked: Ranked, window: int) -> Ranked:
        diversity = query.diversity
        assert diversity is not None
        caps = Caps(
            self._catalogue.author_V[ranked.row_K],
            self._catalogue.category_V[ranked.row_K],
            diversity.max_per_author,
            diversity.max_per_category,
        )
        # A score is in units of a cosine / temperature; a place in the popular list is in (0, 1].
        is_place = "popularity" in ranked.parts
        scale = 1.0 if is_place else self._bundle.manifest.temperature
        chosen = choose_diverse(
            ranked.score_K * scale,
            self._candidate_VD[ranked.row_K[:window]],
            caps,
            count=query.k,
            lambda_=diversity.lambda_,
            window=window,
        )
        return ranked.take(chosen)
