"""What the language model is asked: two histories in words, then a request.

A prompt is put together from tokens of its parts, so that a text is tokenised once however many
prompts it appears in. Where a prompt is too long the oldest events of either history are left
out; what is asked for always stays.

Shape suffixes: B prompts, I and J events of the video and comment side (without start state),
K comments of a comment event, S pieces; others as in `training.token_table`.
"""

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from lsvcr.errors import DataError
from lsvcr.history import NEVER
from training.token_table import TokenTable

Numbers = NDArray[np.int64]
"""Numbers of texts in a `TokenTable`."""


@dataclass(frozen=True)
class Wording:
    """All words of a prompt that are no data. To use another language, translate `ENGLISH`."""

    videos_first: str
    comments_first: str
    first_trail: str
    second_trail: str
    nothing: str
    caption: str
    top_comment: str
    comments: str
    between_comments: str
    end_of_comments: str
    end_of_line: str
    watching: str
    ask_video: str
    ask_comment: str

    def line_number(self, number: int) -> str:
        """How line 1, 2, … of a history begins."""
        return f"{number}. "


_VIDEOS = "lists videos they liked, oldest first, each with its caption and one popular comment"
_COMMENTS = "lists videos whose comments they used, each with its caption and those comments"

ENGLISH = Wording(
    videos_first=f"A viewer of a short-video app left two trails. Trail A {_VIDEOS}. "
    f"Trail B {_COMMENTS}.\n",
    comments_first=f"A viewer of a short-video app left two trails. Trail A {_COMMENTS}. "
    f"Trail B {_VIDEOS}.\n",
    first_trail="Trail A:\n",
    second_trail="Trail B:\n",
    nothing="nothing yet\n",
    caption="caption: ",
    top_comment=" | top comment: ",
    comments=" | comments: {'",
    between_comments="', '",
    end_of_comments="'}",
    end_of_line="\n",
    watching="The viewer is watching: ",
    ask_video="Write the caption of the video this viewer is likely to enjoy next:\n",
    ask_comment="Write a comment below this video that the viewer would probably react to:\n",
)


@dataclass(frozen=True)
class PromptEvents:
    """Histories and targets as text numbers; 0 = no such event or text.

    Attributes:
        title_BI, popular_BI, order_BI: Video events, oldest first: caption, comment, order.
        comment_title_BJ, comment_BJK, comment_order_BJ: Comment events likewise.
        is_comment_B: Whether a comment is asked for, not a video.
        screen_B: The title on screen where a comment is asked for.
        target_B: What should be answered.
    """

    title_BI: Numbers
    popular_BI: Numbers
    order_BI: NDArray[np.int32]
    comment_title_BJ: Numbers
    comment_BJK: Numbers
    comment_order_BJ: NDArray[np.int32]
    is_comment_B: NDArray[np.bool_]
    screen_B: Numbers
    target_B: Numbers


@dataclass(frozen=True)
class Prompts:
    """Prompts with their responses, as pieces of a `TokenTable` and how much of each to take."""

    piece_BS: Numbers
    length_BS: Numbers
    prompt_length_B: Numbers

    @property
    def total_length_B(self) -> Numbers:
        """Tokens of prompt and response."""
        return self.length_BS.sum(1)

    @property
    def response_tokens(self) -> int:
        """Tokens of all responses."""
        return int((self.total_length_B - self.prompt_length_B).sum())

    def select(self, prompt_B: NDArray[np.int64]) -> "Prompts":
        """Some of the prompts."""
        return Prompts(
            self.piece_BS[prompt_B], self.length_BS[prompt_B], self.prompt_length_B[prompt_B]
        )


class PromptBuilder:
    """Puts prompts together from the pieces of one token table.

    Args:
        table: Holds the texts and, at `pieces`, the fixed parts.
        pieces: Numbers of `piece_texts`, and of `begin` and `end`, the tokens around an answer.
        max_tokens: Of a prompt.
        response_tokens: Of a response, its end included.
        text_tokens: Of a title or comment within a prompt.

    Raises:
        DataError: If not even the request fits.
    """

    def __init__(
        self,
        table: TokenTable,
        pieces: dict[str, int],
        *,
        max_tokens: int,
        response_tokens: int,
        text_tokens: int,
    ) -> None:
        self.pieces, self.max_tokens = pieces, max_tokens
        self.length_N = np.minimum(table.length_N, text_tokens)
        piece_P = np.array(list(pieces.values()))
        self.length_N[piece_P] = table.length_N[piece_P]
        end_tokens = int(table.length_N[pieces["end"]])
        self.response_length_N = np.minimum(table.length_N, max(0, response_tokens - end_tokens))
        self.line_numbers = np.array(
            [0, *(pieces[name] for name in pieces if name.startswith("line "))]
        )
        longest = self._longest_request() + text_tokens
        if longest > max_tokens:
            raise DataError(
                f"a prompt of {max_tokens} tokens is too short: what is asked for alone takes up "
                f"to {longest}; raise align.prompt_tokens, or lower align.text_tokens, or "
                "choose a language model that reads more"
            )

    def build(self, events: PromptEvents, is_comments_first_B: NDArray[np.bool_]) -> Prompts:
        """Prompts and responses of samples."""
        keep_BI, keep_BJ = self._fitting_events(events)
        piece, order = self.pieces, is_comments_first_B[:, None]
        videos_BS = self._numbered(self._video_lines(events), keep_BI)
        comments_BS = self._numbered(self._comment_lines(events), keep_BJ)
        width = max(videos_BS.shape[1], comments_BS.shape[1])
        videos_BS, comments_BS = (_widen(lines_BS, width) for lines_BS in (videos_BS, comments_BS))
        is_comment = events.is_comment_B
        watching = [
            np.where(is_comment, piece["watching"], 0),
            np.where(is_comment, events.screen_B, 0),
            np.where(is_comment, piece["end_of_line"], 0),
        ]
        column = np.ones((len(is_comment), 1), np.int64)
        prompt_BS = np.concatenate(
            [
                column * piece["begin"],
                np.where(order, piece["comments_first"], piece["videos_first"]),
                column * piece["first_trail"],
                np.where(order, comments_BS, videos_BS),
                column * piece["second_trail"],
                np.where(order, videos_BS, comments_BS),
                np.stack(watching, 1),
                np.where(is_comment, piece["ask_comment"], piece["ask_video"])[:, None],
            ],
            axis=1,
        )
        prompt_length_BS = self.length_N[prompt_BS]
        response_BS = np.stack([events.target_B, column[:, 0] * piece["end"]], 1)
        response_length_BS = np.stack(
            [self.response_length_N[events.target_B], self.length_N[response_BS[:, 1]]], 1
        )
        return Prompts(
            np.concatenate([prompt_BS, response_BS], 1),
            np.concatenate([prompt_length_BS, response_length_BS], 1),
            prompt_length_BS.sum(1),
        )

    def _video_lines(self, events: PromptEvents) -> Numbers:
        """Pieces of each video event's line but for its number: (B, I, S)."""
        piece, popular_BI = self.pieces, events.popular_BI
        return _lines(
            [
                np.full_like(popular_BI, piece["caption"]),
                events.title_BI,
                np.where(popular_BI > 0, piece["top_comment"], 0),
                popular_BI,
                np.full_like(popular_BI, piece["end_of_line"]),
            ]
        )

    def _comment_lines(self, events: PromptEvents) -> Numbers:
        """Pieces of each comment event's line but for its number: (B, J, S)."""
        piece, title_BJ = self.pieces, events.comment_title_BJ
        parts = [np.full_like(title_BJ, piece["caption"]), title_BJ]
        is_later_BJ = np.zeros(title_BJ.shape, bool)
        for comment_BJ in np.moveaxis(events.comment_BJK, -1, 0):
            before_BJ = np.where(is_later_BJ, piece["between_comments"], piece["comments"])
            parts += [np.where(comment_BJ > 0, before_BJ, 0), comment_BJ]
            is_later_BJ |= comment_BJ > 0
        parts.append(np.where(is_later_BJ, piece["end_of_comments"], 0))
        parts.append(np.full_like(title_BJ, piece["end_of_line"]))
        return _lines(parts)

    def _numbered(self, line_BIS: Numbers, keep_BI: NDArray[np.bool_]) -> Numbers:
        """Number the lines that are kept 1, 2, … and put them in a row: (B, S)."""
        number_BI1 = self.line_numbers[np.cumsum(keep_BI, 1)][..., None]
        line_BIS = np.concatenate([number_BI1, line_BIS], 2) * keep_BI[..., None]
        nothing_B = np.where(keep_BI.any(1), 0, self.pieces["nothing"])
        return np.concatenate([nothing_B[:, None], line_BIS.reshape(len(line_BIS), -1)], 1)

    def _fitting_events(self, events: PromptEvents) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """The newest events of both sides together that a prompt has room for."""
        number = int(self.length_N[self.line_numbers].max())
        video_BI, comment_BJ = (
            self.length_N[lines].sum(2) + number
            for lines in (self._video_lines(events), self._comment_lines(events))
        )
        order_BE = np.concatenate([events.order_BI, events.comment_order_BJ], 1)
        length_BE = np.concatenate([video_BI, comment_BJ], 1) * (order_BE < NEVER)
        newest_BE = np.argsort(-order_BE.astype(np.int64), axis=1, kind="stable")
        request_B = self._longest_request() + self.length_N[events.screen_B]
        sum_BE = np.cumsum(np.take_along_axis(length_BE, newest_BE, 1), 1)
        keep_BE = np.empty(order_BE.shape, bool)
        np.put_along_axis(keep_BE, newest_BE, sum_BE <= (self.max_tokens - request_B)[:, None], 1)
        keep_BE &= order_BE < NEVER
        return keep_BE[:, : video_BI.shape[1]], keep_BE[:, video_BI.shape[1] :]

    def _longest_request(self) -> int:
        """Tokens of all that is in every prompt, but for the title on screen."""
        length = {name: int(self.length_N[number]) for name, number in self.pieces.items()}
        return (
            length["begin"]
            + max(length["videos_first"], length["comments_first"])
            + length["first_trail"]
            + length["second_trail"]
            + 2 * length["nothing"]
            + max(
                length["ask_video"],
                length["watching"] + length["end_of_line"] + length["ask_comment"],
            )
        )


def piece_texts(wording: Wording, max_history: int) -> dict[str, str]:
    """The fixed parts of prompts by name, with `max_history` line numbers."""
    lines = {f"line {n}": wording.line_number(n) for n in range(1, max_history + 1)}
    return {**asdict(wording), **lines}


def _lines(parts: list[Numbers]) -> Numbers:
    return np.stack(parts, axis=-1)


def _widen(piece_BS: Numbers, width: int) -> Numbers:
    return np.pad(piece_BS, ((0, 0), (0, width - piece_BS.shape[1])))
