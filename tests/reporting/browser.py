"""A headless Chromium, told what to do by the DevTools protocol through a pipe: no driver and no port is needed."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-extensions", "--hide-scrollbars"),
    *("--disable-dev-shm-usage", "--remote-debugging-pipe"),
)
# Chromium reads from file 3 and writes to file 4: put the pipes there, by way of numbers that are neither.
LAUNCH = """
import fcntl, os, sys
pipes = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3]]
for place, pipe in zip((3, 4), pipes):
    os.dup2(pipe, place)
os.execv(sys.argv[3], sys.argv[3:])
"""
KEYS = {
    **{"Enter": 13, "Escape": 27, "Tab": 9, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40},
    **{"Home": 36, "End": 35, " ": 32},
}


def find() -> str | None:
    """The browser's path, or None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One tab. All that the page says or asks for is kept: `errors`, `requests`."""

    def __init__(self, program: str, profile: Path) -> None:
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._number, self._buffer = 0, b""
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        launch = [sys.executable, "-c", LAUNCH, str(to_browser), str(from_browser), program]
        command = [*launch, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        home = dict.fromkeys(("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"), str(profile))
        self._process = subprocess.Popen(
            command,
            pass_fds=(to_browser, from_browser),
            env=os.environ | home,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        targets = self._send("Target.getTargets", {}, None)["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session: str | None = self._send("Target.attachToTarget", {"targetId": page, "flatten": True}, None)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self(f"{domain}.enable")

    def __call__(self, method: str, **arguments: Any) -> dict[str, Any]:
        """Send a command of the protocol to the tab and return its result."""
        return self._send(method, arguments, self._session)

    def _send(self, method: str, arguments: dict[str, Any], session: str | None) -> dict[str, Any]:
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": arguments} | ({"sessionId": session} if session else {})
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def _receive(self) -> dict[str, Any]:
        end = time.monotonic() + 60
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(end - time.monotonic(), 0))
            piece = os.read(self._read, 1 << 20) if ready else b""
            if not piece:
                raise RuntimeError("the browser does not answer")
            self._buffer += piece
        text, self._buffer = self._buffer.split(b"\0", 1)
        message = json.loads(text)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, method: str | None, params: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"][:200])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(str(params["exceptionDetails"])[:500])
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.errors.append(params["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.errors.append(str(params["args"])[:500])

    def open(self, path: Path, fragment: str = "") -> None:
        """Load a file afresh and wait until it and its pictures are there."""
        self("Page.navigate", url="about:blank")
        self.until("location.href === 'about:blank'")
        self.errors.clear()
        self.requests.clear()
        self("Page.navigate", url=path.resolve().as_uri() + fragment)
        self.until("location.protocol === 'file:' && document.readyState === 'complete'")

    def until(self, condition: str) -> None:
        """Wait until a JavaScript expression is true."""
        end = time.monotonic() + 60
        while not self.run(condition):
            if time.monotonic() > end:
                raise RuntimeError(f"still not so: {condition}")
            time.sleep(0.02)

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        answer = self("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def press(self, key: str, shift: bool = False) -> None:
        """Press and release a key, as a hand on the keyboard would."""
        text = {"Enter": "\r", " ": " "}.get(key, key if len(key) == 1 else "")
        code = KEYS.get(key) or ord(key.upper())
        name = "Space" if key == " " else key
        event = {"key": key, "code": name, "windowsVirtualKeyCode": code, "modifiers": 8 if shift else 0}
        self("Input.dispatchKeyEvent", type="keyDown", text=text, **event)
        self("Input.dispatchKeyEvent", type="keyUp", **event)

    def size(self, width: int, height: int = 900) -> None:
        self("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def media(self, media: str = "", **features: str) -> None:
        """`media`: screen or print; features such as prefers_color_scheme="dark". Nothing ever glides: it is a test."""
        features = {"prefers_reduced_motion": "reduce", **features}
        listed = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self("Emulation.setEmulatedMedia", media=media, features=listed)

    def picture(self, whole: bool = False) -> bytes:
        """A PNG of the window, or of the whole page, once it shows what was last done."""
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))")
        answer = self("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return base64.b64decode(answer["data"])

    def pdf(self) -> bytes:
        """What the printer gets; its outline has the headings that are on paper."""
        wanted = {"preferCSSPageSize": True, "generateTaggedPDF": True, "generateDocumentOutline": True}
        return base64.b64decode(self("Page.printToPDF", **wanted)["data"])

    def close(self) -> None:
        """Ask it to leave; it may need a moment to write its profile."""
        wish: Callable[[], object] = lambda: self._send("Browser.close", {}, None)  # noqa: E731
        try:
            wish()
            self._process.wait(20)
        except (OSError, RuntimeError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        os.close(self._read)
        os.close(self._write)
