"""A real service, and a real Chromium that looks at its page."""

import shutil
from collections.abc import Iterator

import pytest
from browser_page import open_page
from live_service import running_service
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from tiny_bundle_builder import PRIOR, PROFILE, TINY_VERSIONS, write_tiny_bundle

from lsvcr.registry import write_current
from lsvcr_client import Client

SWITCHES = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1400,1000",
)


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service of two models whose scores have all their parts."""
    folder = tmp_path_factory.mktemp("playground")
    for seed, version in enumerate(TINY_VERSIONS):
        registry = folder / "registry" / version
        write_tiny_bundle(registry, version=version, seed=seed, prior=PRIOR, profile=PROFILE)
    write_current(folder / "registry", TINY_VERSIONS[0])
    with running_service(folder / "registry", folder) as url:
        yield url


@pytest.fixture(scope="session")
def service(url: str) -> Iterator[Client]:
    """For what a test wants to know of the service itself."""
    with Client(url, timeout_ms=30_000) as client:
        yield client


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("needs Chromium: apt-get install chromium chromium-driver")
    options = ChromeOptions()
    options.binary_location = browser
    for switch in (*SWITCHES, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with Chrome(options, Service(driver)) as chromium:
        yield chromium


@pytest.fixture
def page(chromium: Chrome, url: str) -> Iterator[Chrome]:
    """The page, loaded anew; whatever a test does there, the console has to stay empty."""
    open_page(chromium, url)
    yield chromium
    assert chromium.get_log("browser") == []
