"""Read the model registry: MLflow's REST API, with short timeouts and bounded answers.

MLflow's own client takes seconds to import and retries for minutes. Only `offline.promotion.register` uses that client,
to log models.
"""

from __future__ import annotations

import contextlib
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, urlsplit

import httpx
import msgspec
from msgspec import Struct

from data.models.settings import RegistrySettings
from data.names import (
    AlreadyThere,
    FileTooLarge,
    ModelRefused,
    RegistryAway,
    RegistryError,
    VersionNotFound,
    is_loopback,
)

API = "/api/2.0/mlflow"
FILES = "/api/2.0/mlflow-artifacts/artifacts"
TIMEOUT_S = 5.0
TIMEOUTS = 4
"""Bound of the time in which an answer is read, in timeouts: each byte may come in time, and the last byte never."""
MAX_ANSWER_BYTES = 64 * 2**20
"""Bound of an answer that is no file: a page of the ledger has some 5 MB. MODEL_MAX_MB bounds files."""
NAMED = 20
"""Maximum number of model names in the error message about an unknown model."""
ERRORS = {
    "RESOURCE_DOES_NOT_EXIST": VersionNotFound,
    "NOT_FOUND": VersionNotFound,
    "RESOURCE_ALREADY_EXISTS": AlreadyThere,
}
"""Errors by MLflow's error code."""

T = TypeVar("T")


class Version(NamedTuple):
    """A version of a registered model, as the registry describes the version.

    Attributes:
        name: of the registered model, for example `volatility-baseline`.
        version: a number, as text.
        tags: see `register`.
        run_id: id of the MLflow run that logged the model; empty for a version registered by hand.
    """

    name: str
    version: str
    tags: dict[str, str]
    run_id: str

    @property
    def digest(self) -> str:
        """The SHA-256 that the registry promises for the file; empty if the version has no tag `digest`."""
        return self.tags.get("digest", "")


@dataclass(frozen=True, slots=True)
class ModelFile:
    """The file of a version, from the registry or from disk.

    Attributes:
        name, version, digest: see `Version`.
        model_bytes: the ONNX file, not yet checked.
    """

    name: str
    version: str
    digest: str
    model_bytes: bytes


class _Version(Struct):
    version: str
    tags: list[dict[str, str]] = []
    run_id: str = ""


class _VersionAnswer(Struct):
    model_version: _Version


class RegisteredModel(Struct):
    """MLflow's record of a registered model: its newest versions, and the version of each alias."""

    name: str
    latest_versions: list[_Version] = []
    aliases: list[dict[str, str]] = []


class _ModelsAnswer(Struct):
    registered_models: list[RegisteredModel] = []


class Registry:
    """Client of one MLflow server. The login comes from the environment, as for MLflow's own client.

    Each request has a connection of its own. All methods raise the errors of `data.names`: `RegistryAway` if MLflow
    does not answer in time, `RegistryError` if MLflow refuses.

    Args:
        uri: of the server, http or https.
        timeout_s: limit for connecting, and for each wait for a part of the answer.
    """

    def __init__(self, uri: str, timeout_s: float = TIMEOUT_S) -> None:
        self.uri, self._timeout_s = uri.rstrip("/"), timeout_s
        settings, is_here = RegistrySettings(), is_loopback(uri)
        login, self._max_file_mb = settings.login(), settings.model_max_mb
        user, password, token = (login.get(f"MLFLOW_TRACKING_{name}") for name in ("USERNAME", "PASSWORD", "TOKEN"))
        self._client = httpx.Client(
            auth=(user, password) if user and password else None,  # in place of a token, as MLflow's own client does
            headers={"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {token}"} if token else {}),
            limits=httpx.Limits(max_keepalive_connections=0),
            trust_env=not is_here,  # the proxies of the environment
            # To read the certificates takes 20 ms, and plain HTTP without a proxy needs none.
            verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if is_here and uri.startswith("http:") else True,
        )

    def champion(self, name: str, timeout_s: float | None = None) -> Version | None:
        """Return the champion of a model, or None if the model has no champion; one request, for polling."""
        return self.aliased(name, "champion", timeout_s)

    def aliased(self, name: str, alias: str, timeout_s: float | None = None) -> Version | None:
        """Return the version of a model with an alias, or None if the model has no such alias; one request."""
        try:
            return self._version(name, alias, timeout_s)
        except VersionNotFound:
            return None

    def version(self, name: str, version: str) -> Version:
        """Return the version of a model with a number or an alias, as `7` or `challenger`.

        Raises:
            VersionNotFound: the model or the version does not exist; the message lists the existing names or numbers.
        """
        try:
            return self._version(name, version)
        except VersionNotFound:
            model = self.model(name)
        newest = max((int(each.version) for each in model.latest_versions), default=None)
        there = ["no version at all" if newest is None else f"its newest is {newest}"]
        there += [f"{each['alias']} is {each['version']}" for each in model.aliases]
        what = "version" if version.isdigit() else "alias"
        raise VersionNotFound(f"{name} has no {what} {version} at {self.uri}; {', '.join(there)}")

    def model(self, name: str) -> RegisteredModel:
        """Return MLflow's record of a registered model.

        Raises:
            VersionNotFound: the model does not exist; the message lists the existing models.
        """
        with contextlib.suppress(VersionNotFound):
            found = self.call("GET", "registered-models/get", {"name": name}, dict[str, RegisteredModel])
            return found["registered_model"]
        models = self.call("GET", "registered-models/search", {"max_results": NAMED + 1}, _ModelsAnswer)
        names = [each.name for each in models.registered_models]
        there = ", ".join(names[:NAMED]) + ", ..." * (len(names) > NAMED)
        raise VersionNotFound(
            f"there is no model {name} at {self.uri}; {f'there are {there}' if names else 'there is none yet'}"
        )

    def download(self, name: str, version: str) -> bytes:
        """Return the file of a version.

        Raises:
            VersionNotFound: the version does not exist, or the file is gone, too large, or on another server.
        """
        fields = {"name": name, "version": version}
        found = self.call("GET", "model-versions/get-download-uri", fields, dict[str, str])
        return self.file_at(found.get("artifact_uri", ""))

    def file_at(self, location: str) -> bytes:
        """Return the ONNX file of a model by location, as `mlflow-artifacts:/1/models/m-438d.../artifacts`.

        Raises:
            VersionNotFound: the file is gone, too large, or on another server.
        """
        place = urlsplit(location)
        if place.scheme != "mlflow-artifacts":
            raise VersionNotFound(
                f"a model is kept at {location!r}, where forecasters do not look; it must be mlflow-artifacts:/..., "
                "which `mlflow server --artifacts-destination` gives"
            )
        return self._request("GET", quote(f"{FILES}/{place.path.strip('/')}/model.onnx"))

    def artifact(self, run_id: str, path: str) -> bytes:
        """Return a file among the artifacts of a run.

        Raises:
            VersionNotFound: the run or the file does not exist, or is too large.
        """
        run = self.call("GET", "runs/get", {"run_id": run_id}, dict)["run"]["info"]
        return self._request("GET", quote(f"{FILES}/{urlsplit(run['artifact_uri']).path.strip('/')}/{path}"))

    def fetch(self, wanted: Version) -> ModelFile:
        """Return the file of a version, to serve.

        Raises:
            ModelRefused: the registry promises no digest, or has no file that may serve.
            RegistryError: another failure; a retry may succeed.
        """
        what = f"{wanted.name} version {wanted.version}"
        if not wanted.digest:
            raise ModelRefused(f"{what} has no tag `digest`: was it registered by hand?", "digest")
        try:
            model_bytes = self.download(wanted.name, wanted.version)
        except FileTooLarge as error:
            raise ModelRefused(f"{what} is too large: {error}", "size") from error
        except VersionNotFound as error:
            raise ModelRefused(f"{what} is not at the registry: {error}", "absent") from error
        return ModelFile(wanted.name, wanted.version, wanted.digest, model_bytes)

    def call(
        self, method: str, path: str, fields: Mapping[str, Any], kind: type[T], timeout_s: float | None = None
    ) -> T:
        """Send a request to MLflow's REST API, and return the answer.

        Args:
            path: below `API`.
            fields: sent in the query of a GET, and in the body of other methods.
            kind: type of the answer; dict: any JSON object.
        """
        sent: dict[str, Any] = {"params": fields} if method == "GET" else {"json": fields}
        answer = self._request(method, f"{API}/{path}", timeout_s, **sent)
        try:
            return msgspec.json.decode(answer or b"{}", type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._no_mlflow(path, answer, str(error)) from error

    def _version(self, name: str, version: str, timeout_s: float | None = None) -> Version:
        """Return a version; an error has MLflow's own message."""
        if version.isdigit():
            path, fields = "model-versions/get", {"name": name, "version": version}
        else:
            path, fields = "registered-models/alias", {"name": name, "alias": version}
        found = self.call("GET", path, fields, _VersionAnswer, timeout_s).model_version
        return Version(name, found.version, {tag["key"]: tag.get("value", "") for tag in found.tags}, found.run_id)

    def _request(self, method: str, path: str, timeout_s: float | None = None, **sent: Any) -> bytes:
        """Return the body of a successful answer."""
        timeout_s = timeout_s or self._timeout_s
        body, deadline = bytearray(), time.monotonic() + TIMEOUTS * timeout_s
        is_file = path.startswith(FILES)
        max_bytes = self._max_file_mb * 10**6 if is_file else MAX_ANSWER_BYTES
        try:
            with self._client.stream(method, self.uri + path, timeout=timeout_s, **sent) as answer:
                for part in answer.iter_bytes():
                    body += part
                    if len(body) > max_bytes:
                        kind = FileTooLarge if is_file else RegistryError
                        limit = f"{self._max_file_mb} MB, see MODEL_MAX_MB" if is_file else f"{max_bytes:,} bytes"
                        raise kind(f"MLflow at {self.uri} answers {path} with more than the limit of {limit}")
                    if time.monotonic() > deadline:
                        raise httpx.ReadTimeout(f"the answer was not whole after {TIMEOUTS * timeout_s:g} s")
        except (httpx.HTTPError, httpx.InvalidURL) as error:  # refused, timed out, or cut off
            raise RegistryAway(
                f"MLflow does not answer at {self.uri} ({error}): start it, or set MLFLOW_TRACKING_URI, then do this "
                "again"
            ) from error
        if not answer.is_success:
            raise self._refusal(path, answer, bytes(body))
        if answer.headers.get("content-type", "").startswith("text/html"):
            raise self._no_mlflow(path, bytes(body), "a page for people")
        return bytes(body)

    def _no_mlflow(self, path: str, answer: bytes, reason: str) -> RegistryAway:
        """Return the error for the answer of another server, of a proxy before MLflow, or a cut off answer."""
        shown = answer[:60].decode(errors="replace")
        return RegistryAway(
            f"{self.uri} answers {path} with what MLflow does not answer, {shown!r} ({reason}): is it MLflow? "
            "MLFLOW_TRACKING_URI says where that is"
        )

    def _refusal(self, path: str, answer: httpx.Response, body: bytes) -> RegistryError:
        """Return the error for an HTTP status without success."""
        code, status = "", answer.status_code
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
            # {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "Registered Model with name=... not found"}
            code = msgspec.json.decode(body, type=dict).get("error_code", "")
        has_no_file = path.startswith(FILES) and status in (400, 404, 410)
        has_no_alias = path.endswith("/registered-models/alias") and code == "INVALID_PARAMETER_VALUE"
        kind: type[RegistryError] = RegistryAway if status >= 500 else RegistryError  # a 5xx may come after the work
        kind = ERRORS.get(code, VersionNotFound if has_no_file or has_no_alias else kind)
        text = f"MLflow at {self.uri} answers {status} to {path}: {body[:300].decode(errors='replace')}"
        if answer.has_redirect_location:
            text += f"; it points to {answer.headers['location']}: MLFLOW_TRACKING_URI must name MLflow itself"
        if status == httpx.codes.UNAUTHORIZED:
            text += "; MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, log in"
        return kind(text)
