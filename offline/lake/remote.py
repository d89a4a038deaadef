"""Open an object store by its URI; keys come from the environment, never from the URI."""

from __future__ import annotations

import configparser
import errno
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

if TYPE_CHECKING:
    from obstore.store import AzureStore, GCSStore, S3Store

S3_OPTIONS = ("endpoint_override", "scheme", "region")
"""Options of an `s3://` URI: the words of pyarrow."""
_PATIENCE: dict[str, Any] = {
    # An object is whole or missing, so a request may take as long as the upload of a large object on a slow line.
    "client_options": {"timeout": timedelta(minutes=5), "connect_timeout": timedelta(seconds=5)},
    # A store that starts anew is waited for, and a person who asks a store that is away gets an answer.
    "retry_config": {
        "max_retries": 8,
        "retry_timeout": timedelta(seconds=30),
        "backoff": {
            "init_backoff": timedelta(milliseconds=100),
            "max_backoff": timedelta(seconds=5),
            "base": 2,
        },
    },
}


def is_uri(text: str) -> bool:
    """Return whether a text is a URI of a store, and no path.

    >>> is_uri("s3://bucket/lake"), is_uri("/srv/lake"), is_uri("file:///srv/lake")
    (True, False, True)
    """
    return re.match(r"[a-z][a-z0-9+]+:/", text) is not None


@contextmanager
def explained(text: Callable[[str], str]) -> Iterator[None]:
    """Raise the errors of a store's client as OSError, without the requests in them.

    Args:
        text: returns the text of the error for a reason.
    """
    from obstore.exceptions import BaseError  # noqa: PLC0415

    try:
        yield
    except BaseError as error:
        raise OSError(errno.EIO, text(str(error).strip().partition("\n")[0][:500])) from error


def remote_store(uri: str, setting: str = "LAKE_URI") -> S3Store | GCSStore | AzureStore:
    """Return the object store of a URI; no request is made.

    Args:
        setting: name of the setting with the URI, for errors.
        uri: `s3://bucket/prefix?endpoint_override=HOST:PORT&scheme=http&region=NAME`, `gs://bucket/prefix`, or
            `abfs://container@account.dfs.core.windows.net/prefix`.

    Raises:
        ValueError: the scheme or an option is unknown.
    """
    parts = urlsplit(uri)
    if parts.scheme not in ("s3", "gs", "abfs", "abfss"):
        raise ValueError(f"{setting} must be a folder, or a URI that begins with file, s3, gs or abfs, was {uri}")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    known = S3_OPTIONS if parts.scheme == "s3" else ()
    if unknown := sorted(set(options) - set(known)):
        raise ValueError(f"{setting} has options that are not known: {', '.join(unknown)}; known are {known}")
    from obstore.store import AzureStore, GCSStore  # noqa: PLC0415 - a lake in a folder needs no client of stores

    prefix = parts.path.strip("/") or None
    if parts.scheme == "s3":
        return _s3_store(parts.netloc, prefix, options)
    if parts.scheme == "gs":
        login, _, bucket = parts.netloc.rpartition("@")
        return GCSStore(bucket, prefix=prefix, skip_signature=login == "anonymous", **_PATIENCE)
    container, _, host = parts.netloc.rpartition("@")
    return AzureStore(container, prefix=prefix, account_name=host.partition(".")[0], **_PATIENCE)


def _s3_store(bucket: str, prefix: str | None, options: dict[str, str]) -> S3Store:
    from obstore.store import S3Store  # noqa: PLC0415

    config: dict[str, Any] = _shared_keys()
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if override := options.get("endpoint_override"):
        endpoint = override if "://" in override else f"{options.get('scheme', 'https')}://{override}"
    if endpoint:
        config["endpoint"] = endpoint
    if region := options.get("region"):
        config["region"] = region
    client = _PATIENCE["client_options"] | {"allow_http": (endpoint or "").startswith("http://")}
    return S3Store(bucket, prefix=prefix, **(_PATIENCE | {"client_options": client}), **config)


def _shared_keys() -> dict[str, str]:
    """Return the keys of the file of shared credentials, where the environment holds none."""
    if "AWS_ACCESS_KEY_ID" in os.environ:
        return {}
    path = os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or Path.home() / ".aws" / "credentials"
    profiles = configparser.RawConfigParser()
    profiles.read(path)
    profile = os.environ.get("AWS_PROFILE") or "default"
    if not profiles.has_option(profile, "aws_access_key_id"):
        return {}
    found = {"access_key_id": profiles.get(profile, "aws_access_key_id")}
    found["secret_access_key"] = profiles.get(profile, "aws_secret_access_key", fallback="")
    if token := profiles.get(profile, "aws_session_token", fallback=""):
        found["session_token"] = token
    return found
