"""Give answers their form: JSON, problems, bodies, request ids, timing."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from http import HTTPStatus
from typing import Any

import msgspec
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from msgspec import UNSET, Struct, UnsetType
from prometheus_client import Histogram
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from data.process.catalog import NO_PURPOSE
from data.process.hosts import REFUSED_HOST
from online.http.bodies import BadBody, FieldError

log = structlog.get_logger()

REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,100}")
Endpoint = Callable[[Request], Awaitable[Response]]
NO_STORE = {"cache-control": "no-store"}
"""Headers of every answer: an answer holds only for the moment."""


class ProblemBody(Struct, omit_defaults=True):
    """The fields of a failure, RFC 9457; an answer may have more."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str | None
    errors: list[FieldError] | UnsetType = UNSET


class Problem(Exception):
    """Answer a request with a failure, as problem+json.

    Args:
        more: further fields of the answer.
    """

    def __init__(self, status: HTTPStatus, detail: str, headers: Mapping[str, str] | None = None, **more: Any) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers, self.more = status, detail, dict(headers or {}), more

    def answer(self, scope: Scope) -> Response:
        """Return the answer to the request of `scope`."""
        body = ProblemBody("about:blank", self.status.phrase, self.status, self.detail, scope.get("request_id"))
        content = msgspec.json.encode(msgspec.to_builtins(body) | self.more)
        return Response(content, self.status, NO_STORE | self.headers, media_type="application/problem+json")


def bad_fields(detail: str, errors: list[FieldError]) -> Problem:
    """Return the problem of a request with bad fields."""
    return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail, errors=errors)


class JsonAnswer(Response):
    """Answer with a JSON document, of which all headers but the length are known."""

    def render(self, content: Any) -> bytes:
        return msgspec.json.encode(content)

    def init_headers(self, _: Mapping[str, str] | None = None) -> None:
        length = (b"content-length", b"%d" % len(self.body))
        self.raw_headers = [(b"cache-control", b"no-store"), length, (b"content-type", b"application/json")]


def described(record: type[Any], **more: Any) -> dict[str, Any]:
    """Describe a type of msgspec for OpenAPI; the types within are written out, since OpenAPI has no room for them."""
    (schema,), parts = msgspec.json.schema_components([record], ref_template="{name}")
    return {"schema": _written_out(schema, parts)} | more


def _written_out(schema: Any, parts: dict[str, Any]) -> Any:
    if isinstance(schema, list):
        return [_written_out(each, parts) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _written_out(parts[schema["$ref"]] | {k: v for k, v in schema.items() if k != "$ref"}, parts)
    return {name: _written_out(each, parts) for name, each in schema.items()}


def described_answer(description: str, record: type[Any]) -> dict[int | str, dict[str, Any]]:
    """Describe the answer of a success for OpenAPI, as `responses` of a route."""
    return {200: {"description": description, "content": {"application/json": described(record)}}}


def described_problems(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    """Describe problems for OpenAPI, as `responses` of a route."""
    content = {"application/problem+json": described(ProblemBody)}
    return {int(status): {"description": status.phrase, "content": content} for status in statuses}


async def read_body(request: Request, max_bytes: int, within_s: float) -> bytes:
    """Read the body of a request, and stop reading above `max_bytes`.

    Args:
        within_s: seconds until the body must be whole.

    Raises:
        Problem: 413, the body is longer, by its content-length or by the received bytes; 408, the body was not whole in
            time; 400, the client went away.
    """
    body, more = bytearray(), True
    size = int(request.headers.get("content-length", 0))  # the server refused a length that is no number
    try:
        async with asyncio.timeout(within_s):
            while more and size <= max_bytes:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise Problem(HTTPStatus.BAD_REQUEST, "the client went away before its body was whole")
                body += message.get("body", b"")
                size = max(size, len(body))
                more = message.get("more_body", False)
    except TimeoutError:
        detail = f"the body was not whole within {within_s:g} s, {len(body)} bytes had come"
        raise Problem(HTTPStatus.REQUEST_TIMEOUT, detail, {"connection": "close"}) from None
    if size > max_bytes:
        raise Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body must be at most {max_bytes} bytes")
    return bytes(body)


class Observed:
    """Give each request an id, count its time, answer refusals and errors, and call the direct endpoints.

    Plain ASGI costs a tenth of Starlette's middleware class.

    Args:
        seconds: by route, status and purpose; an endpoint that answers about a source sets `purpose` in the scope.
        direct: by method and path, endpoints that are called at once. The layers of FastAPI and Starlette before an
            endpoint cost more than a forecast; FastAPI's route of the same path describes the endpoint, and refuses
            other methods.
        is_allowed: whether a `Host` header may be answered; a request for another host is refused with 421.
        endless: path of a stream, whose time is not counted; the stream ends when the client, or the service, does.
    """

    def __init__(
        self,
        app: ASGIApp,
        seconds: Histogram,
        direct: Mapping[tuple[str, str], Endpoint],
        is_allowed: Callable[[bytes], bool],
        endless: str = "",
    ) -> None:
        self._app, self._is_allowed, self._endless = app, is_allowed, endless
        self._seconds = cache(seconds.labels)  # finding a child costs more than counting in it
        self._direct = direct

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        request_id = given if REQUEST_ID.fullmatch(given) else b"%032x" % random.getrandbits(128)
        scope["request_id"] = request_id.decode()
        started = time.perf_counter()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id)]
            await send(message)

        endpoint = self._direct.get((scope["method"], scope["path"]))
        try:
            if not self._is_allowed(headers.get(b"host", b"")):
                raise Problem(HTTPStatus.MISDIRECTED_REQUEST, REFUSED_HOST)
            if endpoint is None:
                await self._app(scope, receive, send_with_id)
            else:
                answer = await endpoint(Request(scope, receive))
                await answer(scope, receive, send_with_id)
        except Problem as problem:
            await problem.answer(scope)(scope, receive, send_with_id)
        except BadBody as bad:
            await bad_fields(str(bad), bad.errors).answer(scope)(scope, receive, send_with_id)
        except Exception as error:
            log.error("unexpected", request_id=scope["request_id"], exc_info=error)
            if status:
                raise  # half an answer is out: the server can only cut the answer off
            detail = "the service failed; its log has the cause under this request id"
            await Problem(HTTPStatus.INTERNAL_SERVER_ERROR, detail).answer(scope)(scope, receive, send_with_id)
        finally:
            if scope["path"] != self._endless:
                # The template: a label must not grow with requests.
                route = scope["path"] if endpoint else getattr(scope.get("route"), "path", "unknown")
                self._seconds(route, status, scope.get("purpose", NO_PURPOSE)).observe(time.perf_counter() - started)


def handle_errors(app: FastAPI) -> None:
    """Answer FastAPI's own refusals as problems too."""

    @app.exception_handler(RequestValidationError)
    async def bad_parameter(request: Request, error: RequestValidationError) -> Response:
        errors = [FieldError(str(found["loc"][-1]), found["msg"]) for found in error.errors()]
        detail = "; ".join(f"{found.field}: {found.problem}" for found in errors)
        return bad_fields(detail, errors).answer(request.scope)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        detail = f"{request.method} {request.url.path}: {error.detail}"
        return Problem(HTTPStatus(error.status_code), detail, error.headers).answer(request.scope)
