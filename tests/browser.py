"""A headless Chromium driven over its DevTools protocol, for tests of the page and for its picture in the docs.

python tests/browser.py http://127.0.0.1:8080 docs/view.png [seconds to wait]
"""

from __future__ import annotations

import asyncio
import base64
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import aiohttp

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--use-angle=swiftshader",  # WebGL without a GPU
    "--enable-unsafe-swiftshader",
    "--hide-scrollbars",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--remote-debugging-port=0",
)
_LIMIT = 90.0  # seconds, of whatever is waited for


def chromium() -> str | None:
    """Path of a Chromium, or None."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


class Browser:
    """Context manager: one Chromium with one page. `problems` are errors that the page logged or threw."""

    def __init__(self, width: int = 1280, height: int = 800) -> None:
        self._size = width, height
        self.problems: list[str] = []
        self._number = 0
        self._loop = asyncio.new_event_loop()

    def __enter__(self) -> Browser:
        self._folder = tempfile.TemporaryDirectory(prefix="ofer_chromium_", ignore_cleanup_errors=True)
        command = [chromium(), *FLAGS, f"--user-data-dir={self._folder.name}", "about:blank"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            self._run(self._connect())
            for domain in ("Page", "Runtime", "Log"):
                self.call(f"{domain}.enable")
            self.resize(*self._size)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if hasattr(self, "_session"):
            self._run(self._session.close())
        self._loop.close()
        self._folder.cleanup()

    def _run(self, task):
        return self._loop.run_until_complete(task)

    async def _connect(self) -> None:
        port_file = Path(self._folder.name, "DevToolsActivePort")
        end = time.monotonic() + _LIMIT
        while not (port_file.exists() and port_file.read_text().count("\n")):
            if time.monotonic() > end or self._process.poll() is not None:
                raise RuntimeError("Chromium did not start")
            await asyncio.sleep(0.05)
        port = port_file.read_text().split()[0]
        self._session = aiohttp.ClientSession()
        async with self._session.get(f"http://127.0.0.1:{port}/json/list") as answer:
            page = next(one for one in await answer.json(content_type=None) if one["type"] == "page")
        self._socket = await self._session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0)

    def call(self, method: str, **parameters: object) -> dict:
        """Result of a DevTools command. Raises RuntimeError with its complaint."""
        return self._run(self._call(method, parameters))

    async def _call(self, method: str, parameters: dict) -> dict:
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": parameters})
        while True:
            message = await self._socket.receive_json(timeout=_LIMIT)
            self._note(message)
            if message.get("id") == self._number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']['message']}")
                return message["result"]

    def _note(self, message: dict) -> None:
        details = message.get("params", {})
        if message.get("method") == "Runtime.exceptionThrown":
            thrown = details["exceptionDetails"]
            self.problems.append(thrown.get("exception", {}).get("description", thrown["text"]))
        elif message.get("method") == "Log.entryAdded" and details["entry"]["level"] == "error":
            self.problems.append(f"{details['entry']['text']} {details['entry'].get('url', '')}")

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)

    def resize(self, width: int, height: int) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    def value(self, expression: str):
        """Value of a JavaScript expression. Raises RuntimeError when it throws."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"].get("exception", {}).get("description", expression))
        return result["result"].get("value")

    def wait_for(self, expression: str, timeout: float = _LIMIT):
        """The first true value of a JavaScript expression; AssertionError when there is none in time."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            value = self.value(f"(() => {{ try {{ return {expression} }} catch {{ return null }} }})()")
            if value:
                return value
            time.sleep(0.1)
        raise AssertionError(f"not within {timeout} s: {expression}; the page said: {self.problems}")

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Press the mouse at `start`, move, and let go at `end` (CSS px)."""
        common = {"button": "left", "clickCount": 1}
        self.call("Input.dispatchMouseEvent", type="mousePressed", x=start[0], y=start[1], **common)
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=end[0], y=end[1], **common)
        self.call("Input.dispatchMouseEvent", type="mouseReleased", x=end[0], y=end[1], **common)

    def screenshot(self, whole: bool = False) -> bytes:
        """PNG of what is in view, or of the whole page."""
        return base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"])


def main() -> int:
    url, file = sys.argv[1:3]
    seconds = float(sys.argv[3]) if len(sys.argv) > 3 else 10.0
    size = [int(side) for side in sys.argv[4].split("x")] if len(sys.argv) > 4 else (1280, 800)
    with Browser(*size) as browser:
        browser.open(url)
        browser.wait_for("window.ofer && ofer.counts.drawn > 3")
        time.sleep(seconds)
        browser.wait_for(sys.argv[5] if len(sys.argv) > 5 else "true")
        Path(file).write_bytes(browser.screenshot(whole=size[0] < 1100))
        print("\n".join(browser.problems) or f"{file}: no problems", browser.value("ofer.counts"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
