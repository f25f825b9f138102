"""The documentation as a site: every link leads somewhere, and nothing comes from elsewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return folder


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        html = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe|source)[^>]*\ssrc=\"?(https?:[^\"\s>]+)", html)
        loaded += re.findall(r"<link[^>]*\shref=\"?(https?:[^\"\s>]+)", html)
        assert loaded == [], page


def test_the_reference_names_every_operation_of_the_interface(site: Path) -> None:
    text = (site / "reference" / "api.html").read_text(encoding="utf-8")
    for operation in ("POST /recommend/feed", "POST /events", "DELETE /users/{user_id}"):
        assert operation in text
    assert 'href="#videosbody"' in text and 'id="videosbody"' in text
