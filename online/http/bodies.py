"""Read the body of `POST /predict`, and reject bad fields."""

from __future__ import annotations

import json
import math
from functools import cache
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np

from data.features.spec import CONTRACT
from data.trades import Floats

MAX_ROWS = 1_000
MAX_ERRORS = 20
"""Most errors in one answer."""
MAX_VALUE = 1e300


class FieldError(NamedTuple):
    """Name a field of a body, and the problem of the field."""

    field: str
    problem: str


class BadBody(ValueError):
    """Reject a body, with the errors of its fields."""

    def __init__(self, errors: list[FieldError]) -> None:
        super().__init__("; ".join(f"{error.field} {error.problem}" for error in errors))
        self.errors = errors


class RequestRows(NamedTuple):
    """Hold the rows of a request.

    Attributes:
        values: shape (n, k), the model's columns, NaN where a value is missing.
        ignored: for each row, the fields without a column of the model.
    """

    values: Floats
    ignored: list[list[str]]


_decode = msgspec.json.Decoder().decode


@cache
def _decoder(columns: tuple[str, ...]) -> msgspec.json.Decoder[Any]:
    """Return a decoder of good bodies: each value is allowed, the contract is whole, and no field is unknown."""

    def number(name: str) -> Any:
        return Annotated[float, msgspec.Meta(ge=_least(name), le=MAX_VALUE)]

    fields: list[Any] = [(name, number(name)) for name in CONTRACT]
    fields += [(name, number(name) | None, None) for name in columns[len(CONTRACT) :]]
    row = msgspec.defstruct("Row", fields, forbid_unknown_fields=True, gc=False)
    some = Annotated[list[row], msgspec.Meta(min_length=1, max_length=MAX_ROWS)]  # type: ignore[valid-type]
    return msgspec.json.Decoder(msgspec.defstruct("Body", [("rows", some)], forbid_unknown_fields=True))


def read_rows(body: bytes, columns: tuple[str, ...]) -> RequestRows:
    """Read the rows of a body.

    Args:
        columns: of the model, `n`, `ret_mean` and `ret_std` first.

    Raises:
        BadBody: names each wrong field, its value, and the allowed values.
    """
    try:
        found = _decoder(columns).decode(body).rows
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _read_by_field(body, columns)
    if not all(row.n.is_integer() for row in found):
        return _read_by_field(body, columns)
    values = np.array([msgspec.structs.astuple(row) for row in found], np.float64)
    return RequestRows(values, [[]] * len(values))


def _read_by_field(body: bytes, columns: tuple[str, ...]) -> RequestRows:
    """Read any body field by field, for the errors of a bad body and the ignored fields of a good body."""
    try:
        document, not_json = _decode(body), None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        document, not_json = _parsed_leniently(body), str(error)
    rows = _listed(document)
    errors: list[FieldError] = []
    values = [_row(i, row, columns, errors) for i, row in enumerate(rows)]
    if not_json is not None and not errors:
        errors = [FieldError("body", f"must be JSON: {not_json}")]
    if errors:
        raise BadBody(errors[:MAX_ERRORS])
    known = set(columns)
    return RequestRows(np.array(values, np.float64), [[name for name in row if name not in known] for row in rows])


def _parsed_leniently(body: bytes) -> Any:
    """Parse a text that is JSON but for NaN, Infinity or 1e999, so that an error can name the field."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadBody([FieldError("body", f"must be JSON: {error}")]) from error


def _listed(document: Any) -> list[Any]:
    if not isinstance(document, dict):
        raise BadBody([FieldError("body", f"must be an object with a list `rows`, was {_shown(document)}")])
    if "rows" not in document:
        raise BadBody([FieldError("rows", f"is missing; the body has {_shown(sorted(document))}")])
    rows = document["rows"]
    if not isinstance(rows, list):
        raise BadBody([FieldError("rows", f"must be a list of objects, was {_shown(rows)}")])
    if not 1 <= len(rows) <= MAX_ROWS:
        raise BadBody([FieldError("rows", f"must be 1 to {MAX_ROWS} rows, were {len(rows)}")])
    return rows


def _row(place: int, row: Any, columns: tuple[str, ...], errors: list[FieldError]) -> list[float]:
    if not isinstance(row, dict):
        errors.append(FieldError(f"rows[{place}]", f"must be an object, was {_shown(row)}"))
        return []
    values: list[float] = []
    for name in columns:
        value = row.get(name)
        if value is None:
            values.append(math.nan)
        elif (type(value) is float or type(value) is int) and _least(name) <= value <= MAX_VALUE:
            values.append(value)
        else:
            errors.append(FieldError(f"rows[{place}].{name}", f"must be {_allowed(value)}, was {_shown(value)}"))
            return []
    n = values[0]
    if math.isnan(n):
        errors.append(FieldError(f"rows[{place}].n", "is missing; it is how many returns are in the window"))
    elif n != int(n):
        errors.append(FieldError(f"rows[{place}].n", f"must be a whole number, was {n}"))
    elif n >= 1 and math.isnan(values[1]):
        errors.append(FieldError(f"rows[{place}].ret_mean", f"is missing; only n = 0 goes without, n was {n:g}"))
    elif n >= 2 and math.isnan(values[2]):
        errors.append(FieldError(f"rows[{place}].ret_std", f"is missing; only n < 2 goes without, n was {n:g}"))
    return values


def _least(name: str) -> float:
    return -MAX_VALUE if name == "ret_mean" else 0.0


def _allowed(value: Any) -> str:
    """Return the rule that a wrong value breaks, in words."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "a number or null"
    if not abs(value) <= MAX_VALUE:  # not: NaN compares as false
        return "a finite number"
    return "0 or more"


def _shown(value: Any) -> str:
    """Return a value as JSON, cut to 60 characters."""
    try:
        text = json.dumps(value)
    except RecursionError:
        text = f"{type(value).__name__!s} of many levels"
    return text if len(text) <= 60 else text[:57] + "..."
