"""The functions of `_loops.c`, which is compiled when the package is installed."""

try:
    from lsvcr._loops import (
        build_timelines,
        choose_best,
        fill_windows,
        find_rows,
        keep_known,
        score_rows,
    )
except ImportError as error:
    raise ImportError(
        "lsvcr/_loops.c is not compiled: have a C compiler and Python's headers (Debian's gcc, "
        "libc6-dev and python3-dev) and install the package again, with pip's --force-reinstall"
    ) from error

__all__ = [
    "build_timelines",
    "choose_best",
    "fill_windows",
    "find_rows",
    "keep_known",
    "score_rows",
]
