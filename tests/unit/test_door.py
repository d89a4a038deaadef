"""The door of the web UIs: who enters, and who is refused with which sentence."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Collection
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from orchestration.settings import Login, WebserverSettings
from orchestration.ui.door import Door

OURS = "127.0.0.1:3001"
JSON = {"content-type": "application/json"}


class Entered:
    """An application that answers 200, and notes each request that enters."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    async def __call__(self, scope: Scope, _: Receive, send: Send) -> None:
        self.paths.append(scope.get("path", scope["type"]))
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"x-frame-options", b"SAMEORIGIN")]})
            await send({"type": "http.response.body", "body": b"entered"})
        elif scope["type"] == "websocket":
            await send({"type": "websocket.accept"})


def sent_by(door: Door, scope: Scope) -> list[Message]:
    """Return what the door sends for a request."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request"}

    asyncio.run(door(scope, receive, send))
    return sent


def door(names: Collection[str] = (), **more: Any) -> Door:
    return Door(Entered(), names, **more)


def asked(
    door: Door, method: str = "GET", target: str = "/", headers: dict[str, str] | None = None, host: str = OURS
) -> tuple[int, str, dict[bytes, bytes]]:
    """Return status, body and headers of the answer to a request."""
    path, _, query = target.partition("?")
    raw = [(b"host", host.encode())] + [(k.encode(), v.encode("latin-1")) for k, v in (headers or {}).items()]
    scope = {"type": "http", "method": method, "path": path, "query_string": query.encode(), "headers": raw}
    start, body = sent_by(door, scope)
    return start["status"], body["body"].decode(), dict(start["headers"])


def websocket(door: Door, headers: dict[str, str], *, with_answers: bool = True) -> Message:
    """Return the first message to a WebSocket."""
    raw = [(b"host", OURS.encode())] + [(k.encode(), v.encode()) for k, v in headers.items()]
    extensions: dict[str, Any] = {"websocket.http.response": {}} if with_answers else {}
    scope = {"type": "websocket", "path": "/graphql", "headers": raw, "query_string": b"", "extensions": extensions}
    return sent_by(door, scope)[0]


@pytest.mark.parametrize(("host", "status"), [(OURS, 200), ("10.0.0.7", 200), ("evil.example:3001", 421)])
def test_a_rebound_name_is_refused(host: str, status: int) -> None:
    assert asked(door(), host=host)[0] == status
    assert asked(door(["jobs.example"]), host="jobs.example")[0] == 200


def test_a_request_with_no_host_or_with_two_is_refused() -> None:
    for hosts in ([], [(b"host", OURS.encode()), (b"host", b"localhost")]):
        scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": hosts}
        assert sent_by(door(), scope)[0]["status"] == 421


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "http://127.0.0.1:8001",  # another port of this machine is another origin
        "http://localhost:3001",
        "https://127.0.0.1",
        "http://127.0.0.1.evil.example:3001",
        "http://evil.example@127.0.0.1:99",
        "null",
        "file://",
        "",
        "http://[",
    ],
)
@pytest.mark.parametrize(
    ("method", "target"),
    [("POST", "/graphql"), ("POST", "/report_asset_check/rows"), ("GET", "/report_asset_check/rows"), ("PUT", "/x")],
)
def test_a_page_of_another_origin_is_refused(origin: str, method: str, target: str) -> None:
    ours = door()
    status, sentence, _ = asked(ours, method, target, JSON | {"origin": origin})
    assert (status, sentence.count("\n")) == (403, 1)
    assert "another origin" in sentence


def test_our_own_page_and_clients_that_are_no_browser_enter() -> None:
    ours = door(public_url="https://Jobs.example/dagster")
    for origin in ("http://127.0.0.1:3001", "https://jobs.example", "https://jobs.example:443"):
        assert asked(ours, "POST", "/graphql", JSON | {"origin": origin})[0] == 200
    assert asked(ours, "POST", "/graphql", JSON)[0] == 200, "curl and Dagster's client send no Origin"
    assert asked(ours, "POST", "/graphql", JSON | {"origin": "http://jobs.example"})[0] == 403
    assert asked(ours, "POST", "/graphql", JSON | {"origin": "https://localhost"}, host="localhost")[0] == 200


@pytest.mark.parametrize("path", ["/graphql", "/graphql/", "/dagster/graphql"])
def test_graphql_is_executed_by_a_post_of_json_alone(path: str) -> None:
    ours = door()
    status, _, headers = asked(ours, "GET", f"{path}?query=mutation")
    assert (status, headers[b"allow"]) == (405, b"POST")
    assert asked(ours, "HEAD", f"{path}?query=x", {"accept": "text/html"})[0] == 405
    assert asked(ours, "GET", path)[0] == 200, "the editor's page"
    for kind in (
        "text/plain",
        "text/plain; application/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=application/json",
        "application/graphql",
        "application/jsonp",
    ):
        assert asked(ours, "POST", path, {"content-type": kind})[0] == 415, kind
    assert asked(ours, "POST", f"{path}?query=mutation")[0] == 415, "a form without a body"
    assert asked(ours, "POST", path, {"content-type": "Application/JSON; charset=utf-8"})[0] == 200


@pytest.mark.parametrize("path", ["/graphql\n", "/dagster//graphql\n", "/graphql\r", "/graphql\x00"])
def test_a_path_that_the_router_would_shorten_is_refused(path: str) -> None:
    """Starlette's patterns end in `$`, which also matches before a last line end."""
    ours = door()
    assert asked(ours, "GET", f"{path}?query=mutation")[0] == 400
    assert asked(ours, "POST", path, {"content-type": "text/plain"})[0] == 400


@pytest.mark.parametrize("path", ["/dagster//graphql", "/graphql/x", "//graphql"])
def test_a_path_near_graphql_is_treated_as_graphql(path: str) -> None:
    assert asked(door(), "GET", f"{path}?query=mutation")[0] == 405
    assert asked(door(), "POST", path, {"content-type": "text/plain"})[0] == 415


def test_a_websocket_needs_an_origin_of_ours() -> None:
    assert websocket(door(), {"origin": f"http://{OURS}"})["type"] == "websocket.accept"
    for headers in ({}, {"origin": "http://evil.example"}, {"origin": "null"}):
        assert websocket(door(), headers)["status"] == 403
        refused = websocket(door(), headers, with_answers=False)
        assert (refused["type"], refused["code"]) == ("websocket.close", 1008)


def test_the_start_and_end_of_the_server_pass() -> None:
    entered = Entered()
    assert sent_by(Door(entered, ()), {"type": "lifespan"}) == []
    assert entered.paths == ["lifespan"]


def basic(user: str, password: str) -> dict[str, str]:
    return {"authorization": f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"}


def test_a_login_is_asked_for_in_each_request() -> None:
    ours = door(login=Login("me", "pass:wörd"), open_paths={"/server_info"})
    status, sentence, headers = asked(ours)
    assert (status, headers[b"www-authenticate"]) == (401, b'Basic realm="cryptovol", charset="UTF-8"')
    assert "UI_PASSWORD" in sentence
    assert asked(ours, headers=basic("me", "pass:wörd"))[0] == 200
    assert asked(ours, headers={"authorization": f"basic {basic('me', 'pass:wörd')['authorization'][6:]}"})[0] == 200
    for wrong in (basic("me", "pass"), basic("you", "pass:wörd")):
        assert asked(ours, headers=wrong)[0] == 401
    for header in ("Basic ***", "Bearer x", "Basic"):
        assert asked(ours, headers={"authorization": header})[0] == 401
    assert asked(ours, target="/server_info")[0] == 200, "for health checks"
    assert asked(ours, target="/server_info", host="evil.example")[0] == 421
    assert websocket(ours, {"origin": f"http://{OURS}"})["status"] == 401
    assert websocket(ours, {"origin": f"http://{OURS}"} | basic("me", "pass:wörd"))["type"] == "websocket.accept"


def test_no_page_may_show_or_load_an_answer() -> None:
    _, _, refused = asked(door(), headers={"origin": "null"})
    _, _, entered = asked(door())
    assert refused[b"x-frame-options"] == b"DENY"
    assert entered[b"x-frame-options"] == b"SAMEORIGIN", "a header of the application stays"
    assert entered[b"cross-origin-resource-policy"] == refused[b"cross-origin-resource-policy"] == b"same-origin"


def webserver(**values: Any) -> WebserverSettings:
    return WebserverSettings(_env_file=None, **values)


def test_beyond_loopback_a_password_is_needed() -> None:
    for host in ("127.0.0.1", "localhost", "::1"):
        assert not webserver(dagster_host=host).lets_strangers_in
    for host in ("0.0.0.0", "::", "10.0.0.7", "jobs.example"):
        assert webserver(dagster_host=host).lets_strangers_in
        assert not webserver(dagster_host=host, ui_password="secret").lets_strangers_in


def test_processes_of_this_machine_ask_with_the_login() -> None:
    ours = webserver(dagster_host="0.0.0.0", ui_user="a b", ui_password="p@ss/word:")
    assert ours.dagster_local_url == "http://127.0.0.1:3001"
    assert ours.with_login(ours.dagster_local_url) == "http://a%20b:p%40ss%2Fword%3A@127.0.0.1:3001"
    assert "p@ss" not in repr(ours)
    assert webserver().with_login("http://127.0.0.1:3001/x") == "http://127.0.0.1:3001/x"
