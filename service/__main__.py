"""`python -m service`: serve a registry's current bundle over HTTP, or say what that would take.

Where packages are missing this still runs, to name them.
"""

import os
import sys
from collections.abc import Sequence

from service.self_check import missing_packages, run_check

CHECK = "--check"


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until told to stop; returns the exit status, 2 where the settings are at fault."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if CHECK in arguments or missing_packages():
        return run_check([argument for argument in arguments if argument != CHECK])
    # Before anything imports numpy, and for workers and engines too: threads of its matrix products
    # wait by spinning, which doubled what a ranking costs.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from service.serving import serve

    return serve(arguments)


if __name__ == "__main__":
    sys.exit(main())
