"""Which videos may appear in an answer: exclusions and filters, exact, by catalogue row."""

from bisect import bisect_left
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from lsvcr.catalogue import NO_TIME, Catalogue, TextColumn
from service.engine.queries import VideoFilter

Rows = NDArray[np.integer]
Allows = Callable[[Rows], NDArray[np.bool_]]
"""Says for each row of an array whether it may appear."""


def allow_except(excluded: Rows, allows: Allows | None = None) -> Allows:
    """Allow all rows but the excluded ones, and of these what `allows` allows."""
    if not len(excluded):
        return _allow_all if allows is None else allows
    excluded_E = np.append(np.sort(excluded).astype(np.int64), np.iinfo(np.int64).max)

    def allows_row(row_N: Rows) -> NDArray[np.bool_]:
        is_allowed_N: NDArray[np.bool_] = excluded_E[excluded_E.searchsorted(row_N)] != row_N
        return is_allowed_N if allows is None else is_allowed_N & allows(row_N)

    return allows_row


def _allow_all(row_N: Rows) -> NDArray[np.bool_]:
    return np.ones(len(row_N), np.bool_)


def allow_matching(condition: VideoFilter, catalogue: Catalogue) -> Allows:
    """Compile a filter against one catalogue.

    A video whose category, author or time is unknown never matches a condition that asks for
    one, and is never ruled out by name.
    """
    tests: list[Allows] = []
    for column_V, names, any_of, none_of in (
        (
            catalogue.category_V,
            catalogue.categories,
            condition.categories_any,
            condition.categories_none,
        ),
        (catalogue.author_V, catalogue.authors, condition.authors_any, condition.authors_none),
    ):
        if any_of:
            tests.append(_has_code(column_V, _codes(any_of, names), wanted=True))
        if none_of:
            tests.append(_has_code(column_V, _codes(none_of, names), wanted=False))
    published_V = catalogue.published_V
    if condition.published_after_ms is not None:
        after_ms = max(condition.published_after_ms, NO_TIME + 1)
        tests.append(lambda row_N: published_V[row_N] >= after_ms)
    if condition.published_before_ms is not None:
        before_ms = condition.published_before_ms
        tests.append(
            lambda row_N: (published_V[row_N] < before_ms) & (published_V[row_N] != NO_TIME)
        )

    def allows(row_N: Rows) -> NDArray[np.bool_]:
        is_allowed_N = np.ones(len(row_N), np.bool_)
        for test in tests:
            is_allowed_N &= test(row_N)
        return is_allowed_N

    return allows


def _has_code(column_V: NDArray[np.int32], codes: NDArray[np.int32], *, wanted: bool) -> Allows:
    return lambda row_N: np.isin(column_V[row_N], codes, invert=not wanted)


def _codes(wanted: Iterable[str], names: TextColumn) -> NDArray[np.int32]:
    """Codes of the names that exist; they are sorted from code 1 on, and 0 means unknown."""
    codes = []
    for name in wanted:
        code = bisect_left(names, name, lo=1)
        if code < len(names) and names[code] == name:
            codes.append(code)
    return np.array(codes, np.int32)
