"""A headless Chromium, driven through chromedriver's own protocol (W3C WebDriver)."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAMS = ("chromium", "chromedriver")
MISSING = [name for name in PROGRAMS if shutil.which(name) is None]
WHY = f"{' and '.join(MISSING)} not installed (Debian: apt install chromium chromium-driver)"
PATIENCE = 30.0
"""Seconds until what is waited for is taken to be missing."""
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--no-first-run",
    "--disable-extensions", "--window-size=1600,1200",
)  # fmt: skip


class Browser:
    """One tab.

    Args:
        session: Address of the session at chromedriver.
    """

    def __init__(self, session: str) -> None:
        self.session = session

    def ask(self, path: str, body: dict[str, Any] | None = None, method: str = "POST") -> Any:
        """What a command of the protocol answers."""
        return ask(f"{self.session}{path}", body, method)

    def cdp(self, command: str, **values: Any) -> None:
        """A command of Chromium's own."""
        self.ask("/goog/cdp/execute", {"cmd": command, "params": values})

    def show(self, width: int, dark: bool = False, height: int = 1000) -> None:
        """Pixels of the window, and whether people like it dark."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.cdp("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.cdp("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, address: str) -> None:
        """Go to a page and wait until it has drawn itself."""
        self.ask("/url", {"url": address})
        self.wait("return document.body.dataset.drawn")

    def run(self, script: str, *values: Any) -> Any:
        """What a script returns in the page."""
        return self.ask("/execute/sync", {"script": script, "args": [*values]})

    def wait(self, script: str, *values: Any) -> Any:
        """What a script returns once that is true of something."""
        until = time.monotonic() + PATIENCE
        while not (found := self.run(script, *values)):
            assert time.monotonic() < until, f"never true: {script}; {self.complaints()}"
            time.sleep(0.02)
        return found

    def complaints(self) -> list[str]:
        """Errors and warnings on the console since they were last asked for."""
        return [line["message"] for line in self.ask("/se/log", {"type": "browser"})]

    def point(self, x: float, y: float, click: bool = False) -> None:
        """Move the mouse to a place in the window, and perhaps press its button."""
        moves: list[dict[str, Any]] = [
            {"type": "pointerMove", "duration": 0, "x": round(x), "y": round(y)}
        ]
        if click:
            moves += [{"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0}]
        self.ask("/actions", {"actions": [{"type": "pointer", "id": "mouse", "actions": moves}]})

    def press(self, *keys: str) -> None:
        """Press keys, one after the other."""
        strokes = [{"type": kind, "value": k} for k in keys for kind in ("keyDown", "keyUp")]
        self.ask("/actions", {"actions": [{"type": "key", "id": "keys", "actions": strokes}]})

    def picture(self, path: Path, whole: bool = False) -> None:
        """Write what is seen, or the whole page, as PNG."""
        if whole:
            height = self.run("return document.documentElement.scrollHeight")
            width = self.run("return innerWidth")
            self.show(width, self.run("return matchMedia('(prefers-color-scheme: dark)').matches"),
                      min(height, 6000))  # fmt: skip
        path.write_bytes(b64decode(self.ask("/screenshot", method="GET")))


TAB, ENTER, ESCAPE, RIGHT, HOME = "\ue004", "\ue007", "\ue00c", "\ue014", "\ue011"
"""Keys by the numbers that the protocol has for them."""


def ask(address: str, body: dict[str, Any] | None = None, method: str = "POST") -> Any:
    """What chromedriver answers.

    Raises:
        AssertionError: it refused; says why.
    """
    data = None if method in ("GET", "DELETE") else json.dumps(body or {}).encode()
    request = urllib.request.Request(address, data, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]
    except urllib.error.HTTPError as error:
        told = json.load(error)["value"]
        raise AssertionError(f"{told['error']}: {told['message']}") from None


@contextmanager
def browser() -> Iterator[Browser]:
    """A Chromium that ends with the block."""
    command = ["chromedriver", "--port=0", "--log-level=SEVERE"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        try:
            told = next(line for line in driver.stdout if "successfully on port" in line)
            address = f"http://127.0.0.1:{int(told.rstrip().rstrip('.').rpartition(' ')[2])}"
            options = {
                "browserName": "chrome",
                "goog:chromeOptions": {"args": FLAGS, "binary": shutil.which("chromium")},
                "goog:loggingPrefs": {"browser": "ALL"},
            }
            made = ask(f"{address}/session", {"capabilities": {"alwaysMatch": options}})
            session = f"{address}/session/{made['sessionId']}"
            try:
                yield Browser(session)
            finally:
                ask(session, method="DELETE")
        finally:
            driver.terminate()
