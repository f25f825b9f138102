"""Steps that importers share: rows left out on purpose, days and seconds as milliseconds.

What can't be converted stays as it is, so that the checks refuse it by file, row and value.
"""

import polars as pl

from training.dataset_checks import SourceTable
from training.table_files import SOURCE_ROW


def leave_out_blank(source: SourceTable, column: str) -> tuple[SourceTable, pl.DataFrame]:
    """Part the rows without text from the others.

    Returns:
        The table without them, and the rows left out, as `Dataset.skipped` lists them.
    """
    is_blank = pl.col(column).fill_null("").str.strip_chars() == ""
    left_out = source.rows.filter(is_blank).select(
        pl.lit(source.file).alias("file"),
        pl.col(SOURCE_ROW).cast(pl.Int64).alias("row"),
        pl.lit(column).alias("column"),
        pl.lit(None, pl.String).alias("value"),
        pl.lit("is empty").alias("reason"),
    )
    return SourceTable(source.file, source.rows.filter(~is_blank)), left_out


def days_as_ms(column: str) -> pl.Expr:
    """Days such as 2009-10-02 as the Unix milliseconds of their first instant, UTC; as text."""
    day = pl.col(column).str.to_date("%Y-%m-%d", strict=False)
    return pl.coalesce(day.cast(pl.Datetime("ms")).cast(pl.Int64).cast(pl.String), pl.col(column))


def seconds_as_ms(column: str) -> pl.Expr:
    """Unix seconds as Unix milliseconds; as text."""
    seconds = pl.col(column).cast(pl.Int64, strict=False)
    return pl.coalesce((seconds * 1000).cast(pl.String), pl.col(column))
