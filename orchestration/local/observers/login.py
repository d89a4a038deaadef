"""The login of Prometheus, Alertmanager and Grafana.

Without a login, all three would answer each page and each local user.
"""

from __future__ import annotations

import json
import secrets
import warnings
from collections.abc import Callable
from pathlib import Path

from orchestration.local.settings import StackSettings
from orchestration.settings import Login

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # gone in Python 3.13, which the project does not take yet
    import crypt

_ROUNDS = 2**8
"""Rounds of bcrypt: a password from outside may be short; the servers remember a login that was right."""


def password_file(settings: StackSettings) -> Path:
    """Return the path of the generated password."""
    return settings.var_dir / "ui-password"


def observer_login(settings: StackSettings) -> Login:
    """Return the login: `UI_PASSWORD`, or a generated password in a file for the owner alone."""
    if settings.ui_login is not None:
        return settings.ui_login
    return Login(settings.ui_user, kept_secret(password_file(settings), lambda: secrets.token_urlsafe(18)))


def kept_secret(path: Path, made: Callable[[], str]) -> str:
    """Return the secret in a file for the owner alone; `made` gives the secret of a file that does not exist yet."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(f"{made()}\n")
    return path.read_text().strip()


def can_hash() -> bool:
    """Return whether this machine's C library makes hashes of bcrypt; the servers read no other kind."""
    return crypt.METHOD_BLOWFISH in crypt.methods


def web_config(login: Login) -> str:
    """Return the file for `--web.config.file` of Prometheus and Alertmanager; JSON is YAML."""
    hashed = crypt.crypt(login.password, crypt.mksalt(crypt.METHOD_BLOWFISH, rounds=_ROUNDS))
    return json.dumps({"basic_auth_users": {login.user: hashed}})


def where_the_login_is(settings: StackSettings) -> str:
    """Return a sentence for a person."""
    place = "in UI_PASSWORD" if settings.ui_login is not None else f"in {password_file(settings)}"
    return f"Prometheus, Alertmanager and Grafana ask for the user {settings.ui_user} and the password {place}"
