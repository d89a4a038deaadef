"""Table of all dialects for people: `python -m data.recordings.dialects.catalog` writes it into docs/recordings.md."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from data.files import CHECKOUT, replacing
from data.recordings.dialects.bars.candles import CANDLES
from data.recordings.dialects.bars.lean import LEAN
from data.recordings.dialects.messages.channels import MESSAGE_DIALECTS
from data.recordings.dialects.messages.kraken import KRAKEN_NAME
from data.recordings.dialects.tables.headerless import FORMS
from data.recordings.dialects.tables.known import MARKERS, TABLES, Table

PAGE: Final = CHECKOUT / "docs" / "recordings.md"
MARKS: Final = ("<!-- table of dialects -->", "<!-- end of the table -->")

_TOLD: Final = {"product_id": "product", "trade_id": "id", "size": "size", "side": "side"}


class Described(NamedTuple):
    """A row of the table: the writer of a file, the form, the marks of the dialect, and the gaps."""

    venue: str
    file: str
    told_by: str
    unknown: str


def described() -> Iterator[Described]:
    """Yield a row for each dialect, trades first."""
    for table in TABLES:
        forms = "CSV, Parquet, JSON" if table.in_json else "CSV, Parquet"
        yield Described(table.venue, forms, _columns_of(table), table.unknown or _unknown(table.needed))
    for form in FORMS:
        table = form.table
        unknown = table.unknown or "the product, where the name of the file does not tell it"
        yield Described(table.venue, "CSV or JSON arrays, no header", f"rows `{','.join(form.names)}`", unknown)
    for dialect in MESSAGE_DIALECTS:
        channel, _, message = dialect.name.removeprefix("NDJSON of the ").partition(": ")
        venue = "Coinbase Advanced Trade" if "Advanced" in channel else "Coinbase Exchange"
        told = re.sub(r" \((.*)\)$", "", message)
        yield Described(venue, f"NDJSON: {channel.removeprefix(venue).strip()}", f"`{told}`", _unknown(dialect.columns))
    venue, _, message = KRAKEN_NAME.partition(" REST trades: ")
    yield Described(venue, "JSON: responses of REST trades", f"`{message}`", "")
    for bars in (*CANDLES, *LEAN):
        yield Described(*bars)


def _columns_of(table: Table) -> str:
    needed = [names[0] for field, names in table.needed.items() if field not in MARKERS]
    markers = [" or ".join(f"`{name}`" for name in table.needed[mark]) for mark in MARKERS if mark in table.needed]
    return ", ".join([*(f"`{name}`" for name in needed), *markers])


def _unknown(columns: Mapping[str, Any]) -> str:
    return ", ".join(name for field, name in _TOLD.items() if field not in columns)


def markdown() -> str:
    """Return the table in Markdown."""
    rows = ["| venue | file | told apart by | does not tell |", "|---|---|---|---|"]
    rows += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in described()]
    return "\n".join(rows) + "\n"


def with_table(page: str) -> str:
    """Return a page with the table between its marks."""
    before, rest = page.split(MARKS[0] + "\n")
    return f"{before}{MARKS[0]}\n\n{markdown()}\n{MARKS[1]}{rest.partition(MARKS[1])[2]}"


def main(page: Path = PAGE) -> None:
    made = with_table(page.read_text())
    with replacing(page) as file:
        file.write(made.encode())


if __name__ == "__main__":
    main()
