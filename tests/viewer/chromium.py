"""A headless Chromium for tests of pages, and for pictures of them."""

from __future__ import annotations

import base64
import io
import json
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path

import numpy as np

PATIENCE = 120.0  # seconds, on a machine that is busy with other things


def find_chromium():
    """The program, or None."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next((path for path in map(shutil.which, names) if path), None)


class Page:
    """A page of a headless Chromium, driven by its DevTools protocol."""

    def __init__(self, folder, width=800, height=600):
        from websockets.sync import client

        self.errors = []
        options = [f"--user-data-dir={folder}", "--remote-debugging-port=0", f"--window-size={width},{height}"]
        software = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]
        self.process = subprocess.Popen(
            [find_chromium(), "--headless=new", "--no-sandbox", *options, *software, "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        port = wait_for(lambda: (Path(folder) / "DevToolsActivePort").read_text().split()[0])
        address = f"http://127.0.0.1:{port}/json"
        with_page = wait_for(
            lambda: next(page for page in json.loads(urllib.request.urlopen(address).read()) if page["type"] == "page")
        )
        self.socket = client.connect(with_page["webSocketDebuggerUrl"], max_size=None)
        self._count = 0
        self.call("Runtime.enable")

    def call(self, method, **parameters):
        self._count += 1
        self.socket.send(json.dumps({"id": self._count, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self.socket.recv(timeout=PATIENCE))
            if answer.get("method") == "Runtime.exceptionThrown":
                self.errors.append(answer["params"]["exceptionDetails"])
            if answer.get("id") == self._count:
                if "error" in answer:  # of a page that is being replaced
                    raise ConnectionError(answer["error"])
                return answer["result"]

    def open(self, url):
        self.call("Page.navigate", url=url)
        expression = "location.href + document.readyState"
        wait_for(lambda: self.call("Runtime.evaluate", expression=expression)["result"]["value"] == f"{url}/complete")

    def text(self):
        return self.call("Runtime.evaluate", expression="document.body.innerText")["result"].get("value", "")

    def picture(self):
        """(H, W, 3), the page without the panels at its top."""
        from PIL import Image

        return np.asarray(Image.open(io.BytesIO(self.png())).convert("RGB")).astype(int)[170:]

    def png(self):
        return base64.b64decode(self.call("Page.captureScreenshot")["data"])

    def share(self, color):
        """How much of the picture is in a colour: one channel well above the two others."""
        channel = int(np.argmax(color))
        others = [c for c in range(3) if c != channel]
        picture = self.picture()
        return float((picture[..., channel] > 1.5 * picture[..., others].max(-1) + 20).mean())

    def close(self):
        self.socket.close()
        self.process.terminate()
        self.process.wait(PATIENCE)


def wait_for(found):
    """What a function returns, once it is true and raises nothing."""
    end = time.perf_counter() + PATIENCE
    while True:
        try:
            value = found()
        except (OSError, StopIteration, IndexError):
            value = None
        if value:
            return value
        assert time.perf_counter() < end, "nothing came"
        time.sleep(0.2)
