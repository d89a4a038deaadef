"""Read the body of `POST /predict`, and define the answers with forecasts.

msgspec reads good bodies, since validation by pydantic costs more than a forecast. pydantic reads all other bodies, and
says what is wrong.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, get_type_hints

import msgspec
import numpy as np
from msgspec import Meta, Struct
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, create_model

from data.features.spec import CONTRACT
from data.stream.records import FORECAST_FIELDS, TIMES, RowStart
from data.trades import Floats

MAX_ROWS = 1_000
MAX_ERRORS = 20
"""Most errors in one answer."""
MAX_VALUE = 1e300
SIGNED = ("ret_mean", "trend_", "hour_")
"""Begins of the names of columns that may be below 0."""

TimeText = Annotated[str, Meta(description="RFC 3339 in UTC", extra_json_schema={"format": "date-time"})]
Interval = Annotated[Sequence[float], Meta(min_length=2, max_length=2)]


class FieldError(Struct, frozen=True):
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


class Forecasts(Struct, frozen=True, gc=False):
    """The answer of `POST /predict`: in each list, one element a row."""

    scores: list[float]
    model_variant: str
    version: str
    ts: TimeText
    intervals: list[Interval]
    horizon_s: int
    missing: list[list[str]]
    ignored: list[list[str]]


@cache
def newest_type() -> type[Any]:
    """Return the type of the newest forecast: a record of `predictions`, times as texts, its columns in `features`.

    Forecasts of shadows are left out.
    """
    row = get_type_hints(RowStart, include_extras=True)
    every = [*row.items(), *(field for field in FORECAST_FIELDS if field[0] != "shadow")]
    fields = [(name, TimeText if name in TIMES else hint, *default) for name, hint, *default in every]
    more: list[tuple[str, Any]] = [
        ("features", dict[str, float | None]),
        ("feature_age_s", float),
        ("state", Literal["live", "ended"]),
    ]
    return msgspec.defstruct("NewestForecast", [*fields, *more], kw_only=True)


@cache
def body_type(columns: tuple[str, ...], *, more_fields: bool = True) -> type[Any]:
    """Return the type of a good body: each value is allowed.

    Args:
        columns: `n`, `ret_mean` and `ret_std` first.
        more_fields: a row may have fields that are no column.
    """

    def number(name: str) -> Any:
        return Annotated[float, Meta(ge=_least(name), le=MAX_VALUE)]

    fields: list[Any] = [(name, number(name)) for name in CONTRACT]
    fields += [(name, number(name) | None, None) for name in columns[len(CONTRACT) :]]
    row = msgspec.defstruct("Row", fields, forbid_unknown_fields=not more_fields, gc=False)
    some = Annotated[list[row], Meta(min_length=1, max_length=MAX_ROWS)]  # type: ignore[valid-type]
    return msgspec.defstruct("Body", [("rows", some)], forbid_unknown_fields=not more_fields)


@cache
def _decoder(columns: tuple[str, ...]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(body_type(columns, more_fields=False))


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
    """Read any body, for the errors of a bad body and the ignored fields of a good body."""
    try:
        rows: list[BaseModel] = _model(columns).model_validate_json(body).rows  # type: ignore[attr-defined]
        msgspec.json.decode(body)  # pydantic accepts NaN, which is no JSON, in an unknown field
    except ValidationError as invalid:
        raise BadBody([_field_error(error) for error in invalid.errors(include_url=False)[:MAX_ERRORS]]) from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadBody([FieldError("body", f"must be JSON: {error}")]) from None
    values = [[math.nan if (value := getattr(row, name)) is None else value for name in columns] for row in rows]
    return RequestRows(np.array(values, np.float64), [list(row.model_extra or ()) for row in rows])


@cache
def _model(columns: tuple[str, ...]) -> type[BaseModel]:
    """Return the pydantic model of a body, which accepts what `body_type` accepts, and unknown fields."""

    def number(name: str) -> Any:
        return Annotated[float, Field(ge=_least(name), allow_inf_nan=False), AfterValidator(_not_huge)]

    fields: dict[str, Any] = {name: (number(name) | None, None) for name in columns}
    fields["n"] = (Annotated[number("n"), AfterValidator(_whole)], ...)
    for name, returns in zip(CONTRACT[1:], (1, 2), strict=True):
        needed = AfterValidator(_needed_from(returns))
        fields[name] = (Annotated[number(name) | None, needed], Field(None, validate_default=True))
    config = ConfigDict(strict=True, extra="allow")
    row = create_model("Row", __config__=config, **fields)
    some = Annotated[list[row], Field(min_length=1, max_length=MAX_ROWS)]
    return create_model("Body", __config__=config, rows=(some, ...))


def _least(name: str) -> float:
    return -MAX_VALUE if name.startswith(SIGNED) else 0.0


def _not_huge(value: float) -> float:
    if abs(value) > MAX_VALUE:
        raise ValueError(f"must be a finite number, at most {MAX_VALUE:g}")
    return value


def _whole(value: float) -> float:
    if not value.is_integer():
        raise ValueError("must be a whole number")
    return value


def _needed_from(returns: int) -> Any:
    """Return a validator of a value that may be missing only in windows of fewer returns."""

    def check(value: float | None, info: ValidationInfo) -> float | None:
        if value is None and info.data.get("n", 0) >= returns:
            raise ValueError(f"is missing; only n < {returns} goes without, n was {info.data['n']:g}")
        return value

    return check


def _field_error(error: Any) -> FieldError:
    """Return an error of pydantic with the field's path, as `rows[3].n`, and the rejected value."""
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"]).removeprefix(".")
    kind, message = error["type"], error["msg"].removeprefix("Value error, ")
    if kind == "json_invalid":
        return FieldError("body", f"must be JSON: {message.removeprefix('Invalid JSON: ')}")
    if kind == "missing":
        return FieldError(field, "is missing")
    value = "" if message.startswith("is missing") else f", was {_shown(error['input'])}"
    return FieldError(
        field or "body", f"{message.replace('Input should', 'must').replace('List should', 'must')}{value}"
    )


def _shown(value: Any) -> str:
    """Return a value as JSON, cut to 60 characters."""
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
