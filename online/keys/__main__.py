"""Make a key for a client of the API: `python -m online.keys new NAME`."""

from __future__ import annotations

import argparse
import sys

from online.keys.ring import check_name, hash_line, new_key


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m online.keys", description=__doc__)
    commands = parser.add_subparsers(required=True)
    new = commands.add_parser("new", help="print a new key once, and its line for API_KEYS")
    new.add_argument("name", help="of the client: letters, digits, dots, hyphens, underscores")
    name = parser.parse_args(arguments).name
    try:
        check_name(name)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    key = new_key()
    print(f"key of {name}, shown only now; the client sends it as `Authorization: Bearer KEY`:\n{key}\n")
    print(f"its hash, another entry of API_KEYS or another line of the file in API_KEYS_FILE:\n{hash_line(name, key)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
