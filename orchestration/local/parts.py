"""Parts of the local stack: each part's command, needs and ready check."""

from __future__ import annotations

import functools
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

from data.files import CHECKOUT
from data.process.running import REFUSED
from data.settings import KafkaSettings
from data.stream.topics.creation import create_topics
from online.settings import RESTARTED
from orchestration.instance.home import WORKSPACE, own_runs
from orchestration.local.dagster.client import end_runs, is_loaded, open_local
from orchestration.local.kafka.broker import broker_config, is_ready
from orchestration.local.observers.scrape_key import keys_environment
from orchestration.local.ports import next_free_port
from orchestration.local.settings import StackSettings
from orchestration.local.supervisor import Part

SIMULATED_DAY = "2025-01-06"
PROBE_TIMEOUT_S = 1.0
WARM_NICE = 10  # nice value of MLflow and the training while a kept model serves
STANDS_BACK = 15  # nice value, above every part that the first forecast waits for
RUNS_END_S = 30.0  # limit for cancelled Dagster runs: an ingestor delivers the trades already read


def fetch_text(url: str, timeout_s: float = PROBE_TIMEOUT_S) -> str | None:
    """Return the text of a URL of the local machine, as of `open_local`, for an answer of 200; for others None."""
    try:
        with open_local(url, timeout_s) as answer:
            return str(answer.read().decode()) if answer.status == 200 else None
    except OSError:
        return None


def answers(url: str, timeout_s: float) -> Callable[[], bool]:
    """Return a ready check: the URL answers 200."""
    return lambda: fetch_text(url, timeout_s) is not None


def says_ready(metrics_url: str) -> Callable[[], bool]:
    """Return a ready check: the metrics of the process say ready."""
    return lambda: "cryptovol_ready 1.0" in (fetch_text(metrics_url) or "").splitlines()


def listens(port: int) -> Callable[[], bool]:
    """Return a ready check: the port on the local machine takes connections."""

    def is_open() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), PROBE_TIMEOUT_S).close()
        except OSError:
            return False
        return True

    return is_open


def simulated_recording(settings: StackSettings) -> Path:
    """Return the path of the default recording."""
    return settings.var_dir / "recordings" / f"simulated-{settings.product_id}-{SIMULATED_DAY}.csv"


def find_place_command(settings: StackSettings, servers: str) -> str:
    """Return the shell command to find the forecaster's place, with the settings of the stack."""
    python = Path(sys.executable)
    is_default = servers == KafkaSettings.model_fields["kafka_bootstrap_servers"].default
    given = [] if is_default else [f"KAFKA_BOOTSTRAP_SERVERS={servers}"]
    if "window_size" in settings.model_fields_set:  # the command computes the rows again, to compare them
        given.append(f"WINDOW_SIZE={settings.window_size}")
    program = python.relative_to(CHECKOUT) if python.is_relative_to(CHECKOUT) else python
    return " ".join((*given, str(program), "-m online.forecaster --find-place"))


def stack_parts(settings: StackSettings, kafka: Mapping[str, str]) -> list[Part]:
    """Return the parts in the order of their needs.

    Args:
        kafka: configuration of a client of the broker.
    """
    # A model from an earlier run serves without the registry: no part waits for MLflow, the slowest part then, which
    # runs at low priority.
    is_warm = any(settings.models_dir.glob("**/*.onnx"))
    recordings = settings.recordings or [simulated_recording(settings)]
    makes_recording = not settings.recordings and not recordings[0].exists()
    return [
        *([_kafka(settings)] if settings.starts_kafka else []),
        _topics(settings, kafka),
        *([_mlflow(settings, is_warm=is_warm)] if settings.starts_mlflow else []),
        _training(settings, is_warm=is_warm),
        _forecaster(settings, kafka["bootstrap.servers"]),
        _api(settings, is_warm=is_warm),
        *([_recording(settings, recordings[0])] if makes_recording else []),
        _ingestor(settings, recordings, ("recording",) if makes_recording else ()),
        _exporter(settings),
        *_dagster(settings),
    ]


def _module(name: str, *arguments: str | Path | int) -> tuple[str, ...]:
    """Return the command to run a module with the Python of the calling process."""
    return (sys.executable, "-m", name, *map(str, arguments))


def _kafka(settings: StackSettings) -> Part:
    config = broker_config(settings.var_dir, settings.kafka_port, settings.kafka_controller_port)
    ports = ("--port", config.port, "--controller-port", config.controller_port)
    return Part(
        "kafka",
        _module("orchestration.local.kafka.broker", "--var", settings.var_dir, "serve", *ports),
        is_ready=lambda: bool(config.cluster_id) and is_ready(config.bootstrap_servers, config.cluster_id),
        ports={"KAFKA_PORT": config.port, "KAFKA_CONTROLLER_PORT": config.controller_port},
        address=config.bootstrap_servers,
        advice=f"If its data is damaged, {settings.how_to_forget} forgets it, with everything else in "
        f"{settings.var_dir}.",
    )


def _topics(settings: StackSettings, kafka: Mapping[str, str]) -> Part:
    retention = timedelta(days=settings.topic_retention_days)
    replication = 1 if settings.starts_kafka else settings.kafka_replication_factor
    return Part(
        "topics",
        action=functools.partial(
            create_topics,
            kafka,
            retention=retention,
            partition_bytes=settings.topic_max_mb * 10**6,
            replication=replication,
            keeps_to_it=settings.starts_kafka,  # a broker of a person's own has a retention of its own
        ),
        needs=("kafka",) if settings.starts_kafka else (),
        advice=f"The broker is {kafka['bootstrap.servers']}; KAFKA_BOOTSTRAP_SERVERS names another.",
    )


def _mlflow(settings: StackSettings, *, is_warm: bool) -> Part:
    """Return MLflow's server as one process.

    `mlflow server` sets the same variables for uvicorn. Starting uvicorn directly spares the waiting process of the
    command, and 190 MB; and a kill leaves no process over.
    """
    listening = ("--host", "127.0.0.1", "--port", settings.mlflow_port)
    store = "sqlite:///mlflow.db"  # below `mlflow_folder`, see `registry_app`
    return Part(
        "mlflow",
        _module("uvicorn", "--factory", "orchestration.local.registry_app:create_app", *listening, "--no-access-log"),
        environment={
            "_MLFLOW_SERVER_FILE_STORE": store,
            "_MLFLOW_SERVER_REGISTRY_STORE": store,
            "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
            "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
            "_MLFLOW_SERVER_ARTIFACT_DESTINATION": "artifacts",
            "_MLFLOW_SGI_NAME": "uvicorn",
            # With jobs MLflow starts eight more processes, 1.1 GB in all.
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            **_mlflow_guard(settings),
        },
        # This request reads the database: the first one makes its tables.
        is_ready=answers(
            f"{settings.local_mlflow}/api/2.0/mlflow/registered-models/search?max_results=1", timeout_s=30.0
        ),
        needs=("topics",) if is_warm else (),
        nice=WARM_NICE if is_warm else 0,
        ports={"MLFLOW_PORT": settings.mlflow_port},
        address=settings.local_mlflow,
        advice="MLFLOW_TRACKING_URI can name a registry that is running.",
    )


def _mlflow_guard(settings: StackSettings) -> dict[str, str]:
    """Return the lists of MLflow's own guard, where they differ from MLflow's defaults: the names of the machine."""
    if not settings.host_names:
        return {}
    hosts = ",".join(f"{name},{name}:*" for name in ("localhost", "127.0.0.1", *sorted(settings.host_names)))
    scheme, place, *_ = urlsplit(settings.mlflow_public_url or settings.local_mlflow)
    return {"MLFLOW_SERVER_ALLOWED_HOSTS": hosts, "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": f"{scheme}://{place}"}


def _training(settings: StackSettings, *, is_warm: bool) -> Part:
    return Part(
        "training",
        _module("offline.training", "--if-missing"),
        needs=("mlflow",) if settings.starts_mlflow else (),
        once=True,
        essential=not is_warm,
        nice=WARM_NICE if is_warm else 0,
        advice="It trains and registers the first model. The registry is MLFLOW_TRACKING_URI.",
    )


def _forecaster(settings: StackSettings, servers: str) -> Part:
    metrics = f"http://127.0.0.1:{settings.forecaster_port}/metrics"
    return Part(
        "forecaster",
        _module("online.forecaster"),
        needs=("topics",),  # the forecaster compiles while the first model is trained
        is_ready=says_ready(metrics),
        ports={"FORECASTER_PORT": settings.forecaster_port},
        address=metrics,
        waits=frozenset({REFUSED}),
        advice=f"If a place was lost, in another terminal: {find_place_command(settings, servers)}",
        ready_s=600.0,
    )


def _api(settings: StackSettings, *, is_warm: bool) -> Part:
    return Part(
        "api",
        _module("online.api"),
        environment=keys_environment(settings),
        needs=("topics",) if is_warm else ("topics", "training"),
        is_ready=answers(f"http://127.0.0.1:{settings.api_port}/health", timeout_s=5.0),  # /health asks the broker
        ports={"API_PORT": settings.api_port},
        address=f"http://127.0.0.1:{settings.api_port}/",
    )


def _exporter(settings: StackSettings) -> Part:
    """Return the exporter, which yields to the forecasts, and starts after their processes."""
    metrics = f"http://127.0.0.1:{settings.exporter_port}/metrics"
    return Part(
        "exporter",
        _module("monitoring.exporter"),
        needs=("forecaster", "api"),
        is_ready=says_ready(metrics),
        ports={"EXPORTER_PORT": settings.exporter_port},
        address=metrics,
        essential=False,
        nice=STANDS_BACK,
        ready_s=600.0,  # the exporter is ready once it has read the newest day of the topic
        advice="The forecasts go on; only their live figures are missing.",
    )


def _recording(settings: StackSettings, path: Path) -> Part:
    return Part(
        "recording",
        _module("data.simulator", "--product", settings.product_id, "--day", SIMULATED_DAY, "--out", path),
        once=True,
        nice=10,
        advice="It simulates a day of trades; RECORDING names one of your own.",
    )


def _ingestor(settings: StackSettings, recordings: Sequence[Path], needs: tuple[str, ...]) -> Part:
    another = "another RECORDING"
    if settings.replay_id:  # the source may have ended, or begun with other recordings
        another = f"another REPLAY_ID than {settings.replay_id}, or the RECORDING that it was begun with"
    port = next_free_port(settings.ingestor_port, settings.ports_of_others)  # other replays may run beside this one
    metrics = f"http://127.0.0.1:{port}/metrics"
    return Part(
        "ingestor",
        _module("online.ingestor", *(() if settings.replay_id else ("--new",)), *recordings),
        environment={"INGESTOR_PORT": str(port)},
        restart_environment=RESTARTED,
        is_ready=says_ready(metrics),
        address=metrics,
        needs=("topics", "forecaster", *needs),
        exits={
            0: "replay ended; the stack stays up for questions: Ctrl-C stops it",
            2: "this replay cannot go on; the ingestor says why",
        },
        essential=False,
        advice=f"The rest stays up. Stop with Ctrl-C, then `make run` with {another}.",
    )


def _dagster(settings: StackSettings) -> list[Part]:
    """Return the Dagster parts and the first `volatility-ml`.

    All yield to the forecasts, and start after the processes of the forecasts. Runs are children of the code server,
    with the same nice value.
    """
    first_model = Part(
        "first_ml",
        _module(
            "orchestration.local.dagster.first_model",
            "--dagster",
            settings.dagster_local_url,
            "--api",
            f"http://127.0.0.1:{settings.api_port}",
        ),
        needs=("dagster_daemon", *(("mlflow",) if settings.starts_mlflow else ())),
        exits={2: "volatility-ml is not made"},
        once=True,
        background=True,
        tells=True,
        advice="The baseline serves on. What was launched is in the Dagster UI.",
    )
    parts = [*dagster_parts(settings, needs=("forecaster", "api")), first_model]
    return [replace(part, essential=False, nice=STANDS_BACK) for part in parts]


def dagster_parts(settings: StackSettings, needs: tuple[str, ...] = ()) -> list[Part]:
    """Return the Dagster parts: server of our code, UI behind its door, and the daemon that starts runs.

    Args:
        needs: of the server of our code; the other parts need the server.
    """
    workspace, url = settings.dagster_home / WORKSPACE, settings.dagster_local_url
    asked = settings.with_login(url)

    def end_own_runs(say: Callable[[str], None]) -> None:
        end_runs(asked, RUNS_END_S, say, own_runs(settings.dagster_home, shares_storage=settings.shares_storage))

    return [
        Part(
            "dagster_code",
            _module("orchestration.code_server", "--port", settings.dagster_code_port),
            needs=needs,
            is_ready=listens(settings.dagster_code_port),
            ports={"DAGSTER_CODE_PORT": settings.dagster_code_port},
            ready_s=240.0,  # the code server also makes the databases
            advice=f"The forecasts go on. If {settings.dagster_home} is damaged, remove it: only the history of runs "
            "is lost.",
        ),
        Part(
            "dagster_ui",
            _module("orchestration.webserver", "-w", workspace),
            needs=("dagster_code",),
            is_ready=functools.partial(is_loaded, asked),
            ports={"DAGSTER_PORT": settings.dagster_port},
            exits={REFUSED: "the Dagster UI has no password and listens beyond loopback; UI_PASSWORD sets one"},
            address=url,
            before_stop=end_own_runs,  # the daemon has ended: no run starts any more
            stop_s=RUNS_END_S + 2,
        ),
        Part("dagster_daemon", _module("orchestration.daemon", "-w", workspace), needs=("dagster_ui",)),
    ]
