"""Answer requests for forecasts, health, version and metrics."""

from __future__ import annotations

import gc
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import Enum
from http import HTTPStatus
from itertools import product
from typing import Annotated, Any

import structlog
from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi import Path as UrlPath
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST, Counter, generate_latest
from starlette.concurrency import run_in_threadpool

from data.models.served import ServedModel
from data.names import PRODUCT_PATTERN, SOURCE_PATTERN
from data.process.catalog import NO_PURPOSE, PURPOSES
from data.process.hosts import host_check
from data.process.logs import configure_logs
from data.process.metrics import project_version
from data.times import time_text
from online.http.access import REFUSALS, Access, add_login
from online.http.answers import (
    NO_STORE,
    Endpoint,
    JsonAnswer,
    Observed,
    Problem,
    described,
    described_answer,
    described_problems,
    handle_errors,
    read_body,
)
from online.http.batching import Batching
from online.http.bodies import Forecasts, body_type, newest_type, read_rows
from online.http.health import BrokerCheck
from online.http.live_page import EVENTS, LivePage, add_live_page
from online.http.newest import RECENT_OFFSETS, NewestForecasts
from online.live.pulse import Checks
from online.metrics import ApiMetrics
from online.model_watch import ModelVersion, ModelWatch
from online.server.disk import DiskWatch
from online.settings import ApiSettings

log = structlog.get_logger()

MAX_BODY_BYTES = 4_000_000
BODY_TIMEOUT_S = 5.0
DOCS_FILES = "/docs/files"
"""Script, style and icon of `/docs`."""
ANY_BODY = b'{"rows":[{"n":0,"ret_mean":0,"ret_std":0}]}'
FORECASTS: list[str | Enum] = ["forecasts"]
OPERATION: list[str | Enum] = ["operation"]
"""Headings of `/docs`."""
EXAMPLE = {"rows": [{"n": 50, "ret_mean": 0.00001, "ret_std": 0.0002}]}


class Service:
    """Hold the model and the newest forecasts for the routes."""

    def __init__(self, settings: ApiSettings, metrics: ApiMetrics) -> None:
        self.settings = settings
        self.columns = settings.spec().columns
        self.forecasts = NewestForecasts(settings, metrics)
        self.models = ModelWatch(settings, metrics, self._prepare)
        self.broker = BrokerCheck(settings)
        self.disk = DiskWatch(settings.var_dir, round(settings.var_max_gb * 10**9))

    def start(self) -> None:
        self.forecasts.start()
        self.models.start()
        self.disk.start()

    def stop(self) -> None:
        self.disk.stop()
        self.forecasts.begin_stop()
        self.models.stop()
        self.forecasts.stop()

    def _prepare(self, version: ModelVersion) -> None:
        """Read a body for a new model before the model serves: the first read costs more."""
        read_rows(ANY_BODY, version.model.columns)
        if self.models.served is None:
            gc.freeze()  # all lasting objects exist now; a scan of them took 28 ms, in the middle of a request

    def is_ready(self) -> bool:
        """Return whether both kinds of forecast can be given, without a request to the broker."""
        return self.models.served is not None and self.forecasts.problem is None

    def model(self) -> ModelVersion:
        """Return the model that serves.

        Raises:
            Problem: 503, no model is loaded yet.
        """
        served = self.models.served
        if served is None:
            detail = "no model is loaded yet; GET /health says what is missing"
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, detail)
        return served

    def served_file(self) -> ServedModel | None:
        """Return the model that serves; None before the first."""
        served = self.models.served
        return None if served is None else served.model

    def described_model(self) -> dict[str, Any] | None:
        """Return the model that serves, for people; None before the first."""
        served = self.models.served
        if served is None:
            return None
        return {
            "name": served.name,
            "model_variant": served.model.variant,
            "version": served.version,
            "digest": served.model.digest,
            "spec_id": served.model.spec_id,
            "train_end": served.model.train_end,
            "columns": served.model.columns,
            "origin": served.origin,
        }

    async def health(self) -> dict[str, Any]:
        """Check broker, model and stream now; return the result of each check."""
        broker = await self.broker.answer()
        served = self.models.served
        model: dict[str, Any]
        if served is not None:
            model = {"ok": True, "model_variant": served.model.variant, "version": served.version}
        else:
            places = f"neither {self.settings.mlflow_tracking_uri} nor {self.settings.models_dir}"
            model = {"ok": False, "problem": f"{places} has given a model yet; the log says why"}
        if refused := self.models.refused():
            model["refused"] = refused
        problem, newest = self.forecasts.problem, self.forecasts.newest_open()
        stream: dict[str, Any] = {"ok": problem is None, "feature_age_s": newest and newest.age_s}
        if problem is not None:
            stream["problem"] = problem
        checks = {"broker": broker, "model": model, "stream": stream, "disk": self.disk.answer()}
        status = "healthy" if all(check["ok"] for check in checks.values()) else "unhealthy"
        return {"status": status, "checks": checks}


def create_app(settings: ApiSettings | None = None) -> FastAPI:
    """Return the application; without `settings`, read them once from the environment."""
    settings = settings or ApiSettings()
    configure_logs(settings)
    metrics = ApiMetrics()
    service = Service(settings, metrics)
    access = Access(settings)
    metrics.ready.set_function(service.is_ready)
    metrics.disk_used.set_function(service.disk.share)
    checks = Checks(service.broker.ask, lambda: service.forecasts.problem, service.described_model)
    page = LivePage(settings, project_version(), service.forecasts.view, service.served_file, checks)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        with page.running():
            yield
        await run_in_threadpool(service.stop)
        await run_in_threadpool(page.pulse.stop)

    app = FastAPIOffline(  # `/docs` with script and style of our own: FastAPI's page loads them from another host
        static_url=DOCS_FILES,
        title="cryptovol",
        version=project_version(),
        description=__doc__,
        lifespan=lifespan,
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # 5 us a request to find that nobody listens
    )
    app.state.is_leaving = False
    handle_errors(app)
    predict = _add_predict(app, service, access, metrics.rows_scored)
    _add_newest_forecast(app, service, access)
    _add_operations(app, service, access, metrics)
    add_live_page(app, page, access.by_key_or_cookie)
    add_login(app, access)
    for route in app.routes:
        if isinstance(route, APIRoute) and route.include_in_schema:
            for status in (HTTPStatus.OK, HTTPStatus.INTERNAL_SERVER_ERROR, *map(int, route.responses)):
                metrics.requests.labels(route.path, int(status), NO_PURPOSE)  # from 0: the first failure is a rise
            if "{product_id}" in route.path:
                for status, purpose in product((HTTPStatus.OK, HTTPStatus.SERVICE_UNAVAILABLE), PURPOSES):
                    metrics.requests.labels(route.path, int(status), purpose)
    app.add_middleware(
        Observed,
        seconds=metrics.requests,
        direct={("POST", "/predict"): predict},
        is_allowed=host_check(settings.host_names),
        endless=EVENTS,
    )
    return app


def _add_predict(app: FastAPI, service: Service, access: Access, rows_scored: Counter) -> Endpoint:
    batching = Batching()
    refused = (
        *(REFUSALS if access.has_keys else ()),
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        HTTPStatus.UNPROCESSABLE_ENTITY,
        HTTPStatus.SERVICE_UNAVAILABLE,
    )

    body = {"required": True, "content": {"application/json": described(body_type(service.columns), example=EXAMPLE)}}

    @app.post(
        "/predict",
        tags=FORECASTS,
        summary="Forecast for rows of features",
        openapi_extra={"requestBody": body},
        dependencies=access.described(),
        responses=described_answer("Forecasts", Forecasts) | described_problems(*refused),
    )
    async def predict(request: Request) -> Response:
        """Forecast the volatility of the next horizon for each row of features.

        Each row is answered from the columns that it has: `n` = 0 gets the prior of all products, and the contract
        columns alone a forecast with a wider interval. For each row, `missing` lists the columns that played no part,
        and `ignored` the fields without a column.
        """
        access.check(request)
        served = service.model()
        columns = served.model.columns
        rows = read_rows(await read_body(request, MAX_BODY_BYTES, BODY_TIMEOUT_S), columns)
        scores = await batching.score(served.model, rows.values)
        rows_scored.inc(len(rows.values))
        return JsonAnswer(
            Forecasts(
                scores.score.tolist(),
                served.model.variant,
                served.version,
                time_text(time.time_ns()),
                list(zip(scores.lower.tolist(), scores.upper.tolist(), strict=True)),
                served.model.horizon_s,
                [[columns[i] for i, gone in enumerate(row) if gone] for row in scores.missing.tolist()],
                rows.ignored,
            )
        )

    return predict


def _add_newest_forecast(app: FastAPI, service: Service, access: Access) -> None:
    settings = service.settings
    unready = HTTPStatus.SERVICE_UNAVAILABLE
    refused = REFUSALS if access.has_keys else ()

    @app.get(
        "/predict/{product_id}",
        tags=FORECASTS,
        summary="Newest live forecast of a product",
        responses=described_answer(
            "The record of `predictions` without `shadow`, its columns under `features`", newest_type()
        )
        | described_problems(*refused, HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY, unready),
        dependencies=[*access.described(), Depends(access.by_key)],
    )
    async def newest_forecast(
        request: Request,
        product_id: Annotated[str, UrlPath(pattern=PRODUCT_PATTERN, examples=["BTC-USD"])],
        source_id: Annotated[str | None, Query(pattern=SOURCE_PATTERN)] = None,
    ) -> Response:
        """Return the newest live forecast of a product with its feature row.

        Without `source_id`, the source that forecast last is chosen. An open source that is silent for too
        long has no forecast; an ended source keeps its last forecast as long as the service runs. A start reads back
        only over the newest records.
        """
        found = service.forecasts.newest(product_id, source_id)
        if found is None:
            if (problem := service.forecasts.problem) is not None:
                raise Problem(unready, f"no forecast of {product_id} is known yet: {problem}")
            if service.forecasts.is_searching(product_id):
                raise Problem(unready, f"no forecast of {product_id} is known yet: older records are looked through")
            of = f" from source {source_id}" if source_id else ""
            before = f"no open source has one, nor is there one among the {RECENT_OFFSETS:,} newest records before"
            detail = f"no forecast of {product_id}{of} is known: none came since this service started, {before}"
            raise Problem(HTTPStatus.NOT_FOUND, detail)
        request.scope["purpose"] = found.purpose
        age_s, limit_s = found.age_s, settings.max_feature_age_s
        if not found.has_ended and age_s > limit_s:
            detail = f"{product_id}: features are {age_s:.1f} s old, the limit is {limit_s:g} s; does the replay go on?"
            raise Problem(unready, detail, feature_age_s=age_s, limit_s=limit_s, source_id=found.source_id)
        record = found.read()
        record.pop("shadow")  # only the model that serves answers
        features = {name: record.pop(name) for name in service.columns if name in record}
        state = "ended" if found.has_ended else "live"
        return JsonAnswer(record | {"features": features, "feature_age_s": age_s, "state": state})


def _add_operations(app: FastAPI, service: Service, access: Access, metrics: ApiMetrics) -> None:
    guards = [] if service.settings.api_metrics_open else [*access.described(), Depends(access.by_key)]

    @app.head("/health", include_in_schema=False)
    @app.get(
        "/health",
        tags=OPERATION,
        summary="Health, with each check",
        responses={503: {"description": "Unhealthy: `checks` says what failed"}},
    )
    async def health() -> Response:
        """Report whether the service can answer now, with the result of each check."""
        found = await service.health()
        return JsonAnswer(found, HTTPStatus.OK if found["status"] == "healthy" else HTTPStatus.SERVICE_UNAVAILABLE)

    @app.head("/health/live", include_in_schema=False)
    @app.get(
        "/health/live",
        tags=OPERATION,
        summary="Whether the process runs",
        responses={503: {"description": "The process is about to stop: ask another"}},
    )
    async def live() -> Response:
        """Report that the process runs; a restart would not repair a failed check of /health."""
        if app.state.is_leaving:
            return JsonAnswer({"status": "leaving"}, HTTPStatus.SERVICE_UNAVAILABLE)
        return JsonAnswer({"status": "alive"})

    @app.get("/version", tags=OPERATION, summary="The model that serves")
    async def version_of() -> Response:
        """Report the model that serves, and the refused champions."""
        wanted, refused = service.settings.model_variant, service.models.refused()
        model = service.described_model()
        return JsonAnswer({"version": app.version, "wanted_variant": wanted, "model": model, "refused": refused})

    @app.get("/metrics", tags=OPERATION, summary="Metrics for Prometheus", dependencies=guards)
    async def metrics_of() -> Response:
        """Report the metrics to Prometheus."""
        return Response(generate_latest(metrics.registry), headers=NO_STORE, media_type=CONTENT_TYPE_LATEST)
