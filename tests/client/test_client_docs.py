"""The page about the client, run as written."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "client.md"


def test_the_page_runs_as_written(
    live_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    program = "\n".join(blocks).replace("http://127.0.0.1:8000", live_url)
    names: dict[str, object] = {}
    try:
        exec(compile(program, str(PAGE), "exec"), names)
    finally:
        names["client"].close()  # type: ignore[attr-defined]
    printed = capsys.readouterr().out
    assert "404 video 'none-such' is unknown" in printed
    assert printed.endswith("2 answers\n")
    assert (tmp_path / "events.spool").exists()
