"""The API under hostile requests: by the published schema, mutated, and by hand.

No answer is a 5xx or shows anything of the program, and the process goes on.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import socket
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed
from hypothesis import settings as hypothesis_settings
from hypothesis.strategies import SearchStrategy

from tests.pipeline import wait_until
from tests.proofs import Proof
from tests.services.test_api import CONTRACT_ROW, FULL_ROW, Api, check_problem, running_api

SEED = 18
CASES = {"POST /predict": (150, 450), "GET /predict/{product_id}": (3_900, 500)}
"""By operation: cases within the schema, and cases outside of the schema. Bodies take the longest to make."""
MUTATIONS = 2_000
BODY = json.dumps(
    {"rows": [CONTRACT_ROW, FULL_ROW, {"n": 0, "ret_mean": None}, CONTRACT_ROW | {"größe": "x"}]}
).encode()


@pytest.fixture(scope="module")
def api(online: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """Run an API for this file alone, whose log is looked at after each test."""
    with running_api(online, tmp_path_factory.mktemp("hostile") / "api.log", "online.api") as api:
        wait_until(api.is_healthy, "the API is healthy")
        yield api


@pytest.fixture(autouse=True)
def unharmed(api: Api) -> Iterator[None]:
    """Check after each test: the same process answers, and the log has no failure."""
    yield
    assert api.process.process.poll() is None
    assert api.is_healthy()
    log = api.process.log.read_text()
    assert not re.search('Traceback|"?event"?: ?"?unexpected', log), log[-2_000:]


def check_answer(answer: Any) -> None:
    """Check for a forecast, or a problem of the client."""
    check(answer.status_code, answer.headers["content-type"], answer.text)


def check(status: int, media_type: str, text: str) -> None:
    """Check the parts of an answer, see `check_answer`."""
    assert status == 200 or 400 <= status < 500, text
    assert media_type == ("application/json" if status == 200 else "application/problem+json")
    assert not re.search(r'Traceback|File \\?"|\.py\b', text)


# By the schema


def ask_by_schema(api: Api, times: int) -> Counter[int]:
    """Send cases of schemathesis, made from the API's own document; return the number of answers by status.

    Args:
        times: factor of the numbers in `CASES`.
    """
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    requests = pytest.importorskip("requests")
    schema = schemathesis.openapi.from_dict(api.get("/openapi.json").json())
    operations = {operation.label: operation for operation in (each.ok() for each in schema.get_all_operations())}
    schemathesis.checks.load_all_checks()
    follows_the_schema = schemathesis.checks.CHECKS.get_one("response_schema_conformance")
    statuses: Counter[int] = Counter()
    with requests.Session() as session:
        session.trust_env = False

        def send(case: Any) -> None:
            answer = case.call(base_url=str(api.client.base_url), session=session, allow_redirects=False, timeout=10)
            statuses[answer.status_code] += 1
            (media_type,) = answer.headers["content-type"]
            check(answer.status_code, media_type, answer.text)
            if answer.status_code == 200:
                case.validate_response(answer, checks=[follows_the_schema])

        modes = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
        for label, counts in CASES.items():
            for mode, count in zip(modes, counts, strict=True):
                limits = hypothesis_settings(
                    max_examples=count * times,
                    deadline=None,
                    database=None,
                    suppress_health_check=list(HealthCheck),
                    phases=[Phase.generate, Phase.shrink],
                )
                cases: SearchStrategy[Any] = operations[label].as_strategy(generation_mode=mode)
                seed(SEED)(limits(given(cases)(send)))()
    return statuses


def test_5000_requests_by_the_schema_get_no_5xx(api: Api) -> None:
    statuses = ask_by_schema(api, 1)
    assert statuses.total() >= 5_000
    assert {200, 404, 422} <= set(statuses)


@pytest.mark.acceptance
def test_50000_requests_by_the_schema_get_no_5xx(api: Api, proof: Proof) -> None:
    proof.disturbs("requests by schemathesis from the API's own OpenAPI document, good ones and bad ones")
    statuses = ask_by_schema(api, 10)
    proof.saw(requests=statuses.total(), server_errors=sum(n for status, n in statuses.items() if status >= 500))
    assert statuses.total() >= 50_000


# Mutated


def mutated(body: bytes, chance: random.Random) -> bytes:
    """Return a body with one to four places changed: bytes flipped, cut, doubled, or replaced by a piece of JSON."""
    pieces = [
        b"NaN",
        b"null",
        b"1e999",
        b"-0",
        b"[",
        b"}",
        b'"',
        b"\\u0000",
        b"\\ud800",
        b"\xff",
        b"\xef\xbb\xbf",
        b"9" * 400,
    ]
    found = bytearray(body)
    for _ in range(chance.randint(1, 4)):
        start = chance.randrange(len(found) + 1)
        end = min(len(found), start + chance.choice((0, 1, 2, 8, 40)))
        part = bytes(found[start:end])
        found[start:end] = chance.choice((chance.randbytes(len(part)), b"", part * 3, chance.choice(pieces)))
    return bytes(found)


def ask_mutated(api: Api, count: int) -> Counter[int]:
    chance = random.Random(SEED)
    statuses: Counter[int] = Counter()
    for _ in range(count):
        answer = api.client.post("/predict", content=mutated(BODY, chance))
        statuses[answer.status_code] += 1
        check_answer(answer)
    return statuses


def test_mutated_bodies_are_forecast_or_refused(api: Api) -> None:
    statuses = ask_mutated(api, MUTATIONS)
    assert set(statuses) == {200, 422}


@pytest.mark.acceptance
def test_many_mutated_bodies_are_forecast_or_refused(api: Api, proof: Proof) -> None:
    proof.disturbs("mutated bodies of POST /predict")
    statuses = ask_mutated(api, 10 * MUTATIONS)
    proof.saw(requests=statuses.total(), forecast=statuses[200], refused=statuses[422])
    assert set(statuses) == {200, 422}


# By hand


@pytest.mark.parametrize(
    "spelling",
    ["NaN", "nan", "NAN", "-NaN", "+NaN", "Infinity", "-Infinity", "+Infinity", "inf", "-inf", "INF", "1e999", "-1e999",
     "9" * 400, "-" + "9" * 400, f"1e{'9' * 100}", "0x10", "1_000", "1.", ".5", "01", "+1", "--1", "1e", "١", '"NaN"',
     '"Infinity"', "undefined", "true", "[NaN]", '{"$numberDouble": "NaN"}'],
)  # fmt: skip
@pytest.mark.parametrize("name", ["ret_mean", "ret_std", "n", "ewma_variance_300"])
def test_a_number_that_is_none_is_refused_in_every_spelling(api: Api, spelling: str, name: str) -> None:
    """Also beside an unknown field, which leads to the other reader."""
    for more in ("", ', "unknown": 1'):
        fields = {"n": "50", "ret_mean": "0", "ret_std": "1e-4"} | {name: spelling}
        row = ", ".join(f'"{field}": {value}' for field, value in fields.items())
        check_problem(api.client.post("/predict", content=f'{{"rows": [{{{row}{more}}}]}}'.encode()), 422)


@pytest.mark.parametrize(
    "value", ["1e300", "1e-320", "0.1e1", "5E1", "50.0", "-0", f"0.{'0' * 5_000}1", f"50.{'0' * 5_000}"]
)
def test_a_strange_number_that_is_one_is_taken_alike_by_both_readers(api: Api, value: str) -> None:
    answers = []
    for more in ("", ', "unknown": 1'):
        body = f'{{"rows": [{{"n": 50, "ret_mean": 0, "ret_std": {value}{more}}}]}}'
        answer = api.client.post("/predict", content=body.encode())
        check_answer(answer)
        answers.append((answer.status_code, answer.json().get("scores")))
    assert answers[0] == answers[1]


def test_of_a_field_that_comes_twice_the_last_counts_for_both_readers(api: Api) -> None:
    expected = api.predict(FULL_ROW)["scores"]
    wanted = ", ".join(f'"{name}": {value}' for name, value in FULL_ROW.items())
    for more in ("", ', "unknown": 1'):
        twice = f'{{"rows": [{{"n": 1, "ret_std": 5, "ewma_variance_300": 1, {wanted}{more}}}]}}'
        answer = api.client.post("/predict", content=twice.encode())
        assert (answer.status_code, answer.json()["scores"]) == (200, expected)
    rows = f'{{"rows": [], "rows": 5, "rows": [{{{wanted}}}]}}'
    assert api.client.post("/predict", content=rows.encode()).json().get("scores") in (expected, None)


@pytest.mark.parametrize("depth", [1_000, 100_000, 1_900_000])
@pytest.mark.parametrize("place", ['{"rows": %s}', '{"rows": [{"n": 0, "x": %s}]}', "%s"])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_a_deep_body_is_refused(api: Api, depth: int, place: str, opening: str, closing: str) -> None:
    """Whole, as far as a body may be long, and cut off."""
    depth = min(depth, 3_900_000 // (len(opening) + len(closing)))
    for end in (f"0{closing * depth}", ""):
        check_problem(api.client.post("/predict", content=(place % (opening * depth + end)).encode()), 422)


@pytest.mark.parametrize(
    "kind",
    ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "multipart/form-data; boundary=x",
     "application/json; charset=utf-16", "application/xml", "a" * 5_000, "application/json\t;;;", "\xff/\xfe"],
)  # fmt: skip
def test_another_content_type_changes_nothing(api: Api, kind: str) -> None:
    """A body is JSON, by any name."""
    headers = [(b"content-type", kind.encode("latin-1"))]
    assert api.client.post("/predict", content=BODY, headers=headers).status_code == 200
    form = b"--x\r\ncontent-disposition: form-data; name=rows\r\n\r\n1\r\n--x--\r\n"
    check_problem(api.client.post("/predict", content=form, headers=headers), 422)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "utf-8-sig", "utf-7", "latin-1", "cp037"])
def test_a_body_in_another_encoding_is_refused(api: Api, encoding: str) -> None:
    text = BODY.decode().encode().decode("unicode_escape") if encoding == "latin-1" else BODY.decode()
    body = json.dumps(json.loads(text), ensure_ascii=False).encode(encoding)
    answer = api.client.post("/predict", content=body)
    check_answer(answer)
    assert answer.status_code == (200 if encoding == "utf-7" else 422)


def test_a_compressed_body_is_refused(api: Api) -> None:
    """Nobody unpacks the body, so a small body cannot grow."""
    bomb = gzip.compress(b" " * 50_000_000 + BODY)
    for encoding in ("gzip", "deflate", "br", "identity, gzip"):
        answer = api.client.post("/predict", content=bomb, headers={"content-encoding": encoding})
        check_problem(answer, 422)


HOSTILE_PATHS = [
    "/predict/%00", "/predict/BTC-USD%00", "/predict/..%2f..%2fetc%2fpasswd", "/predict/%2e%2e/%2e%2e",
    "/predict/%ff", "/predict/%ED%A0%80", f"/predict/{'A' * 20_000}-USD", "/predict/BTC-USD?source_id=%ff",
    "/predict/BTC-USD?source_id=", "/predict/BTC-USD?source_id=a&source_id=b",
    f"/predict/BTC-USD?{'&'.join('source_id=a' for _ in range(2_000))}", "/predict/BTC-USD?source_id[]=a",
    "/predict/BTC-USD?source_id=%00", "/predict/BTC-USD;x=1", "/predict/", "//predict", "/predict/BTC-USD/",
    "/predict/%7B%7B7*7%7D%7D", "/predict/'%20OR%201=1--", "/static/..%2f..%2fsettings.py", "/static/%2e%2e%2fapi.py",
    "/static/main.js%00", "/docs/files/..%2f..%2froutes.py", "/live/events?product_id=%ff", "/.env", "/%E0%80%AF",
    "/predict/BTC-USD%0d%0aset-cookie:%20a=b", "/openapi.json/..", "/metrics/../predict",
]  # fmt: skip


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"])
def test_a_hostile_path_is_refused(api: Api, method: str) -> None:
    for path in HOSTILE_PATHS:
        status, text = raw(api, f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        assert 300 <= status < 500, (path, text)
        assert "set-cookie" not in text.partition("\r\n\r\n")[0].lower()


POST, GET = b"POST /predict HTTP/1.1\r\nHost: localhost\r\n", b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n"
END, LAST = b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"
MALFORMED = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200,
    "no version": b"POST /predict" + END,
    "NUL in the line": b"GET /\x00 HTTP/1.1\r\nHost: localhost" + END,
    "NUL in a header": GET + b"X: a\x00b" + END,
    "no host": b"POST /predict HTTP/1.1\r\nContent-Length: 2" + LAST + b"{}",
    "two hosts": GET + b"Host: evil.example" + LAST,
    "length below 0": POST + b"Content-Length: -1" + LAST,
    "length of a word": POST + b"Content-Length: two" + LAST + b"{}",
    "length with a sign": POST + b"Content-Length: +2" + LAST + b"{}",
    "length of 40 digits": POST + b"Content-Length: " + b"9" * 40 + END,
    "two lengths": POST + b"Content-Length: 2\r\nContent-Length: 3" + LAST + b"{}",
    "length and chunks": POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked" + LAST + b"0" + END,
    "chunk of a word": POST + b"Transfer-Encoding: chunked" + END + b"xyz\r\n",
    "chunk of 2^64": POST + b"Transfer-Encoding: chunked" + END + b"10000000000000000\r\n",
    "another coding": POST + b"Transfer-Encoding: gzip" + LAST + b"{}",
    "absolute address": b"GET http://evil.example/version HTTP/1.1\r\nHost: evil.example" + LAST,
    "a tunnel": b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example" + LAST,
    "a star": b"OPTIONS * HTTP/1.1\r\nHost: localhost" + LAST,
    "a header of 200 kB": GET + b"X: " + b"a" * 200_000 + LAST,
    "a WebSocket": b"GET /live/events HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13" + END,
    "bytes as request id": GET + b"X-Request-Id: \xff\xfe" + LAST,
    "bytes as key": GET + b"Authorization: Bearer \xff" + LAST,
}
CLOSED = 0


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_no_request_is_refused_or_cut_off(api: Api, name: str) -> None:
    status, text = raw(api, MALFORMED[name])
    assert status == CLOSED or 400 <= status < 500, text
    assert not re.search(r"Traceback|\.py\b", text)


def test_a_slow_body_is_cut_off_after_5_s_while_others_are_answered(api: Api) -> None:
    """A byte each quarter of a second is no progress."""
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
    with socket.create_connection(address(api), timeout=0.25) as slow:
        slow.sendall(head)
        began = time.monotonic()
        text = b""
        while not text and time.monotonic() < began + 10:
            slow.sendall(b" ")
            assert api.client.post("/predict", content=BODY).status_code == 200
            try:
                text = slow.recv(10_000)
            except TimeoutError:
                continue
        took = time.monotonic() - began
    assert text.startswith(b"HTTP/1.1 408 ")
    assert 4.5 < took < 7


def address(api: Api) -> tuple[str, int]:
    return api.client.base_url.host, api.client.base_url.port or 0


def raw(api: Api, request: bytes) -> tuple[int, str]:
    """Send bytes; return status and text of the answer, and status 0 if the connection is closed without an answer."""
    with socket.create_connection(address(api), timeout=10) as connection:
        text = b""
        try:
            connection.sendall(request)
            while part := connection.recv(65_536):
                text += part
        except (ConnectionResetError, BrokenPipeError):
            pass
    found = re.match(rb"HTTP/1\.[01] (\d{3}) ", text)
    return (int(found[1]) if found else CLOSED), text.decode("latin-1")
