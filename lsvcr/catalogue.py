"""Videos and comments by dense row, from memory-mapped columns.

Row 0 is padding in both tables. Comments are sorted by the video they stand under and, there, most
popular first, so a video's comments are one slice and its popular comments the head of that slice.
"""

import codecs
import hashlib
import math
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self, get_args, get_origin

import numpy as np
from numpy.typing import NDArray

from lsvcr import loops
from lsvcr.errors import BundleError

NO_TIME = np.iinfo(np.int64).min
"""Stands for an unknown time in columns of Unix milliseconds."""
_CHUNK_BYTES = 1 << 24
_NO_BYTES_YET = hashlib.blake2b(digest_size=8)
_SHARE_BEGINNING_BITS = 4
"""Some 2**4 hashes of an index share a beginning."""


def item_hash(identifier: str) -> int:
    """Hash a video or comment id to 64 bits (BLAKE2b, so equal in every process and language)."""
    return int.from_bytes(item_digest(identifier), "little")


def item_digest(identifier: str) -> bytes:
    """The hash of an id as the 8 bytes that it is stored as, little-endian."""
    digest = _NO_BYTES_YET.copy()  # faster than a new one with its settings
    digest.update(identifier.encode())
    return digest.digest()


def item_hashes(identifiers: Sequence[str]) -> NDArray[np.uint64]:
    """Hash ids, in order; shape (N,)."""
    if not identifiers:  # as most requests exclude nothing
        return np.empty(0, np.uint64)
    digests = b"".join(map(item_digest, identifiers))
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64, copy=False)


@dataclass(frozen=True)
class TextColumn(Sequence[str]):
    """Strings as one UTF-8 blob with offsets; reading one touches only its bytes.

    Attributes:
        blob_B: uint8, all texts one after the other.
        offset_N1: int64, text i is `blob_B[offset_N1[i] : offset_N1[i + 1]]`.
    """

    blob_B: NDArray[np.uint8]
    offset_N1: NDArray[np.int64]

    @classmethod
    def build(cls, texts: Sequence[str]) -> Self:
        """Encode texts, in order."""
        encoded = [text.encode() for text in texts]
        offset_N1 = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum([len(text) for text in encoded], out=offset_N1[1:])
        return cls(np.frombuffer(b"".join(encoded), np.uint8), offset_N1)

    def __len__(self) -> int:
        return len(self.offset_N1) - 1

    def __getitem__(self, row: int) -> str:  # type: ignore[override] # no slices: nobody needs them
        return self.blob_B[self.offset_N1[row] : self.offset_N1[row + 1]].tobytes().decode()

    def texts(self, row_N: NDArray[np.integer]) -> list[str]:
        """Read many rows at once."""
        return loops.read_texts(self.blob_B, self.offset_N1, np.ascontiguousarray(row_N, np.int64))

    def __iter__(self) -> Iterator[str]:
        return (self[row] for row in range(len(self)))


@dataclass(frozen=True)
class IdIndex:
    """Finds rows by item hash: a sorted array, so that it can be memory-mapped.

    Attributes:
        sorted_hash_N: uint64, ascending.
        row_N: int32, the row of each hash.
    """

    sorted_hash_N: NDArray[np.uint64]
    row_N: NDArray[np.int32]

    @classmethod
    def build(cls, ids: Sequence[str]) -> Self:
        """Index ids whose rows are 1, 2, …: row 0 is padding and has none.

        Raises:
            BundleError: If two ids share a hash.
        """
        hash_N = item_hashes(ids)
        order_N = np.argsort(hash_N, kind="stable")
        sorted_hash_N = hash_N[order_N]
        clash_P = np.flatnonzero(sorted_hash_N[1:] == sorted_hash_N[:-1])
        if len(clash_P):
            first, second = (ids[order_N[clash_P[0] + step]] for step in (0, 1))
            raise BundleError(f"ids {first!r} and {second!r} are equal or share a 64-bit hash")
        return cls(sorted_hash_N, (order_N + 1).astype(np.int32))

    def rows(self, hash_N: NDArray[np.uint64]) -> NDArray[np.int32]:
        """Look up rows; 0 where the catalogue doesn't know the item. Shape as `hash_N`."""
        found_N = np.zeros(hash_N.shape, np.int32)
        if len(self.sorted_hash_N):
            hash_N = np.ascontiguousarray(hash_N, np.uint64)
            start_T, shift = self._starts
            loops.find_rows(hash_N, self.sorted_hash_N, self.row_N, start_T, shift, found_N)
        return found_N

    def known(
        self,
        hash_N: NDArray[np.uint64],
        time_N: NDArray[np.int64],
        start_U1: NDArray[np.int64],
    ) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
        """Keep the events whose item the catalogue knows.

        Args:
            hash_N: Of the items of many users' events.
            time_N: When they were; is overwritten.
            start_U1: User u's events are `start_U1[u]` to `[u + 1]`.

        Returns:
            Rows, times, and where each user's begin.
        """
        row_N, known_start_U1 = np.empty(len(hash_N), np.int32), np.empty_like(start_U1)
        start_T, shift = self._starts
        loops.find_known(
            hash_N,
            time_N,
            start_U1,
            self.sorted_hash_N,
            self.row_N,
            start_T,
            shift,
            row_N,
            known_start_U1,
        )
        known = int(known_start_U1[-1])
        return row_N[:known], time_N[:known], known_start_U1

    @cached_property
    def _starts(self) -> tuple[NDArray[np.int64], int]:
        """Where the hashes with each beginning start, and how far to shift a hash to its beginning.

        Binary search in millions of hashes waits for memory at each step; hashes are spread evenly,
        so that only a handful share a beginning, which is next to each other.
        """
        bits = max(1, len(self.sorted_hash_N).bit_length() - _SHARE_BEGINNING_BITS)
        shift = 64 - bits
        beginning_T = np.arange(1 << bits, dtype=np.uint64) << np.uint64(shift)
        return np.searchsorted(self.sorted_hash_N, beginning_T), shift

    def row(self, identifier: str) -> int:
        """Look up one id; 0 if unknown."""
        sought = np.uint64(item_hash(identifier))
        position = int(self.sorted_hash_N.searchsorted(sought))
        is_known = position < len(self.sorted_hash_N) and self.sorted_hash_N[position] == sought
        return int(self.row_N[position]) if is_known else 0


@dataclass(frozen=True)
class Catalogue:
    """All videos and comments of one bundle. Every column has a padding entry at row 0.

    Attributes:
        video_id, video_title: Text by video row.
        category_V, author_V: int32 codes into `categories` and `authors`; 0 = unknown.
        published_V: int64 Unix milliseconds or `NO_TIME`.
        comment_id, comment_text: Text by comment row.
        comment_video_C: int32, the video row each comment stands under.
        comment_start_V1: int64, comments of video row v are rows
            `comment_start_V1[v]` to `comment_start_V1[v + 1]` (exclusive), most popular first.
    """

    video_id: TextColumn
    video_title: TextColumn
    category_V: NDArray[np.int32]
    author_V: NDArray[np.int32]
    published_V: NDArray[np.int64]
    categories: TextColumn
    authors: TextColumn
    comment_id: TextColumn
    comment_text: TextColumn
    comment_video_C: NDArray[np.int32]
    comment_start_V1: NDArray[np.int64]
    video_index: IdIndex
    comment_index: IdIndex

    @property
    def video_count(self) -> int:
        """Rows of video tables, padding included."""
        return len(self.video_id)

    @property
    def comment_count(self) -> int:
        """Rows of comment tables, padding included."""
        return len(self.comment_id)

    def comments_under(self, video_row: int) -> NDArray[np.int64]:
        """Rows of the comments under a video, most popular first."""
        return np.arange(self.comment_start_V1[video_row], self.comment_start_V1[video_row + 1])

    def popular_comment(self) -> NDArray[np.int32]:
        """Each video's most popular comment row, 0 where it has none; shape (V,)."""
        has_comment_V = self.comment_start_V1[1:] > self.comment_start_V1[:-1]
        return np.where(has_comment_V, self.comment_start_V1[:-1], 0).astype(np.int32)

    def save(self, folder: Path) -> None:
        """Write every column as `.npy` files into an existing folder."""
        for name, array in self._arrays():
            np.save(folder / f"{name}.npy", array, allow_pickle=False)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Memory-map what `save` wrote, and check it.

        Raises:
            BundleError: If a column is missing, misshapen or contradicts another.
        """
        catalogue = cls.map(folder)
        catalogue.check()
        return catalogue

    @classmethod
    def map(cls, folder: Path) -> Self:
        """Memory-map what somebody has checked before.

        Raises:
            BundleError: If a column is missing or no array of its type.
        """

        def column(name: str, dtype: Any) -> NDArray[Any]:
            return load_array(folder / f"{name}.npy", dtype, dimensions=1)

        values: dict[str, object] = {}
        for name, kind in cls.__annotations__.items():
            if kind is TextColumn:
                values[name] = TextColumn(
                    column(f"{name}.blob", np.uint8), column(f"{name}.offset", np.int64)
                )
            elif kind is IdIndex:
                values[name] = IdIndex(
                    column(f"{name}.hash", np.uint64), column(f"{name}.row", np.int32)
                )
            else:
                values[name] = column(name, dtype_of(kind))
        return cls(**values)  # type: ignore[arg-type]

    def check(self) -> None:
        """Compare the columns with one another.

        Raises:
            BundleError: If lengths, offsets or row numbers disagree.
        """
        for name, text in self._texts():
            _check_text(name, text)
        videos, comments = self.video_count, self.comment_count
        lengths = {
            "video_title": (len(self.video_title), videos),
            "category_V": (len(self.category_V), videos),
            "author_V": (len(self.author_V), videos),
            "published_V": (len(self.published_V), videos),
            "comment_text": (len(self.comment_text), comments),
            "comment_video_C": (len(self.comment_video_C), comments),
            "comment_start_V1": (len(self.comment_start_V1), videos + 1),
            "video_index": (len(self.video_index.row_N), videos - 1),
            "comment_index": (len(self.comment_index.row_N), comments - 1),
        }
        for name, (actual, expected) in lengths.items():
            if actual != expected:
                raise BundleError(f"catalogue column {name} has {actual} entries, not {expected}")
        bounds: dict[str, tuple[NDArray[np.integer], int]] = {
            "category_V": (self.category_V, len(self.categories)),
            "author_V": (self.author_V, len(self.authors)),
            "comment_video_C": (self.comment_video_C, videos),
            "comment_start_V1": (self.comment_start_V1, comments + 1),
        }
        for name, (array, bound) in bounds.items():
            if len(array) and (array.min() < 0 or array.max() >= bound):
                raise BundleError(f"catalogue column {name} holds values outside 0 to {bound - 1}")
        if (np.diff(self.comment_start_V1) < 0).any():
            raise BundleError("catalogue column comment_start_V1 decreases")
        owner_C = np.repeat(np.arange(videos), np.diff(self.comment_start_V1))
        if not np.array_equal(self.comment_video_C[self.comment_start_V1[0] :], owner_C):
            raise BundleError("catalogue columns comment_start_V1 and comment_video_C disagree")
        for name, index in (("video", self.video_index), ("comment", self.comment_index)):
            _check_index(f"{name}_index", index)

    def _texts(self) -> Iterator[tuple[str, TextColumn]]:
        for name in self.__annotations__:
            value = getattr(self, name)
            if isinstance(value, TextColumn):
                yield name, value

    def _arrays(self) -> Iterator[tuple[str, NDArray[np.generic]]]:
        for name in self.__annotations__:
            value = getattr(self, name)
            if isinstance(value, TextColumn):
                yield f"{name}.blob", value.blob_B
                yield f"{name}.offset", value.offset_N1
            elif isinstance(value, IdIndex):
                yield f"{name}.hash", value.sorted_hash_N
                yield f"{name}.row", value.row_N
            else:
                yield name, value


def load_array(path: Path, *dtypes: Any, dimensions: int) -> NDArray[Any]:
    """Memory-map an `.npy` file; nothing of it is trusted before it is compared.

    Args:
        path: The file.
        dtypes: What it may hold, little-endian.
        dimensions: How many it must have.

    Raises:
        BundleError: If it is missing, another kind of array, or longer or shorter than it says.
    """
    name = f"{path.parent.name}/{path.name}"
    try:
        with path.open("rb") as file:
            if np.lib.format.read_magic(file) != (1, 0):
                raise BundleError(f"{name} is no array of a known format")
            shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
            start = file.tell()
        size_bytes = path.stat().st_size
    except (OSError, ValueError, TypeError, SyntaxError, tokenize.TokenError) as error:
        # numpy reads the header as Python's literals
        raise BundleError(f"{name} is missing or no array") from error
    if dtype not in dtypes or len(shape) != dimensions or (is_fortran and dimensions > 1):
        wanted = " or ".join(np.dtype(one).name for one in dtypes)
        raise BundleError(f"{name} is {dtype}{shape}, not {wanted} of {dimensions} dimension(s)")
    if min(shape) < 0 or start + math.prod(shape) * dtype.itemsize != size_bytes:
        raise BundleError(f"{name} has {size_bytes} bytes, which is not what its shape needs")
    mapped = np.memmap(path, dtype, mode="r", offset=start, shape=shape)
    return np.asarray(mapped)  # still mapped, without the cost of slicing a `memmap`


def dtype_of(annotation: Any) -> Any:
    """The element type in an annotation such as `NDArray[np.int32]`."""
    last = get_args(annotation)[-1]  # since numpy 2.5 the element; before, `np.dtype[element]`
    return get_args(last)[0] if get_origin(last) is np.dtype else last


def _check_text(name: str, text: TextColumn) -> None:
    """Raise BundleError unless offsets span the blob and each text is UTF-8 of its own."""
    offset_N1 = text.offset_N1
    if len(offset_N1) < 2 or offset_N1[0] != 0 or offset_N1[-1] != len(text.blob_B):
        raise BundleError(f"catalogue column {name}: offsets do not span its text")
    if (np.diff(offset_N1) < 0).any():
        raise BundleError(f"catalogue column {name}: offsets decrease")
    first_N = text.blob_B[offset_N1[offset_N1 < len(text.blob_B)]]
    if ((first_N & 0xC0) == 0x80).any():
        raise BundleError(f"catalogue column {name}: an offset cuts a character")
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(text.blob_B), _CHUNK_BYTES):
            decoder.decode(text.blob_B[start : start + _CHUNK_BYTES].data)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise BundleError(f"catalogue column {name} is no UTF-8") from error


def _check_index(name: str, index: IdIndex) -> None:
    """Raise BundleError unless every row has one hash, and the hashes ascend."""
    if len(index.sorted_hash_N) != len(index.row_N):
        raise BundleError(f"catalogue column {name} has not one hash for each row")
    if (index.sorted_hash_N[1:] <= index.sorted_hash_N[:-1]).any():
        raise BundleError(f"catalogue column {name}: hashes do not ascend")
    if not np.array_equal(np.sort(index.row_N), np.arange(1, len(index.row_N) + 1)):
        raise BundleError(f"catalogue column {name} does not hold every row once")


def build_catalogue(
    *,
    video_ids: Sequence[str],
    titles: Sequence[str],
    categories: Sequence[str | None],
    authors: Sequence[str | None],
    published_ms: Sequence[int | None],
    comment_ids: Sequence[str],
    comment_texts: Sequence[str],
    comment_video_ids: Sequence[str],
    likes: Sequence[int],
) -> Catalogue:
    """Give every video and comment its row.

    Videos keep their order (rows 1, 2, …). Comments are sorted by video row, then likes
    (descending), then the order given.

    Raises:
        BundleError: If ids repeat or a comment stands under an unknown video.
    """
    video_index = IdIndex.build(video_ids)
    video_row_C = video_index.rows(item_hashes(comment_video_ids))
    if len(video_row_C) and video_row_C.min() == 0:
        orphan = int(np.argmin(video_row_C))
        raise BundleError(
            f"comment {comment_ids[orphan]!r} stands under unknown video "
            f"{comment_video_ids[orphan]!r}"
        )
    order_C = np.lexsort((-np.asarray(likes, np.int64), video_row_C))
    sorted_video_C = np.concatenate([[0], video_row_C[order_C]]).astype(np.int32)
    starts = np.searchsorted(sorted_video_C, np.arange(len(video_ids) + 2)).astype(np.int64)
    starts[0] = 1  # the padding video owns no comment, not even the padding comment
    category_names, category_V = _encode_names(categories)
    author_names, author_V = _encode_names(authors)
    sorted_ids = [comment_ids[row] for row in order_C]
    return Catalogue(
        video_id=TextColumn.build(["", *video_ids]),
        video_title=TextColumn.build(["", *titles]),
        category_V=category_V,
        author_V=author_V,
        published_V=np.array(
            [NO_TIME, *(NO_TIME if time is None else time for time in published_ms)], np.int64
        ),
        categories=category_names,
        authors=author_names,
        comment_id=TextColumn.build(["", *sorted_ids]),
        comment_text=TextColumn.build(["", *(comment_texts[row] for row in order_C)]),
        comment_video_C=sorted_video_C,
        comment_start_V1=starts,
        video_index=video_index,
        comment_index=IdIndex.build(sorted_ids),
    )


def _encode_names(names: Sequence[str | None]) -> tuple[TextColumn, NDArray[np.int32]]:
    """Code names as 1, 2, … in sorted order, None as 0; the codes get a padding entry."""
    distinct = sorted({name for name in names if name is not None})
    code = {name: number for number, name in enumerate(distinct, start=1)}
    codes = [0, *(0 if name is None else code[name] for name in names)]
    return TextColumn.build(["", *distinct]), np.array(codes, np.int32)
