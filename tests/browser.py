"""A real browser for the tests of pages: headless Chromium through ChromeDriver's WebDriver protocol."""

import json
import shutil
import subprocess
import threading
import urllib.request
from typing import Any

import pytest

needs_browser = pytest.mark.skipif(
    not shutil.which("chromedriver"), reason="needs ChromeDriver (Debian: chromium-driver)"
)
_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_WAIT = 0.1  # seconds between two looks


def ask(address: str, method: str = "GET", content: Any = None) -> bytes:
    data = None if content is None else json.dumps(content).encode()
    with urllib.request.urlopen(urllib.request.Request(address, data, method=method), timeout=60) as answer:
        return answer.read()


class Browser:
    """Shows a page until `close`. ChromeDriver gives it a new profile."""

    def __init__(self, address: str, width: int = 1200, height: int = 900, phone: bool = False) -> None:
        """`phone`: with a touch screen of that size instead of a mouse."""
        self._driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, text=True)
        assert self._driver.stdout
        line = next(line for line in self._driver.stdout if "started successfully on port" in line)
        self._base = f"http://127.0.0.1:{line.split()[-1].strip('.')}"
        options: dict[str, Any] = {"args": [*_FLAGS, f"--window-size={width},{height}"]}
        if phone:
            metrics = {"width": width, "height": height, "pixelRatio": 2, "touch": True}
            options["mobileEmulation"] = {"deviceMetrics": metrics}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = self._post("/session", {"capabilities": {"alwaysMatch": wanted}})
        self._base += f"/session/{session['sessionId']}"
        self._pointer = "touch" if phone else "mouse"
        self._post("/url", {"url": address})

    def run(self, script: str) -> Any:
        return self._post("/execute/sync", {"script": script, "args": []})

    def drag(self, *places: tuple[float, float], hold: int = 0) -> None:
        """Presses at the first place, stays there for `hold` milliseconds, lets go at the last."""
        moves: list[dict[str, Any]] = [
            {"type": "pointerMove", "duration": 50, "x": round(x), "y": round(y)} for x, y in places
        ]
        wait = [{"type": "pause", "duration": hold}] if hold else []
        actions = [
            moves[0],
            {"type": "pointerDown", "button": 0},
            *wait,
            *moves[1:],
            {"type": "pointerUp", "button": 0},
        ]
        pointer = {"type": "pointer", "id": self._pointer, "parameters": {"pointerType": self._pointer}}
        self._post("/actions", {"actions": [{**pointer, "actions": actions}]})

    def type(self, keys: str) -> None:
        """Presses keys, one after the other, on the element that has the focus."""
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._post("/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def wait_for(self, condition: str) -> None:
        """Waits until a JavaScript expression is true, ten seconds at most."""
        for _ in range(100):
            if self.run(f"return Boolean({condition})"):
                return
            threading.Event().wait(_WAIT)
        raise AssertionError(f"not true in the page: {condition}")

    def complaints(self) -> list[str]:
        """Errors that the page's program, or its security policy, has written to the console since the last call."""
        entries = self._post("/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] == "SEVERE"]

    def close(self) -> None:
        ask(self._base, "DELETE")
        self._driver.terminate()
        self._driver.wait()

    def _post(self, path: str, content: Any) -> Any:
        return json.loads(ask(self._base + path, "POST", content))["value"]
