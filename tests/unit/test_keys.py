"""Keys of the API: who is let in, how often, and what the answers and logs must not hold."""

from __future__ import annotations

import hashlib
import sys
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError

from online import api
from online.http.access import COOKIE
from online.http.routes import create_app
from online.keys.__main__ import main
from online.keys.cookie import COOKIE_S, CookieSigner
from online.keys.rate import RateLimit
from online.keys.ring import KeyRing, hash_line, new_key
from online.settings import ApiSettings

KEY, OTHER = "a-key-of-a-test", "another-key"
KEYS = f"bot:{hashlib.sha256(KEY.encode()).hexdigest()}, desk:{hashlib.sha256(OTHER.encode()).hexdigest()}"
BEARER = {"authorization": f"Bearer {KEY}"}
ROW = {"rows": [{"n": 0, "ret_mean": None, "ret_std": None}]}
GUARDED = [("POST", "/predict"), ("GET", "/predict/BTC-USD"), ("GET", "/live/events")]
OPEN = [
    ("GET", path) for path in ("/", "/health", "/health/live", "/version", "/docs", "/openapi.json", "/static/main.js")
]
UNREADY = 503
"""No model and no broker is here: a guarded request that was let in."""


def settings(**more: Any) -> ApiSettings:
    return ApiSettings(_env_file=None, kafka_bootstrap_servers="127.0.0.1:9", **more)


def client(host: str = "127.0.0.1", **more: Any) -> TestClient:
    return TestClient(create_app(settings(**more)), base_url=f"http://{host}")


def ask(asked: TestClient, method: str, path: str, headers: dict[str, str] | None = None) -> Any:
    return asked.request(method, path, headers=headers or {}, json=ROW if method == "POST" else None)


# Keys


def test_a_hash_is_the_sha256_of_the_key() -> None:
    """As `printf key | sha256sum` prints it."""
    assert hash_line("bot", "key") == "bot:2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683"


def test_the_command_prints_a_key_once_and_the_line_that_lets_it_in(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "bot"]) == 0
    printed = capsys.readouterr().out.splitlines()
    key, line = printed[1], printed[-1]
    assert len(key) == 43, "32 bytes"
    assert KeyRing.parse(line).name_of(key.encode()) == "bot"
    assert main(["new", "bot"]) == 0
    assert key not in capsys.readouterr().out
    assert main(["new", "a,b"]) == 2
    assert len({new_key() for _ in range(100)}) == 100


def test_each_key_has_its_name() -> None:
    ring = KeyRing.parse(KEYS.replace(",", "\n"))
    assert [ring.name_of(key.encode()) for key in (KEY, OTHER, "", KEY[:-1], KEY + "x")] == [
        "bot",
        "desk",
        None,
        None,
        None,
    ]
    assert ring.name_of(b"\xff") is None


@pytest.mark.parametrize(
    "text",
    ["sesame", "bot:sesame", f"bot:{'0' * 63}", f"bot:{'g' * 64}", f":{'0' * 64}", f"a/b:{'0' * 64}", ",",
     f"sesame:{'0' * 64},sesame:{'1' * 64}", f"a:{'0' * 64},sesame:{'0' * 64}"],
)  # fmt: skip
def test_what_is_no_list_of_hashes_is_refused_and_not_shown(text: str) -> None:
    """A person may have put the key itself there."""
    with pytest.raises(ValidationError, match="api_keys") as refused:
        settings(api_keys=text)
    assert "sesame" not in str(refused.value)


def test_a_short_secret_is_refused_and_no_secret_is_shown() -> None:
    with pytest.raises(ValidationError) as refused:
        settings(api_keys=KEYS, api_cookie_secret="sesame")
    assert "sesame" not in str(refused.value)
    shown = repr(settings(api_keys=KEYS, api_cookie_secret="sesame" * 3))
    assert "sesame" not in shown
    assert KEYS not in shown


# Who is let in


@pytest.mark.parametrize(("method", "path"), GUARDED)
def test_a_guarded_route_needs_a_key(method: str, path: str) -> None:
    asked = client(api_keys=KEYS)
    wrong = ("", "Bearer", "Bearer x", f"Basic {KEY}", KEY, f"Bearer {KEY}x", f"Bearer {KEYS.split(':')[1][:64]}")
    for given in wrong:
        answer = ask(asked, method, path, {"authorization": given})
        assert (answer.status_code, answer.headers["content-type"]) == (401, "application/problem+json"), given
        assert answer.headers["www-authenticate"] == 'Bearer realm="cryptovol"'
        assert KEY not in answer.text
    twice = [("authorization", BEARER["authorization"]), ("authorization", "Bearer x")]
    assert asked.request(method, path, headers=twice).status_code == 401
    assert ask(asked, method, f"{path}?key={KEY}").status_code == 401, "an address is logged by others: no key in it"
    let_in = 200 if path == "/live/events" else UNREADY
    assert ask(asked, method, path, BEARER).status_code == let_in
    assert ask(asked, method, path, {"authorization": f"bearer  {OTHER} "}).status_code == let_in


@pytest.mark.parametrize(("method", "path"), OPEN)
def test_an_open_route_needs_none(method: str, path: str) -> None:
    assert ask(client(api_keys=KEYS), method, path).status_code in (200, UNREADY)


def test_a_refusal_comes_before_a_look_at_the_request() -> None:
    """Nobody without a key learns what a good request is."""
    asked = client(api_keys=KEYS)
    assert asked.get("/predict/btc").status_code == 401
    assert asked.get("/live/events?product_id=btc").status_code == 401
    assert asked.post("/predict", content=b"x" * 5_000_000).status_code == 401
    assert asked.get("/predict/btc", headers=BEARER).status_code == 422


@pytest.mark.parametrize("is_open", [True, False])
def test_metrics_are_open_by_a_setting(is_open: bool) -> None:
    asked = client(api_keys=KEYS, api_metrics_open=is_open)
    assert asked.get("/metrics").status_code == (200 if is_open else 401)
    assert asked.get("/metrics", headers=BEARER).status_code == 200


def test_refusals_are_counted_by_the_template_of_their_route() -> None:
    asked = client(api_keys=KEYS)
    for path in ("/predict/A-USD", "/predict/B-USD"):
        asked.get(path)
    asked.post("/predict")
    text = asked.get("/metrics").text
    assert 'cryptovol_request_seconds_count{purpose="none",route="/predict/{product_id}",status="401"} 2.0' in text
    assert 'cryptovol_request_seconds_count{purpose="none",route="/predict",status="401"} 1.0' in text
    assert KEY not in text
    assert "bot" not in text


def test_the_schema_has_the_key_where_there_are_keys() -> None:
    for keys, expected in ((None, set()), (KEYS, {"401", "429"})):
        schema = client(api_keys=keys).get("/openapi.json").json()
        for operation in (schema["paths"]["/predict"]["post"], schema["paths"]["/predict/{product_id}"]["get"]):
            assert {"401", "429"} & set(operation["responses"]) == expected
            assert ("security" in operation) == (keys is not None)


# Rate


def test_a_key_over_its_rate_waits_and_another_does_not() -> None:
    asked = client(api_keys=KEYS, api_rate=0.01, api_burst=2)
    found = [ask(asked, "POST", "/predict", BEARER).status_code for _ in range(3)]
    assert found == [UNREADY, UNREADY, 429]
    refused = asked.get("/predict/BTC-USD", headers=BEARER)
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "100"
    assert "the key bot may send 0.01 requests a second to each replica, and 2 at once" in refused.json()["detail"]
    assert asked.get("/live/events", headers=BEARER).status_code == 429
    assert asked.get("/predict/BTC-USD", headers={"authorization": f"Bearer {OTHER}"}).status_code == UNREADY
    assert asked.get("/health/live", headers=BEARER).status_code == 200


def test_a_bucket_fills_again_up_to_its_size() -> None:
    """2 at once; then 4 a second: after .25 s there is one, and after an hour there are 2."""
    limit = RateLimit(per_s=4.0, burst=2)
    assert [limit.wait_s("a", 0.0) for _ in range(3)] == [0.0, 0.0, 0.25]
    assert [limit.wait_s("a", 0.25) for _ in range(2)] == [0.0, 0.25]
    assert [limit.wait_s("a", 3_600.0) for _ in range(3)] == [0.0, 0.0, 0.25]


# The cookie


def signer(keys: str = KEYS, secret: bytes = b"shared") -> CookieSigner:
    return CookieSigner(secret, KeyRing.parse(keys))


def test_each_replica_reads_the_cookies_of_the_others_until_they_expire() -> None:
    cookie = signer().sign("bot", 1_000.5)
    assert KEY not in cookie
    assert signer().name_in(cookie, 1_000.5) == "bot"
    assert signer().name_in(cookie, 999.0 + COOKIE_S) == "bot"
    assert signer().name_in(cookie, 1_000.0 + COOKIE_S) is None
    assert signer(secret=b"another").name_in(cookie, 1_000.5) is None


def test_a_cookie_ends_with_its_key() -> None:
    cookie = signer().sign("bot", 0.0)
    gone, renewed = KEYS.split(", ")[1], hash_line("bot", "new")
    assert signer(gone).name_in(cookie, 1.0) is None
    assert signer(renewed).name_in(cookie, 1.0) is None


@pytest.mark.parametrize("changed", ["name", "expiry", "signature"])
def test_a_changed_cookie_is_none(changed: str) -> None:
    name, expiry, signature = signer().sign("bot", 0.0).split(".")
    parts = {
        "name": ("desk", expiry, signature),
        "expiry": (name, str(int(expiry) + 1), signature),
        "signature": (name, expiry, signature[:-1] + ("0" if signature[-1] != "0" else "1")),
    }
    assert signer().name_in(".".join(parts[changed]), 1.0) is None


@pytest.mark.parametrize(
    "cookie", ["", ".", "..", "bot", "bot.9", "bot.x.y", "bot.²³.y", "é.9.y", "bot." + "9" * 5_000 + ".y"]
)
def test_what_is_no_cookie_is_none(cookie: str) -> None:
    assert signer().name_in(cookie, 1.0) is None


def test_a_login_opens_the_stream_and_nothing_else() -> None:
    asked = client(api_keys=KEYS)
    answer = asked.post("/live/login", json={"key": KEY})
    assert (answer.status_code, answer.content) == (204, b"")
    set_cookie = answer.headers["set-cookie"]
    value, *attributes = set_cookie.split("; ")
    assert {each.lower() for each in attributes} == {"httponly", f"max-age={COOKIE_S}", "path=/live", "samesite=strict"}
    assert KEY not in set_cookie
    assert asked.get("/live/events").status_code == 200
    plain = {"cookie": value}
    assert asked.get("/live/events", headers=plain).status_code == 200
    assert asked.get("/predict/BTC-USD", headers=plain).status_code == 401
    assert asked.post("/predict", json=ROW, headers=plain).status_code == 401
    assert asked.get("/live/events", headers={"cookie": f"{COOKIE}=bot.9999999999.{'0' * 64}"}).status_code == 401


def test_a_login_behind_https_gets_a_cookie_for_https_alone() -> None:
    asked = TestClient(create_app(settings(api_keys=KEYS)), base_url="https://127.0.0.1")
    assert "secure" in asked.post("/live/login", json={"key": KEY}).headers["set-cookie"].lower().split("; ")


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b'{"key": "wrong"}', "application/json", 401),
        (b'{"key": ""}', "application/json", 401),
        (b'{"key": 7}', "application/json", 422),
        (b'{"key": "\\ud800"}', "application/json", 422),
        (b'{"key": "\xff"}', "application/json", 422),
        (b"[" * 900, "application/json", 422),
        (b"", "application/json", 422),
        (b" " * 1_001, "application/json", 413),
        (f'{{"key": "{KEY}"}}'.encode(), "text/plain", 415),
        (f"key={KEY}".encode(), "application/x-www-form-urlencoded", 415),
    ],
)
def test_a_login_that_is_none_gets_no_cookie(content: bytes, kind: str, status: int) -> None:
    answer = client(api_keys=KEYS).post("/live/login", content=content, headers={"content-type": kind})
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert "set-cookie" not in answer.headers


def test_logins_count_for_the_rate() -> None:
    asked = client(api_keys=KEYS, api_rate=0.01, api_burst=1)
    assert [asked.post("/live/login", json={"key": KEY}).status_code for _ in range(2)] == [204, 429]


# Without keys


def test_without_keys_the_api_answers_on_loopback_alone_unless_told_otherwise() -> None:
    """Whatever address a server such as uvicorn was told to listen on."""
    for method, path in GUARDED:
        let_in = 200 if path == "/live/events" else UNREADY
        assert ask(client(), method, path).status_code == let_in
        assert ask(client("10.0.0.7", api_open=True), method, path).status_code == let_in
        refused = ask(client("10.0.0.7"), method, path)
        assert (refused.status_code, "API_OPEN" in refused.text) == (403, True)
    assert client().post("/live/login", json={"key": KEY}).status_code == 404
    assert client("10.0.0.7").get("/health/live").status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "api.example"])
def test_the_api_refuses_to_listen_for_strangers(
    host: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOST", host)
    monkeypatch.setattr(api, "create_app", lambda _: pytest.fail("the API was made"))
    assert api.main() == 2
    said = capsys.readouterr().err
    assert f"HOST={host} lets other machines in" in said
    assert said.count("\n") == 1
    assert settings(host=host).api_lets_strangers_in
    for more in ({"api_keys": KEYS}, {"api_open": True}):
        assert not settings(host=host, **more).api_lets_strangers_in


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_the_api_listens_on_loopback_without_keys(host: str) -> None:
    assert not settings(host=host).api_lets_strangers_in


@pytest.mark.parametrize(("name", "value"), [("API_KEYS", "sesame"), ("API_COOKIE_SECRET", "sesame")])
def test_a_wrong_secret_is_refused_in_words_without_it(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    assert api.main() == 2
    said = capsys.readouterr().err
    assert name.lower() in said.lower()
    assert "sesame" not in said
    assert "Traceback" not in said
    assert value not in " ".join(sys.argv)
