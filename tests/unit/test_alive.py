"""The health check of containers."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from data.process.alive import main


class Answers(BaseHTTPRequestHandler):
    """Answers with the status that the path names."""

    def do_GET(self) -> None:
        self.send_response(int(self.path[1:]))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_server_that_answers_or_asks_for_a_password_is_alive(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy of the environment is not asked."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert [main([f"http://{server}/{status}"]) for status in (200, 401, 403, 404, 503)] == [0, 0, 1, 1, 1]
    assert main([server]) == 0


def test_no_server_and_a_wrong_address_are_not_alive(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert main([address]) == main([f"http://{address}/"]) == 1
    assert main(["nonsense"]) == 1
    assert main([]) == 2
    assert "refused" in capsys.readouterr().out
