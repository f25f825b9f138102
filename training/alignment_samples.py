"""The samples of stage 1: what a user did before one target, in words and as histories.

Samples of both kinds are shuffled together, prepared a chunk at a time and sorted by length
within it, so that a batch holds prompts of similar length. What a batch contains depends on seed,
epoch and its number only: a run that was interrupted goes on with the same ones.

Shape suffixes: B samples of a chunk or batch, I and J slots of the video and comment side (slot
0: start state), K comments of a comment event, L positions, N all samples.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsvcr.errors import DataError
from training.alignment_batches import AlignmentBatch, build_batch
from training.alignment_texts import AlignmentTexts
from training.batches import Targets
from training.comment_diversity import ShownComments, show_comments
from training.config import AlignConfig, ModelConfig
from training.prompts import PromptBuilder, PromptEvents, Prompts
from training.split import Prepared
from training.token_rows import LayOut, shared_rows

CHUNK_SAMPLES = 1024
"""Samples prepared and sorted by length together."""

Array = NDArray[Any]


@dataclass(frozen=True)
class Chunk:
    """Samples with everything drawn.

    Attributes:
        prompts: What the language model reads.
        texts: Fields of `AlignmentBatch` that refer to texts, by number.
        others: Its fields that don't.
    """

    prompts: Prompts
    texts: dict[str, Array]
    others: dict[str, Array]


class AlignmentSamples:
    """All samples of stage 1, and the batches of an epoch.

    Args:
        prepared: The data.
        texts: Its texts as tokens.
        config: Sizes and limits.
        model: Of the encoder that is trained.
        context_tokens: The most tokens that the language model reads at once.
        lay_out: Puts prompts and texts into rows.
        seed: Every draw depends on it.

    Raises:
        DataError: If there are no targets, histories are longer than the encoder's, or not even
            a request fits into a prompt.
    """

    def __init__(
        self,
        prepared: Prepared,
        texts: AlignmentTexts,
        config: AlignConfig,
        model: ModelConfig,
        *,
        context_tokens: int,
        lay_out: LayOut = shared_rows,
        seed: int,
    ) -> None:
        if config.max_history > model.max_history:
            raise DataError(
                f"align.max_history = {config.max_history} is above "
                f"model.max_history = {model.max_history}"
            )
        self.prepared, self.texts, self.model, self.seed = prepared, texts, model, seed
        self.lay_out = lay_out
        self.max_history, self.batch_samples = config.max_history, config.batch_samples
        self.targets, self.is_comment_N = _training_targets(prepared, config.max_samples, seed)
        if not len(self):
            raise DataError("no training targets for `align`: every user has too few events")
        self.builder = PromptBuilder(
            texts.table,
            texts.pieces,
            max_tokens=min(config.prompt_tokens, context_tokens - config.response_tokens),
            response_tokens=config.response_tokens,
            text_tokens=config.text_tokens,
        )

    def __len__(self) -> int:
        return len(self.is_comment_N)

    @property
    def batch_count(self) -> int:
        """Batches an epoch; samples that fill none take their turn in another epoch."""
        return len(self) // self.batch_size

    @property
    def batch_size(self) -> int:
        """Samples of every batch."""
        return min(self.batch_samples, len(self))

    def batches(
        self, epoch: int, *, start: int = 0, part: int = 0, parts: int = 1
    ) -> Iterator[AlignmentBatch]:
        """Batches of an epoch from number `start` on, or of each only one of several equal parts.

        What a batch consists of does not depend on the number of parts.
        """
        size = self.batch_size
        order_N = np.random.default_rng([self.seed, epoch]).permutation(len(self))
        batches_each = max(1, CHUNK_SAMPLES // size)
        for first in range(0, self.batch_count, batches_each):
            count = min(batches_each, self.batch_count - first)
            if start >= first + count:
                continue
            random = np.random.default_rng([self.seed, epoch, first])
            chunk = self.prepare(order_N[first * size : (first + count) * size], random)
            by_length_B = np.argsort(chunk.prompts.total_length_B, kind="stable")
            batch_order = random.permutation(count)
            for batch_B in by_length_B.reshape(count, size)[batch_order][max(0, start - first) :]:
                sample_B = batch_B[part::parts]  # prompts of a batch are sorted by length
                response_tokens = chunk.prompts.select(batch_B).response_tokens
                yield build_batch(
                    self.texts,
                    chunk.prompts.select(sample_B),
                    {name: array[sample_B] for name, array in chunk.texts.items()},
                    {name: array[sample_B] for name, array in chunk.others.items()},
                    response_tokens=max(1, response_tokens) / parts,
                    lay_out=self.lay_out,
                )

    def prepare(self, sample_B: NDArray[np.int64], random: np.random.Generator) -> Chunk:
        """Draw the comments shown, the order of each prompt, positions and what is asked for."""
        targets = _select(self.targets, sample_B)
        is_comment_B = self.is_comment_N[sample_B]
        history = targets.history(self.prepared, self.max_history)
        for_prompt, for_encoder = show_comments(
            self.prepared.catalogue,
            history.video_BI,
            history.comment_video_BJ,
            history.comment_BJK,
            targets.own_comment_TP,
            popular_comments=self.model.popular_comments,
            random=random,
        )
        title_V, comment_C = self.texts.title_V, self.texts.comment_C
        screen_B = title_V[targets.video_T]
        own_B = _draw_own(targets.own_comment_TP, random)
        texts = {
            "title_BI": title_V[history.video_BI],
            "popular_BI": comment_C[for_encoder.popular_BI],
            "comment_title_BJ": title_V[history.comment_video_BJ],
            "comment_BJK": comment_C[for_encoder.comment_BJK],
            "screen_B": np.where(is_comment_B, screen_B, 0),
            "target_B": np.where(is_comment_B, comment_C[own_B], screen_B),
        }
        others = {
            "video_order_BI": history.video_order_BI,
            "video_cut_BI": history.video_cut_BI,
            "comment_last_BJ": history.comment_last_BJ,
            "comment_cut_BJ": history.comment_cut_BJ,
            "video_position_BI": self._positions(history.video_BI, random),
            "comment_position_BJ": self._positions(history.comment_video_BJ, random),
            "is_comment_B": is_comment_B,
            "target_number_B": texts["target_B"],
            "user_B": targets.user_T,
        }
        prompts = self.builder.build(
            self._prompt_events(texts, others, for_prompt), random.random(len(sample_B)) < 0.5
        )
        return Chunk(prompts, texts, others)

    def _prompt_events(
        self, texts: dict[str, Array], others: dict[str, Array], shown: ShownComments
    ) -> PromptEvents:
        """What the language model is told, without start states."""
        comment_C = self.texts.comment_C
        return PromptEvents(
            title_BI=texts["title_BI"][:, 1:],
            popular_BI=comment_C[shown.popular_BI[:, 1:]],
            order_BI=others["video_order_BI"][:, 1:],
            comment_title_BJ=texts["comment_title_BJ"][:, 1:],
            comment_BJK=comment_C[shown.comment_BJK[:, 1:]],
            comment_order_BJ=others["comment_last_BJ"][:, 1:],
            is_comment_B=others["is_comment_B"],
            screen_B=texts["screen_B"],
            target_B=texts["target_B"],
        )

    def _positions(
        self, video_BI: NDArray[np.int32], random: np.random.Generator
    ) -> NDArray[np.int64]:
        """Distinct random positions, ascending, for the events behind the start state.

        So a history of ten events trains all fifty positions.
        """
        positions = self.model.max_history
        is_event_BI = video_BI[:, 1:] > 0
        drawn_BL = random.random((len(video_BI), positions)).argsort(1)
        # what is no event sorts behind
        drawn_BI = np.where(is_event_BI, drawn_BL[:, : is_event_BI.shape[1]], positions)
        return np.sort(drawn_BI, 1).clip(max=positions - 1)


def _training_targets(
    prepared: Prepared, most: int | None, seed: int
) -> tuple[Targets, NDArray[np.bool_]]:
    """Training targets of both kinds, at most so many random ones of each."""
    random = np.random.default_rng(seed)
    positions = [prepared.video_targets("train"), prepared.comment_targets("train")]
    if most is not None:
        positions = [np.sort(random.permutation(one)[:most]) for one in positions]
    videos = Targets.of_videos(prepared, positions[0])
    comments = Targets.of_comments(prepared, positions[1])
    joined = Targets(
        **{
            field.name: np.concatenate([getattr(videos, field.name), getattr(comments, field.name)])
            for field in fields(Targets)
        }
    )
    return joined, np.arange(len(joined.cut_T)) >= len(videos.cut_T)


def _select(targets: Targets, sample_B: NDArray[np.int64]) -> Targets:
    return Targets(
        **{field.name: getattr(targets, field.name)[sample_B] for field in fields(Targets)}
    )


def _draw_own(own_BP: NDArray[np.int32], random: np.random.Generator) -> NDArray[np.int32]:
    """One of each sample's own comments; 0 if it has none."""
    drawn_B1 = random.integers(0, np.maximum((own_BP > 0).sum(1), 1))[:, None]
    return np.take_along_axis(own_BP, drawn_B1, 1)[:, 0]
