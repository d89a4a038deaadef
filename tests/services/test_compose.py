"""compose.yaml and its files pass their schema, linters and checkers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from data.files import CHECKOUT
from online.keys.ring import KeyRing
from tests import compose


def check(*command: str) -> None:
    """Run a program; fail with the output unless the exit code is 0."""
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_compose_follows_the_schema() -> None:
    pytest.importorskip("check_jsonschema")
    check(sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml")


def test_compose_passes_the_linter() -> None:
    pytest.importorskip("compose_lint")
    check(sys.executable, "-m", "compose_lint", "compose.yaml")


def test_prometheus_reads_its_configuration(tmp_path: Path) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("no promtool here: apt-get install prometheus")
    (tmp_path / "rules").symlink_to(CHECKOUT / "monitoring" / "rules")
    shutil.copy(compose.DEPLOY / "prometheus.yml", tmp_path)
    check("promtool", "check", "config", str(tmp_path / "prometheus.yml"))


@pytest.mark.parametrize("script", sorted(compose.DEPLOY.glob("*.sh")), ids=lambda path: path.name)
def test_a_script_is_shell(script: Path) -> None:
    check("sh", "-n", str(script))


def test_make_secrets_makes_what_is_missing_and_leaves_the_rest(tmp_path: Path) -> None:
    """No container has the file of the API's key; the API's own file has the hash."""
    make = ("make", "--silent", "-f", str(CHECKOUT / "Makefile"), "-C", str(tmp_path), "secrets")
    check(*make)
    made = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    assert set(made) == {*compose.compose()["secrets"], "api_key"}
    assert {name for name, text in made.items() if len(text) < 30} == {"alert_webhook_url"}
    assert KeyRing.parse(made["api_keys"]).name_of(made["api_key"].encode()) == "stack"
    assert len(made["api_key"]) == 43, "32 bytes"
    assert not any("api_key" in service.get("secrets", ()) for service in compose.services().values())
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    check(*make)
    assert {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()} == made


@pytest.mark.parametrize("url", ["", "https://alerts.example.org/key?a=1&b=2"])
def test_alertmanager_tells_the_webhook_if_there_is_one(url: str, tmp_path: Path) -> None:
    """The URL stays in the file of the secret."""
    program, webhook, written = tmp_path / "alertmanager", tmp_path / "webhook", tmp_path / "written.yml"
    program.write_text('#!/bin/sh\necho "$@"\n')
    program.chmod(0o755)
    webhook.write_text(url)
    environ = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "CONFIG": str(CHECKOUT / "monitoring" / "alertmanager.yml"),
        "WEBHOOK_FILE": str(webhook),
        "WRITTEN": str(written),
    }
    script = ["sh", str(compose.DEPLOY / "alertmanager.sh")]
    done = subprocess.run(script, env=environ, capture_output=True, text=True, check=True)
    assert f"--config.file={written}" in done.stdout
    receivers = {
        found["name"]: found.get("webhook_configs") for found in yaml.safe_load(written.read_text())["receivers"]
    }
    expected = [{"url_file": str(webhook)}] if url else None
    assert receivers == {"nobody": None, "page": expected, "ticket": expected}
