"""A headless Chromium, spoken to over a pipe by the DevTools protocol: nothing to install but the browser itself."""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # root in a container has none
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--remote-debugging-pipe",
)


CONTRAST = """[...document.querySelectorAll('p, dd, dt, td, th, figcaption, label, caption, summary, small, .score')].map(e => {
    const f = c => c.match(/[0-9.]+/g).slice(0, 3).map(Number).map(v => v / 255)
        .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    const l = c => { const [r, g, b] = f(c); return .2126 * r + .7152 * g + .0722 * b };
    let back = e; while (getComputedStyle(back).backgroundColor == 'rgba(0, 0, 0, 0)') back = back.parentElement;
    const [a, b] = [l(getComputedStyle(e).color), l(getComputedStyle(back).backgroundColor)].sort((x, y) => y - x);
    return (a + .05) / (b + .05) }).reduce((x, y) => Math.min(x, y))"""


def found() -> str | None:
    """Where a Chromium is; None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """One page: what it says on its console and asks of the network is kept in `events`."""

    def __init__(self, write: int, read: int):
        self.write, self.read, self.number, self.rest = write, read, 0, b""
        self.session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def message(self) -> dict[str, Any]:
        while b"\0" not in self.rest:
            more = os.read(self.read, 2**20)
            if not more:
                raise ConnectionError("the browser went away")
            self.rest += more
        first, _, self.rest = self.rest.partition(b"\0")
        return json.loads(first)

    def call(self, method: str, **given: Any) -> dict[str, Any]:
        self.number += 1
        asked = {"id": self.number, "method": method, "params": given}
        asked |= {"sessionId": self.session} if self.session else {}
        data = json.dumps(asked).encode() + b"\0"
        while data:
            data = data[os.write(self.write, data) :]
        while (answer := self.message()).get("id") != self.number:
            self.events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def open(self, file: Path, width: int, dark: bool = False, height: int = 900) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.events.clear()
        self.call("Page.navigate", url=file.resolve().as_uri())
        while not any(e.get("method") == "Page.loadEventFired" for e in self.events):
            self.events.append(self.message())

    def evaluate(self, expression: str) -> Any:
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def press(self, key: str, code: int) -> None:
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def complaints(self) -> list[str]:
        """Errors and warnings on the console, exceptions, and requests for anything but the page and data."""
        out = []
        for event in self.events:
            method, what = event.get("method"), event.get("params", {})
            if (
                method == "Runtime.exceptionThrown"
                or method == "Log.entryAdded"
                or method == "Runtime.consoleAPICalled"
            ):
                out.append(json.dumps(what)[:500])
            if method == "Network.requestWillBeSent" and not what["request"]["url"].startswith(("file:", "data:")):
                out.append(what["request"]["url"])
        return out

    def screenshot(self, target: Path, whole: bool = True) -> None:
        taken = self.call("Page.captureScreenshot", captureBeyondViewport=whole, format="png")
        target.write_bytes(base64.b64decode(taken["data"]))

    def pdf(self, target: Path) -> None:
        made = self.call("Page.printToPDF", printBackground=True, paperWidth=8.27, paperHeight=11.69)
        target.write_bytes(base64.b64decode(made["data"]))


def check_legible(page: Page, file: Path) -> None:
    """At 400 and 1600 pixels, light and dark: nothing complains or is wider than the window, and all is there to be read."""
    for width in (400, 1600):
        for dark in (False, True):
            page.open(file, width, dark)
            assert page.complaints() == []
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            assert page.evaluate(CONTRAST) >= 4.5
            assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")


@contextlib.contextmanager
def browser() -> Iterator[Page]:
    """A page in a browser of its own, which ends with the block."""
    name = found()
    assert name
    ours, theirs = os.pipe(), os.pipe()  # we write ours, it writes theirs

    def place() -> None:  # it reads from 3 and writes to 4; copied up first, in case they overlap
        read, write = os.dup2(ours[0], 100), os.dup2(theirs[1], 101)
        os.dup2(read, 3)
        os.dup2(write, 4)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        words = [name, *FLAGS, f"--user-data-dir={profile}"]
        process = subprocess.Popen(
            words, preexec_fn=place, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(ours[0])
        os.close(theirs[1])
        try:
            yield Page(ours[1], theirs[0])
        finally:
            process.kill()
            process.wait()
            os.close(ours[1])
            os.close(theirs[0])
