"""Let requests in by key or by cookie, within the rate of each key."""

from __future__ import annotations

import math
import secrets
import time
from functools import lru_cache
from http import HTTPStatus
from ipaddress import ip_address

import msgspec
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.params import Depends
from fastapi.security import HTTPBearer

from online.http.answers import NO_STORE, Problem, read_body
from online.keys.cookie import COOKIE_S, CookieSigner
from online.keys.rate import RateLimit
from online.settings import ApiSettings

log = structlog.get_logger()

COOKIE = "cryptovol"
COOKIE_PATH = "/live"
"""A browser sends the cookie to no other route, also of another server on the same host."""
MAX_LOGIN_BYTES = 1_000
LOGIN_TIMEOUT_S = 5.0
REFUSALS = (HTTPStatus.UNAUTHORIZED, HTTPStatus.TOO_MANY_REQUESTS)
"""Statuses of the refusals of `Access`."""


class LoginBody(msgspec.Struct):
    """The body of a login."""

    key: str


class Access:
    """Decide which requests are answered.

    With keys, a request needs a key, or for the stream of the live page a cookie. Without keys, requests are answered
    on loopback addresses alone, unless `API_OPEN` says otherwise: uvicorn may listen on any address, whatever HOST is.
    """

    def __init__(self, settings: ApiSettings) -> None:
        self._is_open = settings.api_open
        self._rate = RateLimit(settings.api_rate, settings.api_burst)
        self._ring = settings.key_ring()
        self._cookies: CookieSigner | None = None
        if self._ring is not None:
            secret = settings.api_cookie_secret
            if secret is None:
                log.info("no API_COOKIE_SECRET: logins of the live page end with this process, and count for it alone")
            self._cookies = CookieSigner(
                secret.get_secret_value().encode() if secret else secrets.token_bytes(32), self._ring
            )

    @property
    def has_keys(self) -> bool:
        """Return whether requests need a key."""
        return self._ring is not None

    def described(self) -> list[Depends]:
        """Return the dependencies of a route that describe the key for OpenAPI, and `/docs` can send one then."""
        scheme = HTTPBearer(auto_error=False, description="a key of `python -m online.keys new NAME`")
        return [Depends(scheme)] if self.has_keys else []

    async def by_key(self, request: Request) -> None:
        """Let a request in by its key.

        Raises:
            Problem: 401, the key is missing or unknown; 429, too many requests; 403, there are no keys, and the request
                came from beyond loopback.
        """
        self.check(request)

    async def by_key_or_cookie(self, request: Request) -> None:
        """Let a request in by its key or by its cookie; see `by_key` for the problems."""
        cookie = request.cookies.get(COOKIE)
        name = self._cookies.name_in(cookie, time.time()) if self._cookies and cookie else None
        if name is None:
            self.check(request)
        else:
            self._count(name)

    def check(self, request: Request) -> None:
        """Do as `by_key`, without a coroutine: this check comes before each forecast."""
        if self._ring is None:
            server = request.scope.get("server")
            if not self._is_open and server and not _is_local(server[0]):
                detail = "the API has no keys, so it answers on loopback alone: set API_KEYS, or API_OPEN for everybody"
                raise Problem(HTTPStatus.FORBIDDEN, detail)
            return
        keys = [value for header, value in request.scope["headers"] if header == b"authorization"]
        scheme, _, key = keys[0].partition(b" ") if len(keys) == 1 else (b"", b"", b"")
        if scheme.lower() != b"bearer":
            raise _unauthorized(
                "a key is needed, as the header `Authorization: Bearer KEY`; the live page asks for one"
            )
        self._count(self._name_of(key.strip()))

    async def log_in(self, request: Request) -> Response:
        """Answer a login of the live page with a cookie.

        Raises:
            Problem: 401, 429: see `by_key`; 404, there are no keys; 408, 413, 415, 422: the body is no login.
        """
        if self._cookies is None:
            raise Problem(HTTPStatus.NOT_FOUND, "the API has no keys, and so no login")
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            # No form can send this type: a page of another origin cannot log a browser in.
            raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "a login is application/json")
        body = await read_body(request, MAX_LOGIN_BYTES, LOGIN_TIMEOUT_S)
        try:
            key = msgspec.json.decode(body, type=LoginBody).key
            name = self._name_of(key.encode())
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            detail = 'a login is {"key": "..."}'
            raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail) from None
        self._count(name)
        answer = Response(status_code=HTTPStatus.NO_CONTENT, headers=NO_STORE)
        answer.set_cookie(
            COOKIE,
            self._cookies.sign(name, time.time()),
            max_age=COOKIE_S,
            path=COOKIE_PATH,
            secure=request.scope["scheme"] == "https",
            httponly=True,
            samesite="strict",
        )
        return answer

    def _name_of(self, key: bytes) -> str:
        name = self._ring.name_of(key) if self._ring else None
        if name is None:
            raise _unauthorized("this key is not known")
        return name

    def _count(self, name: str) -> None:
        wait_s = self._rate.wait_s(name, time.monotonic())
        if wait_s:
            detail = (
                f"the key {name} may send {self._rate.per_s:g} requests a second to each replica, and "
                f"{self._rate.burst} at once; the next one in {wait_s:.3f} s (API_RATE, API_BURST)"
            )
            raise Problem(HTTPStatus.TOO_MANY_REQUESTS, detail, {"retry-after": str(math.ceil(wait_s))})


def _unauthorized(detail: str) -> Problem:
    return Problem(HTTPStatus.UNAUTHORIZED, detail, {"www-authenticate": 'Bearer realm="cryptovol"'})


@lru_cache(64)
def _is_local(host: str) -> bool:
    """Return whether the address of a connection's near end is loopback; a socket in the file system has a path."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return True


def add_login(app: FastAPI, access: Access) -> None:
    """Add the login of the live page."""

    @app.post("/live/login", include_in_schema=False)
    async def log_in(request: Request) -> Response:
        """Answer the key of a person with a cookie for the stream."""
        return await access.log_in(request)
