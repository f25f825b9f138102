"""The report of an experiment, made by `analysis/` in processes of its own.

What it takes (polars, scipy) is never loaded where requests are answered, and may be missing.
"""

import asyncio
import contextlib
import importlib.util
import os
import sys
import tempfile
from pathlib import Path

from service.errors import AnalysisError, AnalysisMissingError, OverloadedError

TIMEOUT_S = 300
_LIBRARIES = ("analysis", "polars", "scipy", "tea_tasting")
_NEEDED = "reports need the analysis extra: pip install 'lsvcr[analysis]'"


class ReportProcess:
    """Exports the log into a folder and reports on it, one report at a time.

    Args:
        store_url: Where the log is.
        folder: Keeps what was exported, so that the next export only adds to it.
    """

    def __init__(self, store_url: str, folder: Path) -> None:
        self._store_url = store_url
        self._folder = folder
        self._lock = asyncio.Lock()

    async def build(self, definition: bytes, plan: bytes, *, as_page: bool) -> bytes:
        """Make a report, as JSON or as an HTML page.

        Args:
            definition: The experiment, as JSON.
            plan: How to analyse it, as JSON; the defaults for what it doesn't say.

        Raises:
            AnalysisMissingError: If what it takes isn't installed.
            AnalysisError: If there is nothing to report on, or the plan is wrong; says why.
            OverloadedError: If a report is being made already.
        """
        if any(importlib.util.find_spec(name) is None for name in _LIBRARIES):
            raise AnalysisMissingError(_NEEDED)
        if self._lock.locked():
            raise OverloadedError("another report is being made")
        async with self._lock:
            await self._run("export", "--out", str(self._folder))
            with tempfile.TemporaryDirectory() as name:
                beside = Path(name)
                (beside / "definition").write_bytes(definition)
                (beside / "plan").write_bytes(plan)
                arguments = ["--exposures", str(self._folder)]
                arguments += ["--definition", str(beside / "definition")]
                arguments += ["--plan", str(beside / "plan")]
                if not as_page:
                    return await self._run("report", *arguments, "--json")
                await self._run("report", *arguments, "--out", str(beside / "page"))
                return (beside / "page").read_bytes()

    async def _run(self, *arguments: str) -> bytes:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "analysis",
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={
                **os.environ,
                "LSVCR_REDIS": self._store_url,
            },  # not for a list of processes to tell
        )
        try:
            async with asyncio.timeout(TIMEOUT_S):
                output, errors = await process.communicate()
        except TimeoutError as error:
            raise AnalysisError(f"the report was not ready after {TIMEOUT_S} s") from error
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
        if process.returncode:
            raise AnalysisError(self._reason(errors.decode()))
        return output

    def _reason(self, errors: str) -> str:
        """What the command said, without where our files are."""
        last = (errors.strip() or "the report failed").splitlines()[-1]
        place, _, reason = last.removeprefix("error: ").partition(": ")
        return reason if os.sep in place else last.removeprefix("error: ")
