"""A real browser: Debian's headless Chromium, by Selenium."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests.nodes import ROOT, wait_until

T = TypeVar("T")

#: Kept after the tests, to be looked at.
SCREENSHOTS = ROOT / "build" / "screenshots"


class Browser:
    """A window with one page."""

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver

    def find(self, css: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, css)

    def all(self, css: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, css)

    def text(self, css: str = "body") -> str:
        return self.find(css).text

    def until(self, condition: Callable[[], T], what: str, timeout_s: float = 60.0) -> T:
        """Wait for a condition, while the page may change under it."""

        def met() -> T | None:
            try:
                return condition()
            except (NoSuchElementException, StaleElementReferenceException):
                return None

        return wait_until(met, what, timeout_s)  # type: ignore[return-value]

    def press(self, key: str) -> None:
        """Press a key where the focus is."""
        ActionChains(self.driver).send_keys(key).perform()

    def size(self, width: int, height: int, *, phone: bool = False) -> None:
        """Show the page in a window of this size, or on a phone."""
        metrics = {"width": width, "height": height, "mobile": phone}
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride", {**metrics, "deviceScaleFactor": 1}
        )

    def screenshot(self, name: str) -> None:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.driver.save_screenshot(str(SCREENSHOTS / f"{name}.png"))

    @property
    def scrolls_sideways(self) -> bool:
        """Whether the page is wider than the window."""
        script = "return document.documentElement.scrollWidth > window.innerWidth"
        return bool(self.driver.execute_script(script))

    @property
    def complaints(self) -> list[str]:
        """What the page's own code, or the browser about it, has complained of."""
        log: list[dict[str, str]] = self.driver.get_log("browser")  # type: ignore[no-untyped-call]
        return [entry["message"] for entry in log]


@contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """Start a browser whose data is in ``folder``."""
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("no Chromium: apt-get install chromium chromium-driver")
    options = ChromeOptions()
    options.binary_location = binary
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        f"--user-data-dir={folder / 'chromium'}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    running = Chrome(options=options, service=ChromeService(driver))
    try:
        yield Browser(running)
    finally:
        running.quit()
