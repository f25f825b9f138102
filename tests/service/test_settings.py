import os
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest
from live_service import running_service

from service.settings import Settings, SettingsError, read_settings


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("LSVCR_")]:
        monkeypatch.delenv(name)


def test_a_flag_beats_the_environment_which_beats_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LSVCR_PORT", "1")
    monkeypatch.setenv("LSVCR_MAX_K", "7")
    settings = read_settings(["--registry", "r", "--port", "2"])
    assert (settings.port, settings.max_k, settings.workers) == (2, 7, 1)


@pytest.mark.parametrize("name", ["LSVCR_STORE_TIMEOUT", "lsvcr_prot"])
def test_an_unknown_variable_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(SettingsError, match=name):
        read_settings(["--registry", "r"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--registry: Field required"),
        (["--registry", "r", "--max-k", "0"], "--max-k: Input should be greater than"),
        (["--registry", "r", "--port", "x"], "--port: "),
        (["--registry", "r", "--device", "tpu"], "--device: "),
    ],
)
def test_a_wrong_value_is_named_by_its_flag(arguments: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        read_settings(arguments)


def test_only_with_keys_it_listens_beyond_this_machine() -> None:
    assert Settings(registry=Path()).listen_host == "127.0.0.1"
    assert Settings(registry=Path(), ingest_keys="k").listen_host == "0.0.0.0"
    assert Settings(registry=Path(), host="::").listen_host == "::"


def test_keys_come_from_variables_and_files(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("c\n\n d ,e\n")
    settings = Settings(registry=Path(), admin_keys=" a,b,", admin_keys_file=file)
    assert settings.keys == {"admin": ("a", "b", "c", "d", "e"), "recommend": (), "ingest": ()}
    with pytest.raises(SettingsError, match="cannot be read"):
        _ = Settings(registry=Path(), admin_keys_file=tmp_path / "none").keys
    with pytest.raises(SettingsError, match="character"):
        _ = Settings(registry=Path(), admin_keys="kä").keys


def test_a_worker_reads_the_same_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.touch()
    settings = Settings(
        registry=Path("r"), admin_keys="a,b", refresh_s=1.5, ingest_keys_file=file, workers=2
    )
    for name, value in settings.to_environment().items():
        monkeypatch.setenv(name, value)
    assert read_settings([]) == settings


def test_every_setting_is_described() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_the_command_serves_and_leaves_nothing_behind(tiny_master: Path, tmp_path: Path) -> None:
    with running_service(tiny_master, tmp_path) as url, urlopen(f"{url}/health/ready") as answer:
        assert answer.status == 200
    assert "no API key is set" in (tmp_path / "log").read_text()
    assert not (tmp_path / "store" / "valkey.sock").exists()


def test_the_command_says_what_is_wrong_and_returns_2(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    command = [sys.executable, "-m", "service", "--registry", str(tmp_path)]
    done = subprocess.run(
        [*command, "--store-folder", str(tmp_path / "file" / "store")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "the embedded store can't start" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_stores_password_may_stand_in_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("p@ss/w:rd\n")
    settings = Settings(
        registry=tmp_path,
        redis="rediss://store:6380/2",
        redis_user="lsvcr",
        redis_password_file=secret,
    )
    assert settings.store_url == "rediss://lsvcr:p%40ss%2Fw%3Ard@store:6380/2"
    assert "p@ss" not in repr(settings)
    with pytest.raises(SettingsError, match="cannot be read"):
        _ = settings.model_copy(update={"redis_password_file": tmp_path / "none"}).store_url


@pytest.mark.parametrize(("set_before", "expected"), [({}, "1"), ({"OMP_NUM_THREADS": "3"}, "3")])
def test_matrix_products_take_one_thread_unless_told_otherwise(
    set_before: dict[str, str], expected: str
) -> None:
    environment = {name: value for name, value in os.environ.items() if "OMP" not in name}
    code = """if True:
        import contextlib, os, sys
        from service.__main__ import main
        assert "numpy" not in sys.modules  # which reads it when it is imported
        with contextlib.suppress(SystemExit), contextlib.redirect_stdout(None):
            main(["--help"])
        print("numpy" in sys.modules, os.environ["OMP_NUM_THREADS"])"""
    command = [sys.executable, "-c", code]
    printed = subprocess.run(
        command, env=environment | set_before, check=True, capture_output=True, text=True
    ).stdout
    assert printed.split() == ["True", expected]
