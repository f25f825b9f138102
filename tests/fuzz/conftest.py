from typing import Any

from effort import TRIED
from hypothesis import settings

settings.register_profile("fuzz")  # `make fuzz` chooses it: effort.py


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for kind, count in sorted(TRIED.items()):
        terminalreporter.write_line(f"tried {count:6} {kind}")
