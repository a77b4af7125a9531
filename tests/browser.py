"""Looks at a page in Debian's chromium, over the pipe of its DevTools protocol; tests that need it are skipped without it."""

import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")
PATIENCE_S = 60
_FLAGS = ("--headless", "--disable-gpu", "--no-sandbox", "--no-first-run", "--disable-dev-shm-usage", "--remote-debugging-pipe")
_IN, _OUT = 3, 4
"""File descriptors that chromium reads commands from, and writes answers to."""


@dataclass
class Browser:
    commands: int
    answers: int
    errors: list[str] = field(default_factory=list)
    """What a page complained about."""
    _sent: int = 0
    _events: set[str] = field(default_factory=set)
    _rest: bytes = b""

    def call(self, method: str, session: str | None = None, **parameters: Any) -> Any:
        """The result of a command."""
        self._sent += 1
        message = {"id": self._sent, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._sent:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def open(self, page: Path, width: int, height: int = 900) -> str:
        """Shows a page in a window of so many pixels; returns its session."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session: str = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Log", "Runtime"):
            self.call(f"{domain}.enable", session)
        self.call("Emulation.setDeviceMetricsOverride", session, width=width, height=height, deviceScaleFactor=1, mobile=False)
        self._events.clear()
        self.call("Page.navigate", session, url=page.absolute().as_uri())
        while "Page.loadEventFired" not in self._events:
            self._next()
        return session

    def value(self, session: str, expression: str) -> Any:
        """Of a JavaScript expression in the page."""
        found = self.call("Runtime.evaluate", session, expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"]["value"]

    def _next(self) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE_S
        while b"\0" not in self._rest:
            assert select.select([self.answers], [], [], max(deadline - time.monotonic(), 0))[0], "chromium does not answer"
            data = os.read(self.answers, 1 << 16)
            assert data, "chromium ended"
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        self._note(message)
        return message

    def _note(self, message: dict[str, Any]) -> None:
        method, parameters = message.get("method", ""), message.get("params", {})
        self._events.add(method)
        complains = (
            (method == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"))
            or method == "Runtime.exceptionThrown"
            or (method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning"))
        )
        if complains:
            self.errors.append(json.dumps(parameters))


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A chromium of its own, with its settings in a new folder; ended with the block."""
    assert CHROMIUM is not None
    reads, commands = os.pipe()
    answers, writes = os.pipe()
    # Out of the way of 3 and 4, which they become in the child.
    inside = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10) for descriptor in (reads, writes)]

    def pipes() -> None:
        os.dup2(inside[0], _IN)
        os.dup2(inside[1], _OUT)

    with (profile.parent / f"{profile.name}.log").open("wb") as log:
        process = subprocess.Popen(
            [CHROMIUM, *_FLAGS, f"--user-data-dir={profile}"], preexec_fn=pipes, pass_fds=(_IN, _OUT), stdout=log, stderr=log
        )
    for descriptor in (reads, writes, *inside):
        os.close(descriptor)
    try:
        yield Browser(commands, answers)
    finally:
        process.kill()
        process.wait(PATIENCE_S)
        os.close(commands)
        os.close(answers)
