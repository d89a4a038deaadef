"""Forecasts over HTTP: `uvicorn online.api:create_app --factory`."""

from __future__ import annotations

import threading
import time
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import structlog
from confluent_kafka import KafkaException
from fastapi import FastAPI, Query, Request, Response
from fastapi import Path as UrlPath
from prometheus_client import CONTENT_TYPE_LATEST, Counter, Gauge, Histogram, generate_latest
from starlette.concurrency import run_in_threadpool

from data.spec import CONTRACT
from data.topics import PRODUCT_PATTERN, SOURCE_PATTERN
from data.trades import NS, iso_times, parse_times
from online.forecasts import NewestForecasts
from online.logs import configure_logs
from online.metrics import LATENCY_BUCKETS_S, Metrics
from online.registry import ModelVersion, await_model
from online.requests import MAX_ROWS, read_rows
from online.settings import ApiSettings
from online.web import Observed, Problem, handle_errors, json_answer

log = structlog.get_logger()

MAX_BODY_BYTES = 4_000_000
BROKER_TIMEOUT_S = 2.0


class Service:
    """What the routes answer from: the model, and the newest forecasts."""

    def __init__(self, settings: ApiSettings, metrics: Metrics) -> None:
        self.settings = settings
        self.forecasts = NewestForecasts(settings)
        self.served: ModelVersion | None = None
        self._metrics = metrics
        self._stopping = False
        self._thread = threading.Thread(target=self._await_model, name="model", daemon=True)

    def start(self) -> None:
        self.forecasts.start()
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self._thread.join()
        self.forecasts.stop()

    def _await_model(self) -> None:
        served = await_model(self.settings, lambda: not self._stopping)
        if served is not None:
            self._metrics.model.labels(served.model.variant, served.version, served.model.digest).set(1)
        self.served = served

    def model(self) -> ModelVersion:
        """Return the model that answers.

        Raises:
            Problem: 503, none is loaded yet.
        """
        if self.served is None:
            detail = "no model is loaded yet; GET /health says what is missing"
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, detail)
        return self.served

    def health(self) -> dict[str, Any]:
        """Check what answering needs, now."""
        started = time.perf_counter()
        broker: dict[str, Any] = {"ok": True}
        try:
            self.forecasts.answers(BROKER_TIMEOUT_S)
            broker["answered_ms"] = round(1e3 * (time.perf_counter() - started), 1)
        except KafkaException as error:
            broker = {"ok": False, "problem": f"{self.settings.kafka_bootstrap_servers}: {error.args[0].str()}"}
        model: dict[str, Any] = {"ok": False, "problem": f"none from {self.settings.mlflow_tracking_uri} yet"}
        if self.served is not None:
            model = {"ok": True, "model_variant": self.served.model.variant, "version": self.served.version}
        newest = self.forecasts.newest_ingest_time()
        stream = {
            "ok": self.forecasts.is_caught_up and self.forecasts.is_following,
            "feature_age_s": None if newest is None else _age_s(newest),
        }
        checks = {"broker": broker, "model": model, "stream": stream}
        status = "healthy" if all(check["ok"] for check in checks.values()) else "unhealthy"
        return {"status": status, "checks": checks}


def _age_s(ingest_time: str) -> float:
    return round(time.time() - int(parse_times([ingest_time])[0]) / NS, 3)


def create_app(settings: ApiSettings | None = None) -> FastAPI:
    """Return the application. Settings are read here, once, unless they are given."""
    settings = settings or ApiSettings()
    configure_logs(settings)
    metrics = Metrics()
    seconds = Histogram(
        "cryptovol_request_seconds",
        "from request to answer",
        ["route", "status"],
        registry=metrics.registry,
        buckets=LATENCY_BUCKETS_S,
    )
    rows_scored = Counter("cryptovol_rows_scored", "rows answered by /predict", registry=metrics.registry)
    forecast_age = Gauge(
        "cryptovol_newest_forecast_age_seconds", "of any open source; NaN without one", registry=metrics.registry
    )
    service = Service(settings, metrics)
    forecast_age.set_function(lambda: _age_s(t) if (t := service.forecasts.newest_ingest_time()) else float("nan"))
    version = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]["version"]

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        metrics.ready.set(1)
        yield
        await run_in_threadpool(service.stop)

    app = FastAPI(title="cryptovol", version=version, description=__doc__, lifespan=lifespan, redoc_url=None)
    app.add_middleware(Observed, seconds=seconds)
    handle_errors(app)

    _add_forecasts(app, service, rows_scored)
    _add_operations(app, service, metrics)
    return app


def _add_forecasts(app: FastAPI, service: Service, rows_scored: Counter) -> None:
    settings = service.settings

    @app.post("/predict", openapi_extra=_predict_schema(settings))
    async def predict(request: Request) -> Response:
        """Forecast the volatility of the next horizon for each row of features."""
        served = service.model()
        body = await request.body()
        if len(body) > MAX_BODY_BYTES:
            detail = f"the body must be at most {MAX_BODY_BYTES} bytes, was {len(body)}"
            raise Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)
        rows = read_rows(body, served.model.columns)
        scores = served.model.score(rows.values)
        rows_scored.inc(len(rows.values))
        names = np.array(served.model.columns, object)
        return json_answer(
            {
                "scores": scores.score.tolist(),
                "model_variant": served.model.variant,
                "version": served.version,
                "ts": iso_times(np.array([time.time_ns()]))[0],
                "intervals": list(zip(scores.lower.tolist(), scores.upper.tolist(), strict=True)),
                "horizon_s": served.model.horizon_s,
                "missing": [names[gone].tolist() for gone in scores.missing],
                "ignored": rows.ignored,
            }
        )

    @app.get("/predict/{product_id}")
    async def newest_forecast(
        product_id: Annotated[str, UrlPath(pattern=PRODUCT_PATTERN, examples=["BTC-USD"])],
        source_id: Annotated[str | None, Query(pattern=SOURCE_PATTERN)] = None,
    ) -> Response:
        """Return the newest live forecast of a product with the row that it was made from."""
        found = service.forecasts.newest(product_id, source_id)
        if found is None:
            of = f" from source {source_id}" if source_id else ""
            raise Problem(HTTPStatus.NOT_FOUND, f"no forecast of {product_id}{of} was ever seen")
        age_s, limit_s = _age_s(found.ingest_time), settings.max_feature_age_s
        if not found.has_ended and age_s > limit_s:
            detail = f"{product_id}: features are {age_s:.1f} s old, the limit is {limit_s:g} s; does the replay go on?"
            more = {"feature_age_s": age_s, "limit_s": limit_s, "source_id": found.source_id}
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, detail, **more)
        record = found.read()
        features = {name: record.pop(name) for name in settings.spec().columns if name in record}
        state = "ended" if found.has_ended else "live"
        return json_answer(record | {"features": features, "feature_age_s": age_s, "state": state})


def _add_operations(app: FastAPI, service: Service, metrics: Metrics) -> None:
    @app.get("/health")
    async def health() -> Response:
        """Say whether the service can answer now: what was checked, and what was found."""
        found = await run_in_threadpool(service.health)
        return json_answer(found, HTTPStatus.OK if found["status"] == "healthy" else HTTPStatus.SERVICE_UNAVAILABLE)

    @app.get("/health/live")
    async def live() -> Response:
        """Say that the process runs; a restart would not mend what /health finds wrong."""
        return json_answer({"status": "alive"})

    @app.get("/version")
    async def version_of() -> Response:
        """Say what answers."""
        served = service.served
        model = served and {
            "name": served.name,
            "model_variant": served.model.variant,
            "version": served.version,
            "digest": served.model.digest,
            "spec_id": served.model.spec_id,
            "train_end": served.model.train_end,
            "columns": served.model.columns,
            "origin": served.origin,
        }
        return json_answer({"version": app.version, "wanted_variant": service.settings.model_variant, "model": model})

    @app.get("/metrics")
    async def metrics_of() -> Response:
        """Say it to Prometheus."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _predict_schema(settings: ApiSettings) -> dict[str, Any]:
    """Describe body and answer of /predict: they are read and written without a model of FastAPI's, for speed."""
    number: dict[str, Any] = {"type": ["number", "null"]}
    columns: dict[str, Any] = {name: number | {"minimum": 0} for name in settings.spec().columns}
    columns |= {"n": {"type": "integer", "minimum": 0}, "ret_mean": number}
    example = {"n": 50, "ret_mean": 0.00001, "ret_std": 0.0002}
    row = {"type": "object", "properties": columns, "required": list(CONTRACT), "example": example}
    rows = {"type": "array", "items": row, "minItems": 1, "maxItems": MAX_ROWS}
    body = {"type": "object", "properties": {"rows": rows}, "required": ["rows"]}
    numbers = {"type": "array", "items": {"type": "number"}}
    names = {"type": "array", "items": {"type": "array", "items": {"type": "string"}}}
    text = {"type": "string"}
    answer = {
        "type": "object",
        "properties": {
            "scores": numbers,
            "model_variant": text,
            "version": text,
            "ts": text | {"format": "date-time"},
            "intervals": {"type": "array", "items": numbers | {"minItems": 2, "maxItems": 2}},
            "horizon_s": {"type": "integer"},
            "missing": names,
            "ignored": names,
        },
    }
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {"200": {"description": "Forecasts", "content": {"application/json": {"schema": answer}}}},
    }
