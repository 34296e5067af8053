"""Web servers on loopback that answer ranges of a bundle, honestly or not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Behaviour = Callable[[BaseHTTPRequestHandler, bytes, int, int], None]


@contextmanager
def server(data: bytes, behave: Behaviour) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            first, last = self.headers["Range"].removeprefix("bytes=").split("-")
            try:
                behave(self, data, int(first), int(last) + 1)
            except OSError:
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_address[1]}"
    finally:
        http.shutdown()
        http.server_close()


def honest(handler: BaseHTTPRequestHandler, data: bytes, start: int, end: int) -> None:
    handler.send_response(206)
    handler.send_header("Content-Length", str(len(data[start:end])))
    handler.end_headers()
    handler.wfile.write(data[start:end])


def endless(handler: BaseHTTPRequestHandler, data: bytes, start: int, end: int) -> None:
    handler.send_response(206)
    handler.end_headers()
    while True:
        handler.wfile.write(data)


def cut_off(handler: BaseHTTPRequestHandler, data: bytes, start: int, end: int) -> None:
    handler.send_response(206)
    handler.send_header("Content-Length", str(end - start))
    handler.end_headers()
    handler.wfile.write(data[start : end - 20])
    handler.close_connection = True


def slow(handler: BaseHTTPRequestHandler, data: bytes, start: int, end: int) -> None:
    handler.send_response(206)
    handler.send_header("Content-Length", str(end - start))
    handler.end_headers()
    for byte in data[start:end]:
        handler.wfile.write(bytes([byte]))
        time.sleep(0.2)


def huge(handler: BaseHTTPRequestHandler, data: bytes, start: int, end: int) -> None:
    """A header that asks for 2^50 bytes."""
    table = (1 << 50) - 128 - (1 << 50) % 4096
    lie = data[:8] + table.to_bytes(8, "little") + (table + 128).to_bytes(8, "little") + data[24:]
    honest(handler, lie[:4] + (1).to_bytes(4, "little") + lie[8:], start, end)


def no_ranges(handler: BaseHTTPRequestHandler, data: bytes, start: int, end: int) -> None:
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(data)


def shorter(handler: BaseHTTPRequestHandler, data: bytes, start: int, end: int) -> None:
    honest(handler, data[:-1], start, end)


def flipped(handler: BaseHTTPRequestHandler, data: bytes, start: int, end: int) -> None:
    honest(handler, data[:5000] + bytes([data[5000] ^ 1]) + data[5001:], start, end)
