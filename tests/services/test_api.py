"""The API in a process of its own, with a real broker and forecasts from the real pipeline."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import hashlib
import json
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import uvicorn
from confluent_kafka import Consumer, Producer, TopicPartition
from fastapi import FastAPI, Request
from prometheus_client import CollectorRegistry, Histogram

from data.features.spec import FeatureSpec
from data.models.kept import save_last_good
from data.recordings.readers import write_csv
from data.simulator.day import simulate_day
from data.stream.records import PREDICTIONS, TRADES, with_time_texts
from data.stream.topics.creation import create_topics
from data.times import NS
from online.http.answers import Observed, Problem, handle_errors, read_body
from online.http.newest import Newest, NewestForecasts
from online.live.arrival import Heard
from online.metrics import ApiMetrics
from online.server import headers
from online.server.headers import BoundedHeaders
from online.settings import ApiSettings
from tests.broker import Broker, free_ports, running_broker
from tests.fakes import FakeRegistry
from tests.models import BASELINE, a_pickle, baseline, model_bytes, model_file
from tests.pipeline import Process, await_end, environment, read_topic, replay, running, wait_until

SPEC = FeatureSpec()
MAX_FEATURE_AGE_S = 2.0

CONTRACT_ROW = {"n": 50, "ret_mean": 0.00001, "ret_std": 0.0002}
FULL_ROW = CONTRACT_ROW | {"ewma_variance_300": 2.5e-7}


@dataclass
class Api:
    """A running API with a client."""

    process: Process
    client: httpx.Client

    def get(self, path: str) -> httpx.Response:
        return self.client.get(path)

    def predict(self, *rows: Any) -> Any:
        answer = self.client.post("/predict", json={"rows": rows})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def is_healthy(self) -> bool:
        return self.get("/health").status_code == 200


@contextmanager
def running_api(environ: dict[str, str], log: Path, module: str) -> Iterator[Api]:
    """Run the API in a process of its own; yield after the first answer of any kind."""
    (port,) = free_ports(1)
    options = ("online.api:create_app", "--factory", "--port", str(port)) if module == "uvicorn" else ()
    process = Process(module, environ | {"API_PORT": str(port)}, log, options)
    with running(process), httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
        process.await_log("Uvicorn running on")  # only then is its port open
        api = Api(process, client)
        wait_until(lambda: api.get("/health/live").status_code == 200, "the API is alive")
        yield api


@pytest.fixture(scope="module")
def api(online: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """Run an API on the session's broker, with the forecaster."""
    environ = online | {"MAX_FEATURE_AGE_S": str(MAX_FEATURE_AGE_S)}
    with running_api(environ, tmp_path_factory.mktemp("api") / "api.log", "uvicorn") as api:
        wait_until(api.is_healthy, "the API is healthy")
        yield api


def recording(folder: Path, product_id: str, trades: int) -> Path:
    path = folder / f"{product_id}.csv"
    write_csv(path, [simulate_day(product_id, dt.date(2025, 3, 5), hours=(14, 15)).take(slice(0, trades))])
    return path


def check_problem(answer: httpx.Response, status: int) -> Any:
    """Check the shape of an error answer: the reason, in one shape, and nothing of the program."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    body = answer.json()
    assert body["status"] == status
    assert body["title"]
    assert body["request_id"] == answer.headers["x-request-id"]
    assert not re.search(r'Traceback|File \\?"|\.py\b', answer.text)
    return body


# POST /predict


def test_predict_answers_with_the_contract_first(api: Api) -> None:
    answer = api.predict(CONTRACT_ROW)
    assert list(answer) == [
        *("scores", "model_variant", "version", "ts"),
        *("intervals", "horizon_s", "missing", "ignored"),
    ]
    assert (answer["model_variant"], answer["version"], answer["horizon_s"]) == ("baseline", "1", 60)
    age = dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(answer["ts"])
    assert answer["ts"].endswith("Z")
    assert dt.timedelta(0) <= age < dt.timedelta(seconds=30)


def test_scores_are_those_of_the_model_worked_by_hand(api: Api) -> None:
    """All columns: sqrt(4 * 2.5e-7). Contract: the mean in log of 100 * 0.0002^2 and 1e-6, so sqrt(sqrt(4e-12)).
    No return: sqrt(1e-6). The ends of each interval are the baseline's multiples of the score."""
    alone = {"n": 0, "ret_mean": None, "ret_std": None}
    answer = api.predict(FULL_ROW, CONTRACT_ROW, alone, {"n": 0}, {"n": 1, "ret_mean": 0.0, "ret_std": None})
    expected = [1e-3, 2e-6**0.5, 1e-3, 1e-3, 1e-3]
    assert answer["scores"] == pytest.approx(expected, rel=1e-6)
    for score, interval, step in zip(answer["scores"], answer["intervals"], (0, 1, 2, 2, 2), strict=True):
        assert interval == pytest.approx([end * score for end in BASELINE.intervals[step]], rel=1e-6)
    nothing = ["ret_mean", "ret_std", "ewma_variance_300"]
    assert answer["missing"] == [[], ["ewma_variance_300"], nothing, nothing, ["ret_std", "ewma_variance_300"]]


def test_unknown_fields_are_ignored_and_listed(api: Api) -> None:
    """Ignored fields include columns of the spec unused by the model."""
    answer = api.predict(CONTRACT_ROW | {"parkinson_variance_300": 1e-8, "größe": "x"}, CONTRACT_ROW)
    assert answer["ignored"] == [["parkinson_variance_300", "größe"], []]
    assert answer["scores"][0] == answer["scores"][1]


def test_a_score_is_the_same_in_any_batch_and_on_the_topic(
    api: Api, broker: Broker, online: dict[str, str], tmp_path: Path
) -> None:
    with running(process := replay(online, tmp_path, "api-bytes", recording(tmp_path, "APIBYTES-USD", 1_000))):
        assert process.process.wait(60) == 0, process.log.read_text()
    predictions = await_end(broker.bootstrap_servers, "api-bytes")
    assert len(predictions) == 1_000
    rows = [{name: prediction[name] for name in SPEC.columns} for prediction in predictions]
    on_topic = [(p["raw_score"], *p["missing"]) for p in predictions]
    assert len({score for score, *_ in on_topic}) > 100
    factors = [p["score"] / p["raw_score"] for p in predictions]  # no offset is applied in the first 24 horizons
    own = [end / factor for p, factor in zip(predictions, factors, strict=True) for end in p["interval"]]
    for size in (1, 2, 7, 1_000):
        few = rows if size > 1 else rows[::20]  # one by one, 50 requests are enough
        answered, ends = [], []
        for start in range(0, len(few), size):
            answer = api.predict(*few[start : start + size])
            pairs = zip(answer["scores"], answer["missing"], strict=True)
            answered += [(score, *missing) for score, missing in pairs]
            ends += [end for interval in answer["intervals"] for end in interval]
        assert answered == (on_topic if size > 1 else on_topic[::20]), f"in batches of {size}"
        if size > 1:
            assert ends == pytest.approx(own, rel=1e-12)


def rows_json(**fields: Any) -> str:
    """Return a body of one row; a string value is inserted unchanged."""
    fields = {"n": "50", "ret_mean": "0", "ret_std": "1e-4"} | fields
    row = ", ".join(f'"{name}": {value}' for name, value in fields.items() if value is not None)
    return f'{{"rows": [{{{row}}}]}}'


BAD_BODIES = {
    "empty": ("", "body", "JSON"),
    "no JSON": ("rows=1", "body", "JSON"),
    "cut off": ('{"rows": [{"n": 0}', "body", "JSON"),
    "no UTF-8": (b'{"rows": [{"n": 0, "x": "\xff"}]}', "body", "JSON"),
    "half a surrogate": ('{"rows": [{"n": 0, "\\ud800": 1}]}', "body", "JSON"),
    "a list": ('[{"n": 0}]', "body", "object"),
    "too deep": ("[" * 100_000, "body", "JSON"),
    "deep rows": ('{"rows": ' + "[" * 500 + "]" * 500 + "}", "body", "recursion"),
    "no rows": ('{"row": []}', "rows", "missing"),
    "rows is an object": ('{"rows": {"n": 0}}', "rows", "array"),
    "0 rows": ('{"rows": []}', "rows", "at least 1"),
    "1,001 rows": (json.dumps({"rows": [CONTRACT_ROW] * 1_001}), "rows", "1001"),
    "a row is a number": ('{"rows": [{"n": 0}, 5]}', "rows[1]", "object"),
    "NaN": (rows_json(ret_std="NaN"), "rows[0].ret_std", "finite"),
    "Infinity": (rows_json(ret_mean="Infinity"), "rows[0].ret_mean", "finite"),
    "-Infinity": (rows_json(ret_mean="-Infinity"), "rows[0].ret_mean", "finite"),
    "1e999": (rows_json(ret_std="1e999"), "rows[0].ret_std", "finite"),
    "1e301": (rows_json(ret_std="1e301"), "rows[0].ret_std", "finite"),
    "400 digits": (rows_json(ret_std="9" * 400), "rows[0].ret_std", "finite"),
    "5,000 digits": (rows_json(n="9" * 5_000), "body", "number out of range"),
    "NaN in a column beyond the contract": (rows_json(ewma_variance_300="NaN"), "rows[0].ewma_variance_300", "finite"),
    "NaN in an unknown field": (rows_json(other="NaN"), "body", "JSON"),
    "negative ret_std": (rows_json(ret_std="-1e-4"), "rows[0].ret_std", "greater than or equal to 0"),
    "negative variance": (rows_json(ewma_variance_300="-1e-9"), "rows[0].ewma_variance_300", "or equal to 0"),
    "negative n": (rows_json(n="-1"), "rows[0].n", "greater than or equal to 0"),
    "n = 2.5": (rows_json(n="2.5"), "rows[0].n", "whole"),
    "n is a string": (rows_json(n='"50"'), "rows[0].n", "number"),
    "n is a boolean": (rows_json(n="true"), "rows[0].n", "number"),
    "n is a list": (rows_json(n="[50]"), "rows[0].n", "number"),
    "no n": (rows_json(n=None), "rows[0].n", "missing"),
    "no ret_std with n = 50": (rows_json(ret_std=None), "rows[0].ret_std", "missing"),
    "ret_mean is null with n = 3": (rows_json(n="3", ret_mean="null"), "rows[0].ret_mean", "missing"),
}


@pytest.mark.parametrize(("body", "field", "said"), BAD_BODIES.values(), ids=list(BAD_BODIES))
def test_a_bad_body_is_told_which_field(api: Api, body: str | bytes, field: str, said: str) -> None:
    problem = check_problem(api.client.post("/predict", content=body), 422)
    assert [error["field"] for error in problem["errors"]] == [field]
    assert said in problem["errors"][0]["problem"]
    assert field in problem["detail"]


def test_each_bad_row_is_named_up_to_20(api: Api) -> None:
    rows = [{"n": -place} for place in range(1, 31)]
    problem = check_problem(api.client.post("/predict", json={"rows": [CONTRACT_ROW, *rows]}), 422)
    assert [error["field"] for error in problem["errors"]] == [f"rows[{place}].n" for place in range(1, 21)]
    assert problem["errors"][6]["problem"].endswith("was -7")


def test_a_body_that_says_it_is_too_large_is_refused_before_it_is_sent(api: Api) -> None:
    with socket.create_connection((api.client.base_url.host, api.client.base_url.port or 0), timeout=10) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4000001\r\n\r\n")
        assert connection.recv(10_000).startswith(b"HTTP/1.1 413 ")


def test_a_body_without_a_length_is_read_up_to_the_limit(api: Api) -> None:
    """An endless body in chunks is answered while the client still sends."""
    sent = 0
    with socket.create_connection((api.client.base_url.host, api.client.base_url.port or 0), timeout=10) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        connection.setblocking(False)
        chunk, answer = b"10000\r\n" + b" " * 0x10000 + b"\r\n", b""
        rest = chunk

        def answered() -> bool:
            nonlocal rest, sent, answer
            try:
                while sent < 100_000_000:
                    sent += (now := connection.send(rest))
                    rest = rest[now:] or chunk
            except BlockingIOError:
                pass
            try:
                answer = connection.recv(10_000)
            except BlockingIOError:
                return False
            return True

        wait_until(answered, "an answer to an endless body", within_s=10)
    assert answer.startswith(b"HTTP/1.1 413 ")
    at_limit = {"rows": [CONTRACT_ROW | {"padding": "x" * 3_999_900}]}
    assert 3_999_900 < len(json.dumps(at_limit)) <= 4_000_000
    assert api.client.post("/predict", json=at_limit).status_code == 200


def test_a_body_that_does_not_come_is_not_awaited_for_ever() -> None:
    async def read() -> None:
        async def receive() -> Any:
            await asyncio.Event().wait()

        scope = {"type": "http", "method": "POST", "headers": [(b"content-length", b"5")]}
        await read_body(Request(scope, receive), 10, within_s=0.01)

    with pytest.raises(Problem, match=r"not whole within 0.01 s, 0 bytes"):
        asyncio.run(read())


def test_a_body_is_too_large_if_only_its_last_part_makes_it_so() -> None:
    """5 bytes and 6 are 11; of 10 each is taken."""

    async def read(*parts: bytes) -> bytes:
        messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
        messages[-1]["more_body"] = False

        async def receive() -> Any:
            return messages.pop(0)

        return await read_body(Request({"type": "http", "method": "POST", "headers": []}, receive), 10, within_s=5)

    assert asyncio.run(read(b"12345", b"67890")) == b"1234567890"
    with pytest.raises(Problem, match="at most 10 bytes") as refused:
        asyncio.run(read(b"12345", b"678901"))
    assert refused.value.status == 413


# What all answers share


def test_a_request_id_of_the_client_comes_back_and_a_strange_one_does_not(api: Api) -> None:
    mine = api.client.get("/nowhere", headers={"X-Request-Id": "order-7.a_B"})
    assert check_problem(mine, 404)["request_id"] == "order-7.a_B"
    for strange in ("has space", "x" * 101, '"quoted"'):
        found = api.client.get("/nowhere", headers={"X-Request-Id": strange}).headers["x-request-id"]
        assert re.fullmatch("[0-9a-f]{32}", found)
    assert re.fullmatch("[0-9a-f]{32}", api.get("/health").headers["x-request-id"])


def test_a_wrong_route_or_method_is_a_problem_too(api: Api) -> None:
    assert "/nowhere" in check_problem(api.get("/nowhere"), 404)["detail"]
    answer = api.get("/predict")
    check_problem(answer, 405)
    assert answer.headers["allow"] == "POST"


def test_what_fails_unexpectedly_is_answered_without_its_cause(caplog: pytest.LogCaptureFixture) -> None:
    app = FastAPI()
    seconds = Histogram("seconds", "for this test", ["route", "status", "purpose"], registry=CollectorRegistry())
    app.add_middleware(Observed, seconds=seconds, direct={}, is_allowed=lambda _: True)
    handle_errors(app)

    @app.get("/fails/{how}")
    async def fails(how: str) -> None:
        raise RuntimeError(f"secret: {how}")

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            return await client.get("/fails/so")

    answer = asyncio.run(ask())
    check_problem(answer, 500)
    assert "secret" not in answer.text
    (counted,) = [s for m in seconds.collect() for s in m.samples if s.name == "seconds_count"]
    assert (counted.labels, counted.value) == ({"route": "/fails/{how}", "status": "500", "purpose": "none"}, 1)


def test_metrics_count_routes_by_template(api: Api) -> None:
    for path in ("/predict/COUNTED-USD", "/nowhere-to-count", "/predict/a/b/c"):
        api.get(path)
    api.predict(CONTRACT_ROW, CONTRACT_ROW)
    text = api.get("/metrics").text
    routes = set(re.findall(r'cryptovol_request_seconds_count\{[^}]*route="([^"]*)"', text))
    ours = {"/predict", "/predict/{product_id}", "/health", "/health/live", "/version", "/metrics", "unknown"}
    assert {"/predict", "/predict/{product_id}", "unknown"} <= routes
    assert not routes - ours - {"/docs", "/openapi.json"}
    assert "COUNTED" not in text
    assert 'cryptovol_request_seconds_count{purpose="none",route="/predict/{product_id}",status="404"}' in text
    assert float(re.findall(r"^cryptovol_rows_scored_total (\S+)", text, re.M)[0]) >= 2
    assert re.search(r'cryptovol_model\{digest="[0-9a-f]{64}",model_variant="baseline",version="1"\} 1.0', text)
    assert "cryptovol_ready 1.0" in text


def test_requests_about_a_source_count_under_its_purpose(api: Api, broker: Broker) -> None:
    """The drill answers, then is stale; before, no source is known."""
    path = "/predict/PURPOSE-USD"

    def counted(status: int, purpose: str) -> float:
        labels = f'purpose="{purpose}",route="/predict/{{product_id}}",status="{status}"'
        text = api.get("/metrics").text
        return float(re.findall(rf"^cryptovol_request_seconds_count{{{re.escape(labels)}}} (\S+)", text, re.M)[0])

    before = {each: counted(*each) for each in ((200, "drill"), (503, "drill"), (503, "live"), (503, "none"))}
    assert api.get(path).status_code == 404
    put(broker, a_record("api-drill", "PURPOSE-USD"))
    wait_until(lambda: api.get(path).status_code == 200, "an answer")
    wait_until(lambda: api.get(path).status_code == 503, "the forecast is stale")
    risen = {each for each, count in before.items() if counted(*each) > count}
    assert risen == {(200, "drill"), (503, "drill")}


def test_version_says_what_answers(api: Api) -> None:
    answer = api.get("/version").json()
    content = model_bytes()
    assert answer["wanted_variant"] == "ml"
    assert answer["model"]["model_variant"] == "baseline"
    assert answer["model"]["digest"] == hashlib.sha256(content).hexdigest()
    assert (answer["model"]["spec_id"], answer["model"]["origin"]) == (SPEC.spec_id, "disk")
    assert answer["model"]["columns"] == list(BASELINE.columns)
    assert answer["refused"] == []


def test_the_schema_describes_bodies_answers_and_problems(api: Api) -> None:
    assert "swagger-ui" in api.get("/docs").text
    paths = api.get("/openapi.json").json()["paths"]
    assert set(paths) == {"/predict", "/predict/{product_id}", "/health", "/health/live", "/version", "/metrics"}
    assert set(paths["/health"]) == {"get"}
    predict, newest = paths["/predict"]["post"], paths["/predict/{product_id}"]["get"]
    body = predict["requestBody"]["content"]["application/json"]
    rows = body["schema"]["properties"]["rows"]
    assert set(rows["items"]["properties"]) == set(SPEC.columns)
    assert (rows["minItems"], rows["maxItems"]) == (1, 1_000)
    answer = predict["responses"]["200"]["content"]["application/json"]["schema"]
    assert answer["required"] == list(api.predict(*body["example"]["rows"]))
    for operation, statuses in ((predict, ("408", "413", "422", "503")), (newest, ("404", "422", "503"))):
        for status in statuses:
            assert set(operation["responses"][status]["content"]) == {"application/problem+json"}
    assert "trade_id" in newest["responses"]["200"]["content"]["application/json"]["schema"]["properties"]


def test_the_page_of_the_api_needs_no_other_host(api: Api) -> None:
    """Without internet it would be blank if its script or style lay elsewhere."""
    page = api.get("/docs").text
    assert not re.search(r"https?:|[\"'(]//", page)
    links = re.findall(r"(?:src|href)=[\"']([^\"']+)", page)
    kinds = {link: api.get(link).headers["content-type"].partition(";")[0] for link in links}
    assert sorted(kinds.values()) == ["image/png", "text/css", "text/javascript"]
    script, style = (next(link for link, kind in kinds.items() if kind == of) for of in ("text/javascript", "text/css"))
    assert "SwaggerUIBundle" in api.get(script).text
    assert set(re.findall(r"url\(\s*[\"']?([a-z]+:|.)", api.get(style).text)) == {"data:"}
    assert api.get(script).headers["x-request-id"]
    check_problem(api.get("/docs/files/absent.js"), 404)


# GET /predict/{product_id}


def test_a_product_is_never_seen_then_live_then_stale_then_ended(
    api: Api, online: dict[str, str], tmp_path: Path
) -> None:
    path = "/predict/APILIVE-USD"
    never = check_problem(api.get(path), 404)["detail"]
    assert "APILIVE-USD" in never
    assert never.endswith("no open source has one, nor is there one among the 10,000 newest records before")
    file = recording(tmp_path, "APILIVE-USD", 1_500)
    process = replay(online, tmp_path, "api-live", file, REPLAY_SPEED="1", MAX_WAIT_S="0.1")
    with running(process):
        wait_until(lambda: api.get(path).status_code == 200, "a live forecast")
        answer = api.get(path)
        live = answer.json()
        process.kill()
    assert answer.headers["cache-control"] == "no-store"
    assert (live["state"], live["source_id"], live["product_id"]) == ("live", "api-live", "APILIVE-USD")
    assert 0 <= live["feature_age_s"] <= MAX_FEATURE_AGE_S
    assert list(live["features"]) == list(SPEC.columns)
    assert not set(SPEC.columns) & set(live)
    assert live["event_time"].startswith("2025-03-05T14:")
    assert live["trade_id"] > 0
    assert api.predict(live["features"])["scores"] == [live["raw_score"]]

    wait_until(lambda: api.get(path).status_code == 503, "the forecast is stale")
    stale = check_problem(api.get(path), 503)
    assert MAX_FEATURE_AGE_S < stale["feature_age_s"] < 60
    assert (stale["limit_s"], stale["source_id"]) == (MAX_FEATURE_AGE_S, "api-live")
    assert "2 s" in stale["detail"]

    with running(process := replay(online, tmp_path, "api-live", file)):
        assert process.process.wait(60) == 0, process.log.read_text()
    wait_until(lambda: api.get(path).status_code == 200, "the forecast of an ended source")
    wait_until(lambda: api.get(path).json().get("state") == "ended", "the source has ended")
    ended = api.get(path).json()
    assert ended["features"]["n"] == 50
    assert ended["trade_id"] > live["trade_id"]
    wait_until(lambda: api.get(path).json()["feature_age_s"] > MAX_FEATURE_AGE_S, "an ended source grows old")
    assert api.get(path).status_code == 200


@pytest.mark.parametrize("path", ["/predict/btc-usd", "/predict/BTC", "/predict/BTC-USD%0A"])
def test_what_cannot_be_a_product_is_refused(api: Api, path: str) -> None:
    problem = check_problem(api.get(path), 422)
    assert [error["field"] for error in problem["errors"]] == ["product_id"]


def test_what_cannot_be_a_source_is_refused(api: Api) -> None:
    problem = check_problem(api.get("/predict/BTC-USD?source_id=a%20b"), 422)
    assert [error["field"] for error in problem["errors"]] == ["source_id"]


FORECAST: dict[str, Any] = FULL_ROW | {
    **{"event_time": 1_741_183_200_000_000_000, "price": 1.0, "kafka_partition": 0, "kafka_offset": 0, "spec_id": "s"},
    **{"ts": 1_741_183_200_000_000_000, "horizon_s": 60, "score": 1e-3, "interval": [5e-4, 2e-3], "in_sample": False},
    **{"model_variant": "baseline", "version": "1", "digest": "d", "missing": [], "trade_id": 1},
    "shadow": [{"model_variant": "ml", "version": "3", "score": 2.0}],
}
GRID_COLUMNS = dict.fromkeys(SPEC.columns[3:])


def a_record(source_id: str, product_id: str, age_s: float = 0.0, **more: Any) -> bytes:
    """Return a record of `predictions` of `age_s` ago: a forecast, or with `end` an end."""
    ingest_time = time.time_ns() - int(age_s * 1e9)
    key = {"source_id": source_id, "product_id": product_id, "purpose": "drill", "ingest_time": ingest_time}
    return msgspec.json.encode(key | more if "end" in more else GRID_COLUMNS | FORECAST | key | more)


def put(broker: Broker, *values: bytes | None, topic: str = PREDICTIONS, age_s: float = 0.0) -> None:
    """Write records to partition 0, acknowledged, as if they were ingested `age_s` ago."""
    producer = Producer({"bootstrap.servers": broker.bootstrap_servers, "log_level": 0})
    for value in values:
        producer.produce(topic, value, partition=0, timestamp=int(1e3 * (time.time() - age_s)))
    assert producer.flush(20) == 0


def test_without_a_source_the_one_that_forecast_last_answers(api: Api, broker: Broker) -> None:
    """The clock of the older source was 50 s ahead; an end of that source does not matter."""
    path = "/predict/APITWO-USD"
    put(broker, a_record("api-old", "APITWO-USD", age_s=-50, trade_id=1), a_record("api-old", "APITWO-USD", end=True))
    wait_until(lambda: api.get(f"{path}?source_id=api-old").status_code == 200, "the older source")
    wait_until(lambda: api.get(f"{path}?source_id=api-old").json()["state"] == "ended", "the older source has ended")
    put(broker, a_record("api-new", "APITWO-USD", trade_id=2))
    wait_until(lambda: api.get(path).json()["trade_id"] == 2, "the newer source")
    newest = api.get(path).json()
    assert "shadow" not in newest, "only the model that serves answers"
    assert api.get(f"{path}?source_id=api-new").json()["trade_id"] == 2
    assert api.get(f"{path}?source_id=api-old").json()["trade_id"] == 1
    assert "api-none" in check_problem(api.get(f"{path}?source_id=api-none"), 404)["detail"]


def test_a_forecast_is_at_least_as_old_as_the_time_since_it_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read 40 s ago, and the clock was then set back by an hour: a silent source must not look alive."""
    in_an_hour, forty_s_ago = time.time_ns() + 3_600 * NS, time.monotonic() - 40
    ahead = Newest("a", "live", in_an_hour, b"{}", Heard(1, in_an_hour, 1), seen=forty_s_ago)
    assert 40 <= ahead.age_s < 50
    assert 60 <= ahead._replace(ingest_time=time.time_ns() - 60 * NS).age_s < 70


def test_a_record_that_cannot_be_read_stops_nothing(api: Api, broker: Broker) -> None:
    """The end of an unseen source does not make the source known."""
    bad: list[bytes | None] = [
        None,
        b"",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b"[" * 100_000,
        a_record("api-bad", "APIBAD-USD")[:-9],
    ]
    bad += [a_record("api-bad", "APIBAD-USD", ingest_time="yesterday"), a_record("\ud7ff", "APIBAD-USD", end=3)]
    bad += [
        a_record("api-bad", "APIBAD-USD", ingest_time="2026-01-01T00:00:00"),
        a_record("api-bad", "APIBAD-USD", age_s=-3_700),
        a_record("api-bad", "APIBAD-USD", score="high"),
        a_record("api-bad", "APIBAD-USD").replace(b'"score":0.001', b'"score":1e400'),
        a_record("api-bad", "apibad"),
        a_record("api-bad" * 3_000, "APIBAD-USD"),
        a_record("api-bad", "APIBAD-USD", end=True),
    ]
    put(broker, *bad, a_record("api-good", "APIGOOD-USD", trade_id=7))
    answer = wait_until(lambda: (found := api.get("/predict/APIGOOD-USD")).status_code == 200 and found, "the good one")
    assert answer.json()["trade_id"] == 7
    check_problem(api.get("/predict/APIBAD-USD"), 404)
    unreadable = re.search(
        r'^cryptovol_rejects_total\{purpose="unknown",reason="unreadable"\} (\S+)', api.get("/metrics").text, re.M
    )
    assert unreadable is not None
    assert float(unreadable.group(1)) == len(bad) - 1
    assert api.is_healthy()


def test_reading_goes_on_after_a_failure_behind_the_last_record(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The failure is reported while it lasts; records read before are still known, and not read again."""
    monkeypatch.setattr("online.http.newest.RETRY_S", 5.0)
    seen: list[bytes] = []
    put(broker, a_record("api-fail", "APIFAIL-USD", trade_id=1))
    forecasts = NewestForecasts(ApiSettings(kafka_bootstrap_servers=broker.bootstrap_servers), ApiMetrics())
    take = forecasts._take

    def failing(value: bytes, partition: int, offset: int, *, is_live: bool) -> None:
        if b"APIFAIL-USD" in value:
            seen.append(value)
            if b'"trade_id":2' in value:
                raise RuntimeError("a bug")
        take(value, partition, offset, is_live=is_live)

    monkeypatch.setattr(forecasts, "_take", failing)

    def trade_id() -> int:
        found = forecasts.newest("APIFAIL-USD", "api-fail")
        return found.read()["trade_id"] if found else 0

    forecasts.start()
    try:
        wait_until(lambda: trade_id() == 1 and forecasts.problem is None, "the first record")
        put(broker, a_record("api-fail", "APIFAIL-USD", trade_id=2))
        wait_until(lambda: forecasts.problem is not None, "the failure is said")
        assert "a bug" in str(forecasts.problem)
        assert trade_id() == 1
        put(broker, a_record("api-fail", "APIFAIL-USD", trade_id=3))
        wait_until(lambda: trade_id() == 3 and forecasts.problem is None, "the third record")
        assert len(seen) == 3
    finally:
        forecasts.stop()
    assert "ended" in str(forecasts.problem)


def known_after_a_start(broker: Broker, topic: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Start a reader of a topic without notes; after reading all, return whether each known source is open or ended."""
    monkeypatch.setattr("online.http.newest.GROUP", "nobody")
    monkeypatch.setattr("online.http.newest.PREDICTIONS", topic)
    monkeypatch.setattr("online.http.newest.RECENT_OFFSETS", 5)
    settings = ApiSettings(kafka_bootstrap_servers=broker.bootstrap_servers, max_feature_age_s=30)
    forecasts = NewestForecasts(settings, ApiMetrics())
    forecasts.start()
    try:
        wait_until(lambda: forecasts.problem is None and not forecasts.is_searching("UNI-USD"), "all is read")
        found = {name: forecasts.newest("BACK-USD", name) for name in ("first", "second", "third", "fourth")}
    finally:
        forecasts.stop()
    return {name: "ended" if newest.has_ended else "open" for name, newest in found.items() if newest}


def test_a_start_reads_back_over_the_newest_records_alone(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over five records, however old: the forecasts of the first and third lie before them, their ends do not."""
    create_topics({"bootstrap.servers": broker.bootstrap_servers}, topics=["back-by-count"])
    first, second, third, fourth = (a_record(name, "BACK-USD") for name in ("first", "second", "third", "fourth"))
    ends = {name: a_record(name, "BACK-USD", end=True) for name in ("first", "second", "third")}
    before, last_five = (first, third), (fourth, ends["first"], ends["third"], second, ends["second"])
    put(broker, *before, *last_five, topic="back-by-count", age_s=7_200)
    assert known_after_a_start(broker, "back-by-count", monkeypatch) == {"second": "ended", "fourth": "open"}


def test_a_start_finds_what_is_live_however_much_lies_behind_it(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Live is up to 30 s, and a minute more is read: 80 s ago is found behind ten others, 100 s ago is not."""
    create_topics({"bootstrap.servers": broker.bootstrap_servers}, topics=["back-by-time"])
    put(broker, a_record("first", "BACK-USD"), topic="back-by-time", age_s=100)
    put(broker, a_record("second", "BACK-USD"), topic="back-by-time", age_s=80)
    put(broker, *[a_record("third", "BACK-USD")] * 10, topic="back-by-time")
    assert known_after_a_start(broker, "back-by-time", monkeypatch) == {"second": "open", "third": "open"}


def test_a_source_whose_last_forecast_and_end_lie_in_one_older_block_has_ended(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of five records: the older block holds all of the first source, and the only forecast of the second."""
    create_topics({"bootstrap.servers": broker.bootstrap_servers}, topics=["back-in-a-block"])
    ended = (a_record("first", "BACK-USD"), a_record("first", "BACK-USD", end=True))
    third = a_record("third", "BACK-USD")
    put(broker, *ended, a_record("second", "BACK-USD"), *[third] * 7, topic="back-in-a-block")
    known = known_after_a_start(broker, "back-in-a-block", monkeypatch)
    assert known == {"first": "ended", "second": "open", "third": "open"}


def test_streams_that_are_found_later_are_bounded_too(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two streams may stay: the newest, and of the streams behind the last on the topic, whatever its time says."""
    monkeypatch.setattr("online.http.newest.MAX_STREAMS", 2)
    create_topics({"bootstrap.servers": broker.bootstrap_servers}, topics=["back-bounded"])
    older = [a_record(name, "BACK-USD", age_s) for name, age_s in (("first", 5), ("second", 3), ("third", 4))]
    put(broker, *older, *[a_record("fourth", "BACK-USD")] * 5, topic="back-bounded")
    assert known_after_a_start(broker, "back-bounded", monkeypatch) == {"third": "open", "fourth": "open"}


def test_a_start_does_not_wait_for_a_transaction_that_moves_an_offset(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A forecaster at full speed nearly always has an open transaction: the note before the transaction is enough."""
    monkeypatch.setattr("online.http.newest.GROUP", "always-in-a-transaction")
    servers = {"bootstrap.servers": broker.bootstrap_servers, "log_level": 0}
    member = Consumer(servers | {"group.id": "always-in-a-transaction"})
    producer = Producer(servers | {"transactional.id": "always-in-a-transaction"})
    producer.init_transactions(20)
    producer.begin_transaction()
    offset = TopicPartition(TRADES, 0, 1)
    producer.send_offsets_to_transaction([offset], member.consumer_group_metadata(), 20)
    forecasts = NewestForecasts(ApiSettings(kafka_bootstrap_servers=broker.bootstrap_servers), ApiMetrics())
    forecasts.start()
    try:
        wait_until(lambda: forecasts.problem is None, "all is read", 10)
    finally:
        forecasts.stop()
        producer.abort_transaction(20)
        member.close()


def test_a_start_finds_each_open_stream_however_old_its_forecast_is(
    broker: Broker, online: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source stays open behind 400 forecasts of another source in the same partition; a third source has ended."""
    monkeypatch.setattr("online.http.newest.RECENT_OFFSETS", 20)
    recording = tmp_path / "recording.csv"
    write_csv(recording, [simulate_day("BACKTWO-USD", dt.date(2025, 3, 4), hours=(14, 15)).take(slice(0, 400))])
    short = tmp_path / "short.csv"
    short.write_text("\n".join(recording.read_text().splitlines()[:11]) + "\n")
    left_open = replay(online, tmp_path, "back-open", recording, REPLAY_SPEED="1", REPLAY_END_ON_STOP="false")
    with running(left_open):
        wait_until(lambda: len(read_topic(broker.bootstrap_servers, PREDICTIONS, "back-open")) > 2, "it has begun")
        assert left_open.stop() == 0
    for source_id, path in (("back-ended", short), ("back-many", recording)):
        with running(process := replay(online, tmp_path, source_id, path)):
            assert process.process.wait(60) == 0
        await_end(broker.bootstrap_servers, source_id)
    newest = read_topic(broker.bootstrap_servers, PREDICTIONS, "back-open")[-1]
    forecasts = NewestForecasts(ApiSettings(kafka_bootstrap_servers=broker.bootstrap_servers), ApiMetrics())
    forecasts.start()
    try:
        wait_until(lambda: forecasts.problem is None and not forecasts.is_searching("BACKTWO-USD"), "all is found")
        found = forecasts.newest("BACKTWO-USD", "back-open")
        assert found is not None
        assert (found.read(), found.has_ended) == (with_time_texts(newest), False)
        many = forecasts.newest("BACKTWO-USD", "back-many")
        assert many is not None
        assert many.has_ended
    finally:
        forecasts.stop()
    with running(process := Process("online.ingestor", online, tmp_path / "end.log", ("--end", "back-open"))):
        assert process.process.wait(60) == 0


def test_streams_are_bounded_and_the_one_heard_of_longest_ago_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("online.http.newest.MAX_STREAMS", 3)
    forecasts = NewestForecasts(ApiSettings(), ApiMetrics())
    for offset, (age_s, source_id) in enumerate(((40, "a"), (30, "b"), (20, "c"), (10, "a"), (5, "d"), (4, "b"))):
        forecasts._take(a_record(source_id, "BTC-USD", age_s), 0, offset, is_live=True)
    known = {source_id for source_id in "abcd" if forecasts.newest("BTC-USD", source_id)}
    assert known == {"a", "d", "b"}, "b went for d, then c for b"


def test_a_clock_that_stepped_back_costs_no_stream_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sources of a clock half an hour ahead, and one of the corrected clock in another partition, heard of last."""
    monkeypatch.setattr("online.http.newest.MAX_STREAMS", 2)
    forecasts = NewestForecasts(ApiSettings(), ApiMetrics())
    for partition, source_id, age_s in ((0, "a", -1_800), (0, "b", -1_801), (1, "c", 0)):
        forecasts._take(a_record(source_id, "BTC-USD", age_s), partition, 5, is_live=True)
    assert forecasts.newest("BTC-USD", "a") is None
    shown = forecasts.newest("BTC-USD", None), forecasts.newest_open()
    assert [newest and newest.source_id for newest in shown] == ["c", "c"]


# Connections


@contextmanager
def served(app: FastAPI) -> Iterator[int]:
    """Serve an application with the API's protocol in a thread; yield the port."""
    (port,) = free_ports(1)
    server = uvicorn.Server(uvicorn.Config(app, port=port, http=BoundedHeaders, log_level="critical"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started, "the server listens")
        yield port
    finally:
        server.should_exit = True
        thread.join(20)


def answer_of(port: int, *pieces: bytes, timeout_s: float = 20.0) -> bytes:
    """Send pieces over one connection, and return all that comes back until the server closes, also while sending."""
    with socket.create_connection(("127.0.0.1", port), timeout_s) as client:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for piece in pieces:
                client.sendall(piece)
        found = b""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while part := client.recv(65_536):
                found += part
    return found


def test_headers_without_an_end_hold_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither silence, nor a header that never ends, nor headers of 1 MB; answers and slow answers are as before."""
    monkeypatch.setattr(headers, "HEADERS_S", 1.0)
    app = FastAPI()

    @app.post("/slow")
    async def slow(request: Request) -> int:
        found = len(await request.body())
        await asyncio.sleep(1.5)
        return found

    with served(app) as port:
        assert answer_of(port) == b""
        assert answer_of(port, b"\r\n") == b""
        begun = b"GET / HTTP/1.1\r\nhost: localhost\r\nx-a: "
        assert answer_of(port, begun).startswith(b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\n")
        assert answer_of(port, begun, *[b"a" * 65_536] * 16).startswith(b"HTTP/1.1 431 ")
        body = b"b" * 300_000
        post = b"POST /slow HTTP/1.1\r\nhost: localhost\r\ncontent-length: 300000\r\n\r\n" + body
        last = post.replace(b"host:", b"connection: close\r\nhost:", 1)
        both = answer_of(port, post, last)
        assert both.count(b"HTTP/1.1 200 OK") == 2
        assert both.count(b"300000") == 2


def test_several_workers_are_refused_in_a_sentence(tmp_path: Path) -> None:
    """Each would have counters of its own; uvicorn starts no worker again."""
    (port,) = free_ports(1)
    options = ("online.api:create_app", "--factory", "--port", str(port))
    process = Process("uvicorn", {"WEB_CONCURRENCY": "2", "VAR_DIR": str(tmp_path)}, tmp_path / "log", options)
    with running(process):
        process.process.wait(60)
        process.await_log("the API is one process, because /metrics has the counts of one")


# Health


def test_head_is_answered_as_get_without_a_body(api: Api) -> None:
    for path in ("/health", "/health/live"):
        answer = api.client.head(path)
        assert (answer.status_code, answer.content) == (200, b"")


def test_health_says_what_was_checked(api: Api) -> None:
    found = api.get("/health").json()
    assert found["status"] == "healthy"
    assert found["checks"]["broker"]["ok"]
    assert 0 < found["checks"]["broker"]["answered_ms"] < 2_000
    assert found["checks"]["model"] == {"ok": True, "model_variant": "baseline", "version": "1"}
    assert found["checks"]["stream"]["ok"]
    disk = found["checks"]["disk"]
    assert (disk["ok"], disk["max_mb"], "warning" in disk) == (True, 20_000, disk["free_mb"] < 1_000)


@pytest.fixture(scope="module")
def lonely(tmp_path_factory: pytest.TempPathFactory, jars: list[Path]) -> Iterator[tuple[Api, Broker, Path]]:
    """Run an API started before any model or broker; the tests below bring and take both."""
    folder = tmp_path_factory.mktemp("lonely")
    with running_broker(folder / "kafka", jars) as broker:
        create_topics({"bootstrap.servers": broker.bootstrap_servers})
        broker.stop()
        environ = environment(broker.bootstrap_servers, folder / "models")
        with running_api(environ, folder / "api.log", "online.api") as api:
            yield api, broker, folder / "models"


def failed_checks(api: Api) -> dict[str, str]:
    checks = api.get("/health").json()["checks"]
    return {name: check["problem"] for name, check in checks.items() if not check["ok"]}


def failing(api: Api, *names: str) -> Callable[[], bool]:
    return lambda: list(failed_checks(api)) == list(names)


def test_started_before_model_and_broker_it_says_so_and_becomes_ready(lonely: tuple[Api, Broker, Path]) -> None:
    api, broker, models = lonely
    assert api.get("/health/live").status_code == 200
    assert api.get("/health").status_code == 503
    failed = failed_checks(api)
    assert list(failed) == ["broker", "model", "stream"]
    assert broker.bootstrap_servers in failed["broker"]
    assert "http://127.0.0.1:9" in failed["model"]
    assert "/health" in check_problem(api.client.post("/predict", json={"rows": [CONTRACT_ROW]}), 503)["detail"]
    check_problem(api.get("/predict/BTC-USD"), 503)
    assert api.get("/version").json()["model"] is None
    assert "cryptovol_ready 0.0" in api.get("/metrics").text

    save_last_good(models, model_file(version="1"))
    wait_until(failing(api, "broker", "stream"), "the model is loaded")
    assert len(api.predict(CONTRACT_ROW)["scores"]) == 1
    broker.start()
    wait_until(lambda: api.is_healthy(), "healthy", within_s=5)
    check_problem(api.get("/predict/BTC-USD"), 404)
    assert "cryptovol_ready 1.0" in api.get("/metrics").text


def test_a_promotion_answers_and_what_may_not_serve_is_said(
    online: dict[str, str], registry: FakeRegistry, tmp_path: Path
) -> None:
    """The second model reads a fifth column and forecasts sqrt(9 * 2.5e-7); the third model is a pickle.

    The registry is a fake, because it must misbehave; the real registry is in faults/.
    """
    other = model_bytes(baseline("ewma_variance_60", 9.0), variant="ml")
    registry.files["volatility-baseline"] = model_file()
    environ = online | {"MLFLOW_TRACKING_URI": registry.uri, "MODELS_DIR": str(tmp_path / "models")}
    row = CONTRACT_ROW | {"ewma_variance_300": 2.5e-7, "ewma_variance_60": 2.5e-7}
    with running_api(environ, tmp_path / "api.log", "online.api") as api:
        wait_until(api.is_healthy, "the API is healthy")
        assert api.predict(row)["scores"] == pytest.approx([1e-3], rel=1e-6)

        registry.files["volatility-ml"] = model_file("volatility-ml", "1", other)
        wait_until(lambda: api.predict(row)["model_variant"] == "ml", "the promoted one answers", within_s=5)
        answer = api.predict(row)
        assert answer["scores"] == pytest.approx([1.5e-3], rel=1e-6)
        assert answer["ignored"] == [["ewma_variance_300"]]
        serves = {
            "name": "volatility-ml",
            "version": "1",
            "origin": "registry",
            "columns": [*BASELINE.columns[:3], "ewma_variance_60"],
        }
        assert serves.items() <= api.get("/version").json()["model"].items()

        registry.files["volatility-ml"] = model_file("volatility-ml", "2", a_pickle())
        wait_until(lambda: api.get("/version").json()["refused"], "the pickle is refused", within_s=5)
        [refused] = api.get("/version").json()["refused"]
        assert (refused["name"], refused["version"], refused["kind"]) == ("volatility-ml", "2", "format")
        assert "no ONNX model" in refused["reason"]
        assert api.get("/health").json()["checks"]["model"] == {
            **{"ok": True, "model_variant": "ml", "version": "1"},
            "refused": [refused],
        }
        assert api.predict(row)["scores"] == answer["scores"]
        text = api.get("/metrics").text
        assert re.findall(r'^cryptovol_model\{.*version="(\d)"\} 1.0$', text, re.M) == ["1"]
        assert 'cryptovol_model_refused{name="volatility-ml",reason="format"} 1.0' in text
        assert "cryptovol_model_swaps_total 1.0" in text
        assert float(re.findall(r"^cryptovol_registry_age_seconds (\S+)", text, re.M)[0]) < 5


def is_asking(api: Api) -> bool:
    """Return whether health waits for the broker, instead of repeating the last answer."""
    try:
        api.client.get("/health", timeout=0.2)
    except httpx.ReadTimeout:
        return True
    return False


async def _ask_many(api: Api, count: int) -> tuple[list[tuple[int, float]], list[float]]:
    """Ask for health `count` times at once, and meanwhile for forecasts; return statuses and seconds, and seconds."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=api.client.base_url, timeout=30, limits=limits) as client:

        async def health() -> tuple[int, float]:
            started = time.perf_counter()
            answer = await client.get("/health")
            return answer.status_code, time.perf_counter() - started

        asked = [asyncio.create_task(health()) for _ in range(count)]
        seconds = []
        while not all(task.done() for task in asked):
            started = time.perf_counter()
            assert (await client.post("/predict", json={"rows": [CONTRACT_ROW]})).status_code == 200
            seconds.append(time.perf_counter() - started)
        return await asyncio.gather(*asked), seconds


def test_a_silent_broker_is_told_within_3_s_however_many_ask(lonely: tuple[Api, Broker, Path]) -> None:
    """A frozen broker keeps its connections and answers nothing."""
    api, broker, _ = lonely
    wait_until(failing(api), "healthy before")
    broker.pause()
    try:
        wait_until(failing(api, "broker"), "unhealthy", within_s=5)
        assert api.client.get("/health", timeout=3).status_code == 503
        wait_until(lambda: is_asking(api), "the broker is being asked")
        answers, predict_s = asyncio.run(_ask_many(api, 300))
        assert {status for status, _ in answers} == {503}
        assert max(seconds for _, seconds in answers) < 4
        assert len(predict_s) > 10
        assert sorted(predict_s)[len(predict_s) // 2] < 0.5, "forecasts do not wait for health"
        assert api.client.get("/health/live", timeout=1).status_code == 200
    finally:
        broker.resume()
    wait_until(failing(api), "healthy again", within_s=5)


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_broker_that_goes_and_comes_back_is_told_and_read_again(lonely: tuple[Api, Broker, Path], how: str) -> None:
    """Many ask all the while, and each of them gets an answer."""
    api, broker, _ = lonely
    wait_until(failing(api), "healthy before")
    asked: list[tuple[int, float]] = []
    done = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=api.client.base_url, timeout=30) as client:
            while not done.is_set():
                started = time.perf_counter()
                asked.append((client.get("/health").status_code, time.perf_counter() - started))

    askers = [threading.Thread(target=ask) for _ in range(8)]
    for asker in askers:
        asker.start()
    try:
        getattr(broker, how)()
        wait_until(failing(api, "broker"), "unhealthy", within_s=5)
        assert api.get("/health/live").status_code == 200
        broker.start()
        wait_until(failing(api), "healthy again", within_s=5)
        product = f"BACK{how.upper()}-USD"
        put(broker, a_record("back", product, trade_id=1))
        wait_until(lambda: api.get(f"/predict/{product}").status_code == 200, "a new record is read", within_s=5)
    finally:
        done.set()
        for asker in askers:
            asker.join()
    assert {status for status, _ in asked} == {200, 503}
    assert max(seconds for _, seconds in asked) < 10


def test_sigterm_ends_it_in_good_order_while_the_broker_is_silent(lonely: tuple[Api, Broker, Path]) -> None:
    """Also while a client waits for health, another sends half a body, and a third keeps its connection."""
    api, broker, _ = lonely
    wait_until(failing(api), "healthy before")
    address = (api.client.base_url.host, api.client.base_url.port or 0)
    broker.pause()
    try:
        with socket.create_connection(address) as waiting, socket.create_connection(address) as half:
            half.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
            waiting.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert api.get("/health/live").status_code == 200
            assert api.process.stop(within_s=10) == 0
    finally:
        broker.resume()
    log = api.process.log.read_text()
    assert "Traceback" not in log
    assert "brokers are down" in log
    assert log.count("\n") < 50, "a broker that is away is said, and not twenty times a second"


def test_sigterm_ends_it_in_good_order_under_uvicorn_too(api: Api) -> None:
    """Runs last with this API. uvicorn's own command raises the signal again when all is closed."""
    assert api.is_healthy()
    assert api.process.stop(within_s=10) == -signal.SIGTERM
    assert "Application shutdown complete" in api.process.log.read_text()
    assert "Traceback" not in api.process.log.read_text()
