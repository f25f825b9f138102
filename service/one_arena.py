"""Lets all threads of a process take memory from one place."""

import ctypes

_M_ARENA_MAX = -8
"""From glibc's `malloc.h`."""


def keep_one_arena() -> None:
    """Let what any thread freed be given back; to be called before there are threads.

    Otherwise each thread gets an arena of its own. `malloc_trim` shortens the first one alone: of
    each other one up to a megabyte stays behind, for as long as its thread lives.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        library.mallopt(_M_ARENA_MAX, 1)
