"""How the API answers apart from what it answers: JSON, problems, request ids, timing."""

from __future__ import annotations

import re
import time
import uuid
from http import HTTPStatus
from typing import Any

import msgspec
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from prometheus_client import Histogram
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from online.requests import BadBody

log = structlog.get_logger()

REQUEST_ID = re.compile(rb"^[A-Za-z0-9._-]{1,100}$")


class Problem(Exception):
    """An answer that is no success, as problem+json."""

    def __init__(self, status: HTTPStatus, detail: str, **more: Any) -> None:
        super().__init__(detail)
        self.status, self.detail, self.more = status, detail, more


def problem_answer(request: Request, status: HTTPStatus, detail: str, **more: Any) -> Response:
    body = {"type": "about:blank", "title": status.phrase, "status": int(status), "detail": detail}
    content = msgspec.json.encode(body | {"request_id": request.scope.get("request_id")} | more)
    return Response(content, status, media_type="application/problem+json")


def json_answer(content: Any, status: HTTPStatus = HTTPStatus.OK) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")


class Observed:
    """Gives each request an id and counts its time; plain ASGI, which costs a tenth of Starlette's middleware class."""

    def __init__(self, app: ASGIApp, seconds: Histogram) -> None:
        self._app, self._seconds = app, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        given = dict(scope["headers"]).get(b"x-request-id", b"")
        request_id = given if REQUEST_ID.match(given) else uuid.uuid4().hex.encode()
        scope["request_id"] = request_id.decode()
        started = time.perf_counter()
        status = HTTPStatus.INTERNAL_SERVER_ERROR

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id)]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            route = getattr(scope.get("route"), "path", "unknown")  # the template: a label must not grow with requests
            self._seconds.labels(route, int(status)).observe(time.perf_counter() - started)


def handle_errors(app: FastAPI) -> None:
    @app.exception_handler(Problem)
    async def problem(request: Request, error: Problem) -> Response:
        return problem_answer(request, error.status, error.detail, **error.more)

    @app.exception_handler(BadBody)
    async def bad_body(request: Request, error: BadBody) -> Response:
        errors = [found._asdict() for found in error.errors]
        return problem_answer(request, HTTPStatus.UNPROCESSABLE_ENTITY, str(error), errors=errors)

    @app.exception_handler(RequestValidationError)
    async def bad_parameter(request: Request, error: RequestValidationError) -> Response:
        errors = [{"field": str(found["loc"][-1]), "problem": found["msg"]} for found in error.errors()]
        detail = "; ".join(f"{found['field']}: {found['problem']}" for found in errors)
        return problem_answer(request, HTTPStatus.UNPROCESSABLE_ENTITY, detail, errors=errors)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        return problem_answer(
            request, HTTPStatus(error.status_code), f"{request.method} {request.url.path}: {error.detail}"
        )

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        log.error("unexpected", request_id=request.scope.get("request_id"), exc_info=error)
        detail = "the service failed; its log has the cause under this request id"
        return problem_answer(request, HTTPStatus.INTERNAL_SERVER_ERROR, detail)
