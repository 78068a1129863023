"""A small server on this machine with the part of OpenAI's chat API that clients of language models use."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class ChatServer:
    """
    Answers each request with `answer(request)`: a text, or a status, or bytes in place of JSON.

    Attributes:
        asked: The requests, as dictionaries, each with its header `Authorization`.
    """

    def __init__(self, answer: Callable[[dict], str | int | bytes], finish_reason: str = "stop"):
        self.asked: list[dict] = []
        asked = self.asked

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                asked.append(request | {"path": self.path, "key": self.headers["Authorization"]})
                said = answer(request)
                status, content = (said, b"out of order") if isinstance(said, int) else (200, said)
                if isinstance(said, str):
                    choice = {"index": 0, "finish_reason": finish_reason}
                    choice["message"] = {"role": "assistant", "content": said}
                    whole = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
                    content = json.dumps(whole).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                with contextlib.suppress(BrokenPipeError):  # a client that waits no longer
                    self.wfile.write(content)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> ChatServer:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._server.shutdown()
        self._server.server_close()
