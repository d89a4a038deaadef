"""Fakes for faults that real services show only when broken."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from data.models.registry import ModelFile


class FakeRegistry:
    """Fake of a misbehaving MLflow on a real socket; tests of normal behaviour use a real server.

    The answers have the shape of MLflow 3.17; a test on the real server checks the shape.

    Attributes:
        files: by registered model, the champion.
        challengers: by registered model, the challenger.
        tags: by registered model, further tags of its versions.
        broken: the answer to all requests.
        broken_files: the answer to requests for a file.
        headers: sent with each answer.
        asked: the path of each request.
        logins: the header `Authorization` of each request; empty: none.
    """

    def __init__(self) -> None:
        self.files: dict[str, ModelFile] = {}
        self.challengers: dict[str, ModelFile] = {}
        self.tags: dict[str, dict[str, str]] = {}
        self.artifact_scheme = "mlflow-artifacts"
        self.broken: tuple[int, bytes] | None = None
        self.broken_files: tuple[int, bytes] | None = None
        self.headers: dict[str, str] = {}
        self.asked: list[str] = []
        self.logins: list[str] = []
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                registry.asked.append(self.path)
                registry.logins.append(self.headers.get("Authorization", ""))
                status, body = registry.broken or registry.answer(self.path)
                self.send_response(status)
                for name, value in registry.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, path: str) -> tuple[int, bytes]:
        champions = ((name, "champion", file) for name, file in self.files.items())
        challengers = ((name, "challenger", file) for name, file in self.challengers.items())
        for name, alias, file in (*champions, *challengers):
            if f"name={name}&alias={alias}" in path or f"-versions/get?name={name}&version={file.version}" in path:
                found = {"digest": file.digest} | self.tags.get(name, {})
                tags = [{"key": key, "value": value} for key, value in found.items()]
                return 200, json.dumps({"model_version": {"version": file.version, "tags": tags}}).encode()
            if f"get-download-uri?name={name}&version={file.version}" in path:
                return 200, json.dumps(
                    {"artifact_uri": f"{self.artifact_scheme}:/1/{name}-{file.version}/artifacts"}
                ).encode()
            if path.endswith(f"/mlflow-artifacts/artifacts/1/{name}-{file.version}/artifacts/model.onnx"):
                return self.broken_files or (200, file.model_bytes)
        return 404, b'{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "not found"}'

    def files_asked(self) -> int:
        """Return how often a file was requested."""
        return sum("/mlflow-artifacts/" in path for path in self.asked)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
