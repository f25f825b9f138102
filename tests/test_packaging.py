"""The wheel as somebody gets it who has no checkout."""

import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
import shtab

from lsvcr import __version__

ROOT = Path(__file__).parents[1]
PACKAGES = ("lsvcr", "lsvcr_client", "training", "export", "service", "analysis")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from what git tracks, so that leftovers of the checkout can't help."""
    source = tmp_path_factory.mktemp("source")
    for name in tracked(""):
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q"]
    subprocess.run([*command, "-w", str(out), str(source)], check=True)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """An environment in which the wheel's modules come first."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return {**os.environ, "PYTHONPATH": str(folder)}


def tracked(folder: str) -> list[str]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", folder or "."]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.split("\n") if name and (ROOT / name).is_file()]


def test_the_wheel_holds_every_file_of_the_packages_and_no_other(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = {name for package in PACKAGES for name in tracked(package)}
    compiled = {f"lsvcr/{name}.abi3.so" for name in ("_encoder", "_loops", "_nearest")}
    assert names == expected | compiled
    assert wheel.name.startswith(f"lsvcr-{__version__}-cp311-abi3-")  # any later Python, too


def test_the_version_stands_in_one_place() -> None:
    assigned = re.compile(rf"""version_*\W+{re.escape(__version__)}\b""", re.I)
    found = [
        name
        for name in tracked("")
        if name.endswith((".py", ".toml", ".yaml", ".yml", ".cfg"))
        and assigned.search((ROOT / name).read_text(encoding="utf-8"))
    ]
    assert found == ["lsvcr/__init__.py"]


def check(
    environment: Mapping[str, str], folder: Path, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Ask the installed service how it is, from a folder without any code."""
    command = [sys.executable, "-m", "service", "--check", "--device", "cpu", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_an_installed_service_finds_all_it_needs(
    installed: Mapping[str, str], tiny_master: Path, tmp_path: Path
) -> None:
    ran = check(installed, tmp_path, "--registry", str(tiny_master))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"ok    lsvcr {__version__}" in ran.stdout
    assert "50 videos, 200 comments, checksums agree" in ran.stdout
    assert ran.stdout.endswith("ready to serve\n")
    assert list(tmp_path.iterdir()) == []


def test_what_is_wrong_is_named_with_its_remedy(
    installed: Mapping[str, str], tmp_path: Path
) -> None:
    arguments = ("--registry", "none-such", "--redis", "redis://:secret@127.0.0.1:1")
    ran = check(installed, tmp_path, *arguments)
    assert ran.returncode == 1
    assert "fail  registry none-such has no current version" in ran.stdout
    assert "→ python -m export --run RUN --registry none-such --activate" in ran.stdout
    assert "fail  store: redis://127.0.0.1:1" in ran.stdout
    assert "secret" not in ran.stdout + ran.stderr
    assert ran.stdout.endswith("2 to fix\n")
    ran = check(installed, tmp_path, "--max-batch", "0")
    assert ran.returncode == 1
    assert "fail  settings: --max-batch" in ran.stdout


def test_without_its_packages_the_service_names_them_and_the_extra(
    installed: Mapping[str, str], tmp_path: Path
) -> None:
    command = [sys.executable, "-S", "-m", "service", "--registry", "x"]  # -S: no site-packages
    ran = subprocess.run(command, cwd=tmp_path, env=installed, capture_output=True, text=True)
    assert ran.returncode == 1
    assert "fail  fastapi is missing\n      → pip install 'lsvcr[service]'" in ran.stdout
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("place", ["service.settings", "training.__main__", "export.__main__"])
def test_shells_can_complete_the_commands(place: str, tmp_path: Path) -> None:
    module = __import__(place, fromlist=["build_parser"])
    script = tmp_path / "completion"
    script.write_text(shtab.complete(module.build_parser(), shell="bash"))
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert "--" in script.read_text()
