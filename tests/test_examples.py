"""The examples of web apps: each is started by its one command and used in a real browser."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest
from selenium.webdriver import Keys

from tests.browsers import Browser, chromium
from tests.nodes import ROOT, Process, free_port, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

MIB = 1024**2


class Example:
    """An example under way, started as its README says."""

    def __init__(self, name: str, folder: Path, **env: str) -> None:
        self.folder = ROOT / "examples" / name
        readme = (self.folder / "README.md").read_text()
        command, said = re.search(
            r"^```console\n\$ (.*?)\n(.*?)^```$", readme, re.S | re.M
        ).groups()  # type: ignore[union-attr]
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        scripts = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        self.process = Process(
            ["bash", "-c", f"exec {command}"],
            name=name,
            folder=folder,
            cwd=self.folder,
            env={"PATH": scripts, "PORT": str(port), "PROVIDER_UPLOADS_ENV_FILE": "", **env},
        )
        shown = said.replace("8000", str(port)).encode()
        wait_until(lambda: shown in self.process.logs(), "what its README shows")
        wait_until(self.answers, "its first page")

    def answers(self) -> bool:
        try:
            return httpx2.get(self.url, timeout=5).is_success
        except httpx2.TransportError:
            return False

    def stop(self) -> None:
        """Press Ctrl-C."""
        self.process.process.send_signal(signal.SIGINT)
        self.process.process.wait(20)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with chromium(tmp_path) as running:
        yield running


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., Example]]:
    running: list[Example] = []

    def start(name: str, **env: str) -> Example:
        running.append(Example(name, tmp_path, **env))
        return running[-1]

    yield start
    for example in running:
        example.stop()


def row(browser: Browser, name: str) -> str:
    """What the page says of a file."""
    return next((item.text for item in browser.all("#list li") if name in item.text), "")


class TestFastAPI:
    def test_the_page(
        self,
        started: Callable[..., Example],
        browser: Browser,
        make_file: Callable[..., Path],
    ) -> None:
        example = started("fastapi", MAX_BYTES=str(13 * MIB))
        browser.size(1200, 900)
        browser.driver.get(example.url)
        files = [
            make_file("report.pdf"),
            make_file("holiday in the mountains with a rather long name.mp4", 2 * MIB),
            make_file("too large.mp4", 14 * MIB),
            make_file("unwanted.mp4", 12 * MIB),
        ]
        browser.find("#files").send_keys("\n".join(map(str, files)))
        # Live progress, one after the other: the local Gemini takes 2 MiB a second.
        browser.until(lambda: re.search(r"Uploading: [1-9]\d? %", browser.text()), "progress")
        browser.until(
            lambda: "larger than the 13,631,488 bytes" in row(browser, "too large"), "an error"
        )
        browser.until(lambda: "Uploading" in row(browser, "unwanted"), "its bytes move")
        browser.screenshot("fastapi-wide-progress")
        # By keyboard: the first Tab reaches the files, the next ones what can be cancelled.
        button = browser.find('[aria-label="Cancel unwanted.mp4"]')
        browser.driver.execute_script("document.activeElement.blur()")
        for _ in range(8):
            browser.press(Keys.TAB)
            if browser.driver.switch_to.active_element == button:
                break
        browser.press(Keys.ENTER)
        browser.until(lambda: "was cancelled" in row(browser, "unwanted"), "the cancellation")
        browser.until(lambda: browser.text().count("Ready to use") == 2, "both are ACTIVE", 60)
        browser.until(lambda: browser.find("#ask").is_enabled(), "a question may be asked")
        browser.find("#ask").send_keys(Keys.ENTER)
        browser.until(lambda: "2. text" in browser.text("#answer"), "the answer")
        assert "report.pdf" in browser.text("#answer")
        assert "unwanted" not in browser.text("#answer")
        browser.screenshot("fastapi-wide")
        assert not browser.scrolls_sideways

        # The page finds its uploads again, on a phone too; what another browser has is not shown.
        browser.size(360, 740, phone=True)
        browser.driver.refresh()
        browser.until(lambda: browser.text().count("Ready to use") == 2, "they are there again")
        assert not browser.scrolls_sideways
        assert min(b.size["height"] for b in browser.all("button") if b.is_displayed()) >= 44
        browser.screenshot("fastapi-narrow")
        # The refusal of the large file is in the browser's own log, and nothing else.
        assert [text for text in browser.complaints if "413" not in text] == []
        ticket = browser.driver.execute_script("return [...rows.keys()][0]")
        browser.driver.delete_all_cookies()
        browser.driver.refresh()
        browser.until(lambda: browser.driver.get_cookie("user"), "another name")
        assert browser.all("#list li") == []
        theirs = browser.driver.execute_script(
            f"return fetch('uploads/{ticket}', {{method: 'DELETE'}}).then(r => r.status)"
        )
        assert theirs == 404

    def test_files_are_dropped(self, started: Callable[..., Example], browser: Browser) -> None:
        example = started("fastapi")
        browser.driver.get(example.url)
        browser.driver.execute_script("""
            const data = new DataTransfer();
            data.items.add(new File(['hello'], 'a.txt'));
            data.items.add(new File(['world'], 'b.txt'));
            document.getElementById('drop').dispatchEvent(
                new DragEvent('drop', {dataTransfer: data, cancelable: true, bubbles: true}));
        """)
        browser.until(lambda: browser.text().count("Ready to use") == 2, "both are ACTIVE")


@pytest.mark.parametrize("name", ["flask", "django"])
def test_a_form_and_a_page_that_follows(
    name: str,
    started: Callable[..., Example],
    browser: Browser,
    make_file: Callable[..., Path],
) -> None:
    example = started(name)
    browser.size(360, 740, phone=True)
    browser.driver.get(example.url)
    files = [make_file("report.pdf"), make_file("unwanted.mp4", 12 * MIB)]
    browser.find("#files").send_keys("\n".join(map(str, files)))
    browser.find("button").click()
    browser.until(lambda: re.search(r"UPLOADING [1-9]\d? %", row(browser, "unwanted")), "progress")
    browser.screenshot(f"{name}-narrow")
    browser.find('[aria-label="Cancel unwanted.mp4"]').click()
    browser.until(lambda: "was cancelled" in row(browser, "unwanted"), "the cancellation")
    browser.until(lambda: "ACTIVE" in row(browser, "report.pdf"), "it is ACTIVE, without a reload")
    browser.driver.refresh()
    browser.until(lambda: "ACTIVE" in row(browser, "report.pdf"), "it is there again")
    assert not browser.scrolls_sideways
    assert browser.complaints == []
    # Somebody else: nothing is shown, and a ticket alone opens nothing.
    ticket = browser.find("#list li").get_attribute("id").removeprefix("t")  # type: ignore[union-attr]
    found = httpx2.get(f"{example.url}/events", params={"ticket": ticket}, timeout=10)
    assert (found.status_code, found.json()["detail"]) == (404, "There is no such upload.")
    assert "report.pdf" not in httpx2.get(example.url, timeout=10).text
