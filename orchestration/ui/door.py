"""Guard a web UI that has no guard of its own: refuse pages of other origins, other host names, and strangers."""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Collection, Iterator
from hashlib import sha256
from hmac import compare_digest
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from data.process.hosts import REFUSED_HOST, host_check
from orchestration.settings import Login

_PORTS = {"http": 80, "https": 443}
_HEADERS = (
    (b"x-frame-options", b"DENY"),  # in a frame of another page, a person would click without seeing where
    (b"cross-origin-resource-policy", b"same-origin"),
)
"""Headers of each answer: no page of another origin may show or load it."""


class Refusal(NamedTuple):
    """Answer to a request that may not enter: a status, and a sentence for a person."""

    status: HTTPStatus
    sentence: str
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Door:
    """Admit requests to an ASGI application, or refuse a request with one sentence.

    A browser sends requests for any page that a person visits, also to servers on loopback. So the `Host` must be an
    address, `localhost` or an allowed name; an `Origin` must be the server's own; a WebSocket needs an `Origin`, as
    only browsers open one here. HTTP without an `Origin` enters: `curl` and Dagster's client send none. A browser
    leaves the `Origin` out for images, links and forms by GET, so GraphQL is never executed by GET, and by POST only as
    JSON, which no form can send.

    Args:
        names: allowed host names, see `host_check`.
        public_url: address of the application for browsers, where a proxy changes the `Host`; its origin is ours.
        login: asked for in each request; None: nobody is asked.
        open_paths: paths that enter without a login, as for health checks; host and origin are judged all the same.
    """

    def __init__(
        self,
        app: ASGIApp,
        names: Collection[str],
        public_url: str | None = None,
        login: Login | None = None,
        open_paths: Collection[str] = (),
    ) -> None:
        self._app = app
        self._is_host = host_check(names)
        self._public = _origin_of(public_url or "")
        self._login = login and sha256(f"{login.user}:{login.password}".encode()).digest()
        self._open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
        elif refusal := self._refusal(scope):
            await _refuse(refusal, scope, send)
        else:
            await self._app(scope, receive, _sending_headers(send))

    def _refusal(self, scope: Scope) -> Refusal | None:
        hosts, origins = list(_values(scope, b"host")), list(_values(scope, b"origin"))
        if len(hosts) != 1 or not self._is_host(hosts[0]):
            return Refusal(HTTPStatus.MISDIRECTED_REQUEST, REFUSED_HOST)
        if scope["type"] == "websocket" and not origins:
            return Refusal(HTTPStatus.FORBIDDEN, "a WebSocket needs the header Origin, which browsers send")
        if not all(self._is_ours(origin, hosts[0]) for origin in origins):
            sentence = "a page of another origin may not call this server; behind a proxy, set the server's public URL"
            return Refusal(HTTPStatus.FORBIDDEN, sentence)
        if not scope["path"].isprintable():  # the router takes `/graphql` with a line end for `/graphql`
            return Refusal(HTTPStatus.BAD_REQUEST, "the path holds a control character")
        if self._login and scope["path"] not in self._open_paths and not self._has_login(scope):
            challenge = (b"www-authenticate", b'Basic realm="cryptovol", charset="UTF-8"')
            sentence = "a user name and a password are needed: UI_USER and UI_PASSWORD of the server"
            return Refusal(HTTPStatus.UNAUTHORIZED, sentence, (challenge,))
        return _graphql_refusal(scope) if scope["type"] == "http" else None

    def _is_ours(self, origin: bytes, host: bytes) -> bool:
        """Return whether an origin is the public URL's, or has the host and port of the request."""
        found = _origin_of(origin.decode("latin-1"))
        if found is None:
            return False
        return found == self._public or found == _origin_of(f"{found.scheme}://{host.decode('latin-1')}")

    def _has_login(self, scope: Scope) -> bool:
        given = b"".join(_values(scope, b"authorization"))
        scheme, _, encoded = given.partition(b" ")
        try:
            decoded = b64decode(encoded.strip(), validate=True)
        except binascii.Error:
            return False
        # Digests have one length, so the comparison takes the same time for each wrong login.
        return scheme.lower() == b"basic" and compare_digest(sha256(decoded).digest(), self._login or b"")


class _Origin(NamedTuple):
    scheme: str
    host: str
    port: int


def _origin_of(url: str) -> _Origin | None:
    """Return the origin of a URL; None for another scheme, as in `null`, the origin of a sandboxed frame."""
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return None
    return _Origin(parts.scheme, parts.hostname, port) if parts.hostname and port and parts.scheme in _PORTS else None


def _values(scope: Scope, name: bytes) -> Iterator[bytes]:
    return (value for header, value in scope["headers"] if header == name)


def _graphql_refusal(scope: Scope) -> Refusal | None:
    """Refuse GraphQL by GET, and by POST in another form than JSON. Without a query, GET is the page of an editor."""
    if "/graphql" not in scope["path"]:  # no other path has the word
        return None
    if scope["method"] != "POST":
        if not scope["query_string"]:
            return None
        sentence = "GraphQL is executed by POST alone"
        return Refusal(HTTPStatus.METHOD_NOT_ALLOWED, sentence, ((b"allow", b"POST"),))
    types = [value.partition(b";")[0].strip().lower() for value in _values(scope, b"content-type")]
    if types != [b"application/json"]:
        return Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "GraphQL is taken as application/json alone")
    return None


async def _refuse(refusal: Refusal, scope: Scope, send: Send) -> None:
    """Answer with a refusal; a server without HTTP answers to WebSockets closes the handshake, a 403 for the client."""
    prefix = ""
    if scope["type"] == "websocket":
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": 1008, "reason": refusal.sentence})
            return
        prefix = "websocket."
    body = f"{refusal.sentence}\n".encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        *refusal.headers,
        *_HEADERS,
    ]
    await send({"type": f"{prefix}http.response.start", "status": int(refusal.status), "headers": headers})
    await send({"type": f"{prefix}http.response.body", "body": body})


def _sending_headers(send: Send) -> Send:
    """Return a `send` that adds `_HEADERS` to the answer."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            names = {name.lower() for name, _ in message.get("headers", ())}
            added = [header for header in _HEADERS if header[0] not in names]
            message = {**message, "headers": [*message.get("headers", ()), *added]}
        await send(message)

    return send_with_headers
