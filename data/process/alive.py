"""Check that a server on this machine answers: `python -m data.process.alive URL`, the health check of containers.

`HOST:PORT` in place of a URL checks for a bare connection. Images have no curl. The exit code is 0 if the server is
alive, else 1.
"""

from __future__ import annotations

import socket
import sys
import urllib.request
from http import HTTPStatus
from urllib.error import HTTPError

TIMEOUT_S = 3.0


def check(address: str) -> None:
    """Return if a server answers a URL with 200, or asks for a password; or if the server takes a connection.

    Args:
        address: `http://HOST:PORT/PATH`, or `HOST:PORT`.

    Raises:
        OSError: no answer in time, or another answer.
        ValueError: the address is neither.
    """
    if "://" not in address:
        host, _, port = address.rpartition(":")
        socket.create_connection((host, int(port)), TIMEOUT_S).close()
        return
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy leads to this machine
    try:
        opener.open(address, timeout=TIMEOUT_S).close()
    except HTTPError as error:
        if error.code != HTTPStatus.UNAUTHORIZED:
            raise


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m data.process.alive URL|HOST:PORT", file=sys.stderr)
        return 2
    try:
        check(arguments[0])
    except (OSError, ValueError) as error:
        print(f"{arguments[0]}: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
