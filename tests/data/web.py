"""A real HTTP server on loopback that behaves as badly as it is told to."""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Site:
    """Files by path, and what went on. `mischief` is taken from the front, one behaviour a request; then all is well.

    Behaviours: 'cut N' (closes after N bytes of the body), 'lie N' (claims N bytes more than it sends),
    'no ranges', 'wrong bytes', 'other range', 'silent N' (sends N bytes and waits), 'endless', or a status such as
    '503' or '429 2' (Retry-After: 2).
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.mischief: deque[str] = deque()
        self.always: str | None = None
        self.requests: list[tuple[str, str | None, str | None]] = []  # path, Range, If-Range
        self.versions = 1  # part of the ETag
        self.release = threading.Event()
        self.address = ""

    def put(self, path: str, content: bytes) -> str:
        """Serve `content`; its address."""
        self.files[path] = content
        return f"{self.address}{path}"


def handler(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            asked, condition = self.headers.get("Range"), self.headers.get("If-Range")
            site.requests.append((self.path, asked, condition))
            how, _, number = (site.always or (site.mischief.popleft() if site.mischief else "")).partition(" ")
            content = site.files.get(self.path)
            if content is None or how.isdigit():
                return self.fail(int(how) if how.isdigit() else 404, number)
            etag = f'"{hashlib.md5(content).hexdigest()}-{site.versions}"'
            if how == "wrong":
                content = bytes(byte ^ 1 for byte in content)
            start = 0
            if asked and how != "no" and condition in (None, etag):
                start = int(asked.removeprefix("bytes=").removesuffix("-"))
                if start >= len(content):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(content)}")
                    self.send_header("Content-Length", "0")
                    return self.end_headers()
                shown = start + 7 if how == "other" else start
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {shown}-{len(content) - 1}/{len(content)}")
            else:
                self.send_response(200)
            body = content[start:]
            if how == "endless":
                self.send_header("Connection", "close")
                self.end_headers()
                self.close_connection = True
                return self.pour()
            claimed = len(body) + (int(number) if how == "lie" else 0)
            self.send_header("Content-Length", str(claimed))
            self.send_header("ETag", etag)
            self.end_headers()
            body = body[: int(number)] if how in ("cut", "silent") else body
            self.wfile.write(body)
            self.wfile.flush()
            if how == "silent":
                site.release.wait(20)
            self.close_connection = how in ("cut", "lie", "silent")

        def pour(self) -> None:
            try:
                for _ in range(10_000):
                    self.wfile.write(b"x" * 10_000)
            except OSError:
                pass

        def fail(self, status: int, wait: str) -> None:
            self.send_response(status)
            if wait:
                self.send_header("Retry-After", wait)
            self.send_header("Content-Length", "0")
            self.end_headers()

    return Handler


class Quiet(ThreadingHTTPServer):
    """Says nothing of clients that hang up: some are meant to."""

    def handle_error(self, *_: object) -> None:
        pass


@contextmanager
def serving(site: Site) -> Iterator[Site]:
    server = Quiet(("127.0.0.1", 0), handler(site))
    server.daemon_threads = True
    site.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield site
    finally:
        site.release.set()
        server.shutdown()
        server.server_close()
        thread.join()
