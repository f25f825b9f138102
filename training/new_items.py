"""Items that came after a run was trained: checked like a dataset folder, described by text alone.

Shape suffixes: N new videos, M new comments, E text width, F features.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lsvcr.catalogue import NO_TIME, Catalogue, IdIndex, item_hashes
from lsvcr.errors import DataError
from training.comment_features import fit_scales, style_numbers
from training.dataset_checks import TABLES, SourceTable, check_table, describe_bad
from training.run_folder import RunFolder
from training.run_texts import compared_vectors, embed_new
from training.split import Prepared
from training.table_files import find_table, read_table

ITEM_TABLES = ("videos", "comments")


@dataclass(frozen=True)
class NewItems:
    """Items that a catalogue doesn't have.

    Attributes:
        videos, comments: Columns of a dataset folder's tables. Comments stand under videos of the
            catalogue or under new ones.
    """

    videos: pl.DataFrame
    comments: pl.DataFrame

    def __len__(self) -> int:
        return len(self.videos) + len(self.comments)

    def after(self, earlier: "NewItems") -> "NewItems":
        """Both, the earlier ones first."""
        return NewItems(
            pl.concat([earlier.videos, self.videos]), pl.concat([earlier.comments, self.comments])
        )


@dataclass(frozen=True)
class NewText:
    """What is known of new items beside their ids, in their order.

    Attributes:
        category_N: int32 codes of the run's catalogue, 0 where it doesn't have the category.
    """

    title_NE: NDArray[np.float32]
    comment_ME: NDArray[np.float32]
    feature_MF: NDArray[np.float32]
    category_N: NDArray[np.int32]


def load_items(path: Path, known_videos: Sequence[str]) -> NewItems:
    """Read `videos` and `comments`, comments the most liked first.

    Args:
        path: A folder with either table or both, or one table's file, named as in a folder.
        known_videos: Ids of videos that comments may stand under, beside those of the table.

    Raises:
        DataError: Naming file, row, column and value of the first thing wrong.
    """
    sources = _find_sources(path)
    videos = _checked("videos", sources, None)
    known = pl.DataFrame({"video_id": [*known_videos, *videos["video_id"]]}).unique()
    comments = _checked("comments", sources, known)
    likes = pl.col("likes").fill_null(0)
    return NewItems(videos, comments.sort(likes, descending=True, maintain_order=True))


def load_new_items(path: Path, catalogue: Catalogue) -> NewItems:
    """As `load_items`, without what the catalogue has already.

    A known item stays as it is, whatever the file says of it.
    """
    items = load_items(path, list(catalogue.video_id)[1:])
    return NewItems(
        _unknown(items.videos, "video_id", catalogue.video_index),
        _unknown(items.comments, "comment_id", catalogue.comment_index),
    )


def update_items(folder: Path, path: Path) -> NewItems:
    """Put items into the tables of a dataset folder of Parquet files; known ones are replaced.

    Args:
        folder: Changed in place, a table at a time, each at once.
        path: As of `load_items`.

    Returns:
        What was put in.

    Raises:
        DataError: Naming what is wrong with the items, or if the folder has no such table.
    """
    known = {name: _read_own(folder / f"{name}.parquet", name) for name in ITEM_TABLES}
    items = load_items(path, known["videos"]["video_id"].to_list())
    for name, new in zip(ITEM_TABLES, (items.videos, items.comments), strict=True):
        if len(new):
            kept = known[name].join(new, on=TABLES[name].key, how="anti")
            beside = folder / f".{name}.partial"
            pl.concat([kept, new], how="diagonal_relaxed").write_parquet(beside)
            os.replace(beside, folder / f"{name}.parquet")
    return items


def items_beyond(catalogue: Catalogue, known: Catalogue) -> NewItems:
    """What one catalogue has and another doesn't, in its order."""
    is_new_V = known.video_index.rows(item_hashes(list(catalogue.video_id))) == 0
    is_new_C = known.comment_index.rows(item_hashes(list(catalogue.comment_id))) == 0
    video_N = np.flatnonzero(is_new_V)[1:].tolist()  # the padding row is nobody's
    comment_M = np.flatnonzero(is_new_C)[1:].tolist()
    published = (int(catalogue.published_V[row]) for row in video_N)
    videos = {
        "video_id": [catalogue.video_id[row] for row in video_N],
        "title": [catalogue.video_title[row] for row in video_N],
        "category": [catalogue.categories[catalogue.category_V[row]] or None for row in video_N],
        "author_id": [catalogue.authors[catalogue.author_V[row]] or None for row in video_N],
        "published_at": [None if time == NO_TIME else time for time in published],
    }
    comments = {
        "comment_id": [catalogue.comment_id[row] for row in comment_M],
        "video_id": [catalogue.video_id[catalogue.comment_video_C[row]] for row in comment_M],
        "text": [catalogue.comment_text[row] for row in comment_M],
    }
    return NewItems(_frame("videos", videos), _frame("comments", comments))


def describe_new_items(run: RunFolder, prepared: Prepared, items: NewItems) -> NewText:
    """Embed new texts as the run's were, by the same language model and onto the same components.

    Comments are standardised by what the run's are spread like.

    Raises:
        DataError: If the language model is missing, or isn't the one of the run's vectors.
    """
    titles = items.videos["title"].to_list()
    texts = items.comments["text"].to_list()
    vectors = embed_new(run, prepared, titles + texts)
    comment_ME = vectors.lookup(texts)
    feature_MF = np.zeros((len(texts), 0), np.float32)
    if compared := compared_vectors(run, prepared, texts):
        scales = fit_scales(prepared, compared_vectors(run, prepared, prepared.texts()[1]))
        feature_MF = scales.apply(compared, style_numbers(texts))
    code = {name: code for code, name in enumerate(prepared.catalogue.categories) if code}
    return NewText(
        title_NE=vectors.lookup(titles),
        comment_ME=comment_ME,
        feature_MF=feature_MF,
        category_N=np.array([code.get(name, 0) for name in items.videos["category"]], np.int32),
    )


def _find_sources(path: Path) -> dict[str, Path]:
    if path.is_dir():
        found = {name: find_table(path, name) for name in ITEM_TABLES}
        sources = {name: file for name, file in found.items() if file is not None}
    else:
        sources = {path.name.split(".")[0]: path}
    if not sources or set(sources) - {*ITEM_TABLES}:
        raise DataError(f"{path}: is neither a table named videos or comments nor a folder of them")
    return sources


def _read_own(path: Path, name: str) -> pl.DataFrame:
    """A table of a dataset folder as it is; comments may be absent."""
    if name == "comments" and not path.is_file():
        return _frame(name, {})
    try:
        return pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _checked(name: str, sources: dict[str, Path], known: pl.DataFrame | None) -> pl.DataFrame:
    columns = TABLES[name].columns
    if name not in sources:
        return _frame(name, {})
    required = [column for column, rule in columns.items() if rule.required]
    optional = [column for column, rule in columns.items() if not rule.required]
    rows = read_table(sources[name], required, optional)
    frame, bad = check_table(name, SourceTable(str(sources[name]), rows), known, "ms")
    if len(bad):
        raise DataError(describe_bad(bad))
    return frame


def _unknown(frame: pl.DataFrame, key: str, index: IdIndex) -> pl.DataFrame:
    """The rows whose item an index doesn't know."""
    row_N = index.rows(item_hashes(frame[key].to_list()))
    return frame.filter(pl.Series(row_N == 0, dtype=pl.Boolean))


def _frame(name: str, content: dict[str, list[object]]) -> pl.DataFrame:
    """A table with all its columns; those not given are empty."""
    rows = len(next(iter(content.values()), []))
    return pl.DataFrame(
        {
            column: pl.Series(column, content.get(column, [None] * rows), dtype=rule.dtype)
            for column, rule in TABLES[name].columns.items()
        }
    )
