"""A real HTTP server over a folder that serves ranges, as a bucket of S3 does too, and can fail on demand."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

_SMALL = 1024
"""Bytes."""


class RangeServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.failures = 0
        """Requests that are answered with 503 from now on."""
        self.drops = 0
        """Answers of more than a kilobyte that are broken off after their first half from now on."""
        self.pause_s = 0.0
        """Before each byte of an answer of more than a kilobyte from now on."""
        self.asked: list[str] = []
        """Names of files, one a GET."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: RangeServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.asked.append(self.path.rsplit("/", 1)[-1])
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, with_body: bool) -> None:
        if self.server.failures:
            self.server.failures -= 1
            self._send(503, b"", {}, with_body)
            return
        path = self.server.folder / self.path.partition("?")[0].lstrip("/")
        if not path.is_file():
            self._send(404, b"", {}, with_body)
            return
        content, found = path.read_bytes(), re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if found is None:
            self._send(200, content, {}, with_body)
            return
        start, end = int(found[1]), min(int(found[2] or len(content)) + 1, len(content))
        self._send(206, content[start:end], {"Content-Range": f"bytes {start}-{end - 1}/{len(content)}"}, with_body)

    def _send(self, code: int, body: bytes, headers: dict[str, str], with_body: bool) -> None:
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(body)), "Accept-Ranges": "bytes"}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body and len(body) > _SMALL and self.server.drops:
            self.server.drops -= 1
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
        elif with_body and len(body) > _SMALL and self.server.pause_s:
            self._drip(body)
        elif with_body:
            self.wfile.write(body)

    def _drip(self, body: bytes) -> None:
        with suppress(ConnectionError):  # who asked has gone
            for byte in body:
                self.wfile.write(bytes([byte]))
                time.sleep(self.server.pause_s)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class's name)
        """Silence."""


@contextmanager
def serving(folder: Path) -> Iterator[RangeServer]:
    with RangeServer(folder) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
