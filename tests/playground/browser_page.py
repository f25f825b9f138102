"""Loads the playground and waits for it."""

from selenium.webdriver import Chrome
from selenium.webdriver.support.ui import WebDriverWait


def open_page(chromium: Chrome, url: str) -> None:
    """Load an address and wait until the page has its first answers."""
    chromium.get("about:blank")  # else a new fragment alone loads nothing
    chromium.get_log("browser")
    chromium.get(url)
    wait_for(chromium, "return document.documentElement.dataset.ready === 'true'")


def wait_for(chromium: Chrome, script: str, *arguments: object) -> object:
    """What a script returns, as soon as that is something."""
    return WebDriverWait(chromium, 40, 0.05).until(
        lambda driver: driver.execute_script(script, *arguments), script
    )
