"""The HTTP server that actions of the table call."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

PATIENCE_S = 30.0  # no action of the table waits as long


class Server:
    """Answers on a free port of loopback while it is open; `do_GET` has what."""

    def __init__(self) -> None:
        self._closing = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self._closing))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="rules' server", daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.socket.close()  # not `server_close`, which would wait for handlers
        self._thread.join(5)


def _handler(closing: threading.Event) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            _, path, *rest = self.path.split("/")
            match path:
                case "user":
                    self._answer(200, {"id": "ext-42"})
                case "status":
                    self._answer(int(rest[0]), {})
                case "redirect":
                    self._answer(302, {}, location="/user")
                case "cookie":
                    self._answer(200, {}, set_cookie="visitor=zoe; Path=/")
                case "echo":
                    headers = {name.lower(): value for name, value in self.headers.items()}
                    self._answer(200, {"method": self.command, "headers": headers, "body": body.decode()})
                case "slow":
                    closing.wait(PATIENCE_S)
                case "drip":
                    self._drip()

        do_POST = do_GET  # noqa: N815 - the library's name

        def _answer(self, status: int, document: Any, **headers: str) -> None:
            content = json.dumps(document).encode()
            self.send_response(status)
            for name, value in {"content-type": "application/json", "content-length": str(len(content)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(content)

        def _drip(self) -> None:
            self.send_response(200)
            self.send_header("content-length", "100000")
            self.end_headers()
            try:
                while not closing.wait(0.02):
                    self.wfile.write(b".")
            except OSError:
                pass  # the caller has seen enough

        def log_message(self, *_: object) -> None:
            pass

    return Handler
