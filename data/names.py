"""Check names that come from outside, and define the errors that another folder catches.

An error that only its own folder catches stays beside its raiser. `offline.promotion.gate.Refused`, which Dagster's
jobs catch too, stays beside the conditions that it carries. Nobody catches all errors: they have no common base.

    error                  caught by
    RegistryError          commands and jobs: the message ends the work; model watch: the old model keeps serving
    ├── RegistryAway       ledger: the entry stays pending; maker of the first model: a new process retries
    ├── VersionNotFound    gate: a condition fails; ledger: no entry yet; `Registry.champion`: no champion
    │   └── FileTooLarge   `Registry.fetch`: the refusal names the size
    └── AlreadyThere       writer of models and experiments: another process was faster
    ModelRefused           model watch: the old model keeps serving; gate: a condition fails; explain: the file differs
    NotRead                commands and jobs that read topics: the message ends the work
    Stopped                forecaster and ingestor: the process ends, and the next start goes on
    Unanswered             forecaster: the process ends with code 75, and the next start goes on
    RecordRefused          forecaster: the process ends with code 1, and a person must act
    Damaged                readers of recordings: the rows before the damage count, and the message is reported
    └── BeyondLimit        the same; the message names a limit
"""

from __future__ import annotations

import re
import secrets
from collections.abc import MutableMapping
from datetime import datetime
from functools import lru_cache
from ipaddress import ip_address
from typing import Literal
from urllib.parse import urlsplit

from data.trades import StreamKey

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Names of this machine, as `no_proxy` takes them."""


class RegistryError(RuntimeError):
    """MLflow does not answer, refuses, or gives a wrong answer. The message has the URI, and says what to do."""


class RegistryAway(RegistryError):
    """MLflow does not answer, fails (5xx), or another server answers: the request may have been done or not."""


class VersionNotFound(RegistryError):
    """MLflow has no model, version, alias or experiment of the name, or no file that a forecaster may load."""


class FileTooLarge(VersionNotFound):
    """A file at MLflow is larger than `MODEL_MAX_MB`."""


class AlreadyThere(RegistryError):
    """MLflow already has a model or experiment of the name."""


RefusalKind = Literal[
    "absent", "size", "digest", "format", "external", "operators", "metadata", "spec", "columns", "signature", "answers"
]


class ModelRefused(ValueError):
    """A model file that may not serve. The message says what was found and what is allowed.

    Attributes:
        kind: the failed check; `absent`: the file does not exist or cannot be read.
    """

    def __init__(self, message: str, kind: RefusalKind) -> None:
        super().__init__(message)
        self.kind: RefusalKind = kind


class NotRead(RuntimeError):
    """The broker does not answer, lacks the topic, or the client refuses a setting. The message says what to do."""


class Stopped(Exception):
    """The process was asked to stop while waiting for the broker."""


class Unanswered(Exception):
    """The broker did not answer for too long."""


class RecordRefused(Exception):
    """The broker refuses a record, and would refuse the record again."""


class Damaged(Exception):
    """A file cannot be read to its end.

    Attributes:
        rescue: a command that writes the readable part of the file; empty if no command can.
    """

    def __init__(self, how: str, rescue: str = "") -> None:
        super().__init__(how)
        self.rescue = rescue


class BeyondLimit(Damaged):
    """A file holds more than a limit allows. The message has the limit and the name of its setting."""


def printable(text: str) -> str:
    """Return a text from outside for a terminal or a log: what no printer shows, and half a character, is escaped.

    >>> print(printable("a" + chr(27) + "[31mb" + chr(13) + chr(0xDCFF)))
    a\\x1b[31mb\\r\\udcff
    >>> print(printable("price" + chr(27) + "[2J" + chr(10) + chr(0x202E) + "5"))
    price\\x1b[2J\\n\\u202e5
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


PRODUCT_ID = re.compile(r"[A-Z0-9]{1,20}-[A-Z0-9]{1,20}")
"""Base and quote currency, for example `BTC-USD`."""


PRODUCT_RULE = "must be named like BTC-USD (capitals and digits)"
"""The rule for product names, as the end of an error message."""


def check_product_id(product_id: str) -> None:
    """Raise ValueError if a text is no product name."""
    if not PRODUCT_ID.fullmatch(product_id):
        raise ValueError(f"a product {PRODUCT_RULE}, was {product_id!r}")


PRODUCT_PATTERN = "^[A-Z0-9]{1,20}-[A-Z0-9]{1,20}$"
SOURCE_PATTERN = "^[A-Za-z0-9._:-]{1,100}$"


def check_names(key: StreamKey) -> None:
    """Check source and product name of a stream.

    Raises:
        ValueError: a name is not allowed; the message has the name and the allowed pattern.
    """
    for what, name, pattern in zip(StreamKey._fields, key, (SOURCE_PATTERN, PRODUCT_PATTERN), strict=True):
        if not re.fullmatch(pattern, name):
            raise ValueError(f"{what} must match {pattern}, was {name[:100]!r}")


MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")
"""A variant, or a version, as records of forecasts name a model."""


@lru_cache(1_000)
def is_model_name(variant: str, version: str) -> bool:
    """Return whether variant and version may name a model, in a path and in a label of a metric.

    >>> is_model_name("ml", "7"), is_model_name("../ml", "7"), is_model_name("ml", "")
    (True, False, False)
    """
    return bool(MODEL_NAME.fullmatch(variant) and MODEL_NAME.fullmatch(version))


def new_replay_id(now: datetime) -> str:
    """Return a name for a new source, such as replay-20261123T101500Z-3f9a.

    Args:
        now: UTC. Two names of one second differ in their random end.
    """
    return f"replay-{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"


def spare_loopback(environment: MutableMapping[str, str], *hosts: str) -> None:
    """Add the names of this machine to the hosts that an environment reaches without a proxy.

    For libraries that read the proxies of the environment themselves, as gRPC, requests and mlflow's client do.

    Args:
        hosts: further names and addresses of this machine.

    >>> environment = {"no_proxy": "intern.example", "NO_PROXY": "intern.example"}
    >>> spare_loopback(environment)
    >>> environment["no_proxy"]
    'intern.example,127.0.0.1,localhost,::1'
    """
    given = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    spared = dict.fromkeys([*filter(None, given.split(",")), *LOOPBACK, *hosts])
    environment["no_proxy"] = environment["NO_PROXY"] = ",".join(spared)


def is_loopback(url: str) -> bool:
    """Return whether a URL names this machine. Such a request must never go through a proxy.

    >>> [is_loopback(f"http://{host}:5000/x") for host in ("127.0.0.1", "[::1]", "localhost", "mlflow", "10.0.0.1")]
    [True, True, True, False, False]
    """
    return is_loopback_host(urlsplit(url).hostname or "")


def is_loopback_host(host: str) -> bool:
    """Return whether a host is this machine alone.

    >>> [is_loopback_host(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "::", "mlflow")]
    [True, True, True, False, False, False]
    """
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
