"""`python -m benchmarks NAME …`: run one benchmark; `NAME --help` says what it takes."""

import pkgutil
import sys
from importlib import import_module
from pathlib import Path

NOT_RUN = {
    "__main__",
    "invented_bundle",
    "invented_users",
    "large_bundle",
    "load_generator",
    "plots",
    "results_file",
    "service_process",
    "timing",
}


def main() -> int:
    """Dispatch to the module's own `main`."""
    names = sorted(
        module.name.replace("_", "-")
        for module in pkgutil.iter_modules([str(Path(__file__).parent)])
        if module.name not in NOT_RUN and not module.ispkg
    )
    if len(sys.argv) < 2 or sys.argv[1] not in names:
        print(f"usage: python -m benchmarks NAME …\nNAME is one of: {', '.join(names)}")
        return 0 if sys.argv[1:] in (["-h"], ["--help"]) else 2
    name = sys.argv.pop(1)
    sys.argv[0] = f"python -m benchmarks {name}"
    import_module(f"benchmarks.{name.replace('-', '_')}").main()
    return 0


if __name__ == "__main__":
    sys.exit(main())
