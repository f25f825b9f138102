"""What crosses the socket between front-ends and an engine process: frames of plain data.

A frame is its length (uint32, little-endian) and one MessagePack message; arrays travel as dtype,
shape and raw bytes. Every question has a number, which its reply repeats.

Shape suffixes: B users, A of them whose comments are asked for, S slots of either side, F
numbers of a slot, N candidates, D width.
"""

import asyncio
import struct
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec
import numpy as np
from msgspec.structs import astuple
from numpy.typing import NDArray

from lsvcr.errors import BundleError, LsvcrError
from lsvcr.history import HistoryBatch
from service.engine.candidate_index import CandidateBatch, IndexSize, Kind
from service.engine.encoder_session import Encoding
from service.engine.first_look import CommentTastes, FirstLook
from service.engine.warm_bundle import EncodedUsers
from service.errors import (
    DeadlineExceededError,
    EngineFailedError,
    EngineLostError,
    NotReadyError,
    OverloadedError,
)

Array = np.ndarray
MessageT = TypeVar("MessageT")

_LENGTH = struct.Struct("<I")
_RAISED_THERE: dict[str, type[LsvcrError]] = {
    kind.__name__: kind
    for kind in (
        BundleError,
        DeadlineExceededError,
        EngineFailedError,
        EngineLostError,
        NotReadyError,
        OverloadedError,
    )
}
"""Errors that mean the same here as there; any other is the engine's own failure."""


class Open(msgspec.Struct, tag=True, array_like=True):
    """Load a version, and keep it while this connection wants it."""

    number: int
    version: str


class Release(msgspec.Struct, tag=True, array_like=True):
    """This connection wants a version no more; there is no reply."""

    version: str


class Encode(msgspec.Struct, tag=True, array_like=True):
    """`OpenBundle.encode`."""

    number: int
    version: str
    until_s: float
    look: FirstLook
    history_BSF: Array


class Search(msgspec.Struct, tag=True, array_like=True):
    """`OpenBundle.search`."""

    number: int
    version: str
    kind: Kind
    counts: list[int]
    query_BD: Array


class Prior(msgspec.Struct, tag=True, array_like=True):
    """`OpenBundle.set_prior`.

    Attributes:
        digest: Of the logits.
        logit_V: None asks whether the engine has them already.
    """

    number: int
    version: str
    digest: bytes
    logit_V: Array | None


class Beat(msgspec.Struct, tag=True, array_like=True):
    """Asks for a sign of life of whatever computes, in its turn."""

    number: int


class Alive(msgspec.Struct, tag=True, array_like=True):
    """Reply to `Beat`."""

    number: int


class PriorKnown(msgspec.Struct, tag=True, array_like=True):
    """Reply to `Prior`."""

    number: int
    is_known: bool


class Found(msgspec.Struct, tag=True, array_like=True):
    """Reply to `Search`: what `pack_found` made of a `CandidateBatch`, and the rest of it."""

    number: int
    found_BX: Array
    error: float
    with_parts: bool


class EncodedComments(msgspec.Struct, array_like=True):
    """`CommentTastes` in a reply to `Encode`."""

    user_AX: Array
    error: float
    with_parts: bool


class Encoded(msgspec.Struct, tag=True, array_like=True):
    """Reply to `Encode`: an `EncodedUsers`, as few arrays as can be, as each takes its time.

    Attributes:
        user_BX: Of each user the preference, the shares of `slots` slots, and what was found, as in
            `Found`.
        comments: The same of those whose comments were asked for.
    """

    number: int
    user_BX: Array
    slots: int
    comment_state_BSD: Array
    error: float
    with_parts: bool
    comments: EncodedComments | None


class Opened(msgspec.Struct, tag=True, array_like=True):
    """Reply to `Open`."""

    number: int
    sizes: dict[Kind, tuple[int, int, bool]]
    description: dict[str, Any]


class Failed(msgspec.Struct, tag=True, array_like=True):
    """Reply to any question that failed."""

    number: int
    error: str
    text: str


Question = Open | Release | Encode | Search | Prior | Beat
Reply = Opened | Encoded | Found | PriorKnown | Failed | Alive


def join_histories(contents: Sequence[Array]) -> Array:
    """Stack several batches of packed histories, padded to the longest among them."""
    slots = max(content_BSF.shape[1] for content_BSF in contents)
    return np.concatenate(
        [
            content_BSF
            if content_BSF.shape[1] == slots
            else HistoryBatch.unpacked(content_BSF)
            .padded(rows=len(content_BSF), slots=slots)
            .packed()
            for content_BSF in contents
        ]
    )


def pack_found(found: CandidateBatch) -> Array:
    """Lay out what was found row by row, (B, X): parts and, as bits of float32, catalogue rows."""
    row_BN = found.row_BN.astype(np.int32, copy=False)
    return np.concatenate([found.part_BN, row_BN.view(np.float32)], axis=1)


def unpack_found(
    found_BX: Array, error: float, with_parts: bool, counts: Sequence[int], rows: int
) -> CandidateBatch:
    """Undo `pack_found`.

    Args:
        error, with_parts: Of the batch.
        counts: As they were asked for; a reply may have room for more.
        rows: How many the index holds.
    """
    found = found_BX.shape[1] // 2
    row_BN = found_BX[:, found:].view(np.int32)
    return CandidateBatch(row_BN, found_BX[:, :found], counts, rows, error, with_parts)


def pack_users(encoded: EncodedUsers) -> Array:
    """Lay out encoded users row by row, as `Encoded` has them."""
    encoding = encoded.encoding
    found_BX = pack_found(encoded.candidates)
    parts = [encoding.video_preference_BD, encoding.video_share_BI, found_BX]
    return np.concatenate(parts, axis=1)


def pack_tastes(tastes: CommentTastes) -> Array:
    """Lay out what was asked about comments, likewise."""
    parts = [tastes.preference_AD, tastes.share_AJ, pack_found(tastes.candidates)]
    return np.concatenate(parts, axis=1)


def unpack_users(
    reply: Encoded, look: FirstLook, *, width: int, slots: int, sizes: dict[Kind, IndexSize]
) -> EncodedUsers:
    """Undo `pack_users` and `pack_tastes`.

    Args:
        look: What was asked.
        width: D.
        slots: Of the histories that were sent; others that were encoded with them may have more.
        sizes: Of the indexes.
    """
    user_BX, end = reply.user_BX, width + reply.slots
    share_BS = user_BX[:, width : width + slots]
    encoding = Encoding(user_BX[:, :width], share_BS, reply.comment_state_BSD[:, :slots])
    found = user_BX[:, end:], reply.error, reply.with_parts
    candidates = unpack_found(*found, look.counts, sizes["video"].rows)
    if reply.comments is None or look.comments is None:
        return EncodedUsers(encoding, candidates, None)
    user_AX, error, with_parts = astuple(reply.comments)
    fetched = unpack_found(
        user_AX[:, end:], error, with_parts, look.comments.counts, sizes["comment"].rows
    )
    share_AS = user_AX[:, width : width + slots]
    return EncodedUsers(encoding, candidates, CommentTastes(user_AX[:, :width], share_AS, fetched))


def unpack_sizes(opened: Opened) -> dict[Kind, IndexSize]:
    """The extents of a version's indexes."""
    return {kind: IndexSize(*size) for kind, size in opened.sizes.items()}


def pack_error(number: int, error: BaseException) -> Failed:
    """Name an error; only what was raised on purpose tells its text."""
    kind = type(error).__name__
    return Failed(number, kind, str(error) if kind in _RAISED_THERE else "")


def unpack_error(failed: Failed) -> Exception:
    """Undo `pack_error`; an error that nobody raised on purpose becomes a RuntimeError."""
    kind = _RAISED_THERE.get(failed.error)
    if kind is None:
        return RuntimeError(f"the engine failed: {failed.error}")
    return kind(failed.text)


def frame(message: Question | Reply) -> bytearray:
    """One message as it crosses the socket."""
    framed = bytearray(_LENGTH.size)
    _encode_into(message, framed, _LENGTH.size)
    _LENGTH.pack_into(framed, 0, len(framed) - _LENGTH.size)
    return framed


class Frames(asyncio.Protocol):
    """Cuts what comes in into messages, and sends messages as frames.

    Args:
        kind: What comes in.
        receive: Called with each message.
        lose: Called when the connection has ended.
    """

    def __init__(
        self,
        kind: Any,
        receive: Callable[["Frames", Any], None],
        lose: Callable[["Frames"], None],
    ) -> None:
        self._decode = msgspec.msgpack.Decoder(kind, dec_hook=_decode_array).decode
        self._receive = receive
        self._lose = lose
        self._begun = bytearray()  # of a message
        self._transport: asyncio.Transport | None = None
        self._unsent: list[bytearray] = []

    @property
    def is_open(self) -> bool:
        """Whether somebody is at the other end."""
        return self._transport is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way out."""
        self._transport = transport  # type: ignore[assignment] # a stream's

    def data_received(self, data: bytes) -> None:
        """Hand on every message that is complete."""
        if self._begun:  # as where a message is larger than what is read at once
            self._begun += data
            if len(self._begun) < _end_of_message(self._begun, 0):
                return
            data = bytes(self._begun)
        start = 0
        while (end := _end_of_message(data, start)) <= len(data):
            message = self._decode(data[start + _LENGTH.size : end])
            start = end
            self._receive(self, message)
        self._begun = bytearray(data[start:])

    def connection_lost(self, error: Exception | None) -> None:
        """Tell the owner."""
        self._transport = None
        self._lose(self)

    def send(self, message: Question | Reply) -> None:
        """Send one message; raises EngineLostError where nobody is there any more.

        All that is sent in one turn of the event loop leaves together: half of what an engine
        process did for small questions was the system's call for each reply.
        """
        if self._transport is None:
            raise EngineLostError("the engine is not connected")
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._write)
        self._unsent.append(frame(message))

    def _write(self) -> None:
        if self._transport is not None and self._unsent:
            self._transport.writelines(self._unsent)
        self._unsent = []

    def close(self) -> None:
        """End the connection."""
        self._write()
        if self._transport is not None:
            self._transport.close()


def _end_of_message(data: bytes | bytearray, start: int) -> int:
    """Where the message that begins there ends, or at least its length does."""
    end = start + _LENGTH.size
    return end if end > len(data) else end + int(_LENGTH.unpack_from(data, start)[0])


def _encode_array(value: Any) -> tuple[str, Sequence[int], memoryview]:
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, np.ascontiguousarray(value).data
    raise NotImplementedError(f"{type(value).__name__} does not travel")


_encode_into = msgspec.msgpack.Encoder(enc_hook=_encode_array).encode_into


def _decode_array(kind: type, value: Any) -> NDArray[Any]:
    dtype, shape, content = value
    return np.frombuffer(content, np.dtype(dtype)).reshape(shape)
