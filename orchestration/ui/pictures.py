"""Pictures of product-days and of tests: files of the lake, which the Dagster UI serves under its own address."""

from __future__ import annotations

from datetime import date
from http import HTTPStatus
from uuid import UUID

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from data.names import check_product_id

FOLDER = "pictures"
"""Folder of the pictures in the lake."""
PICTURES = f"/{FOLDER}"
"""Path of the pictures, after the prefix of all paths of the UI."""
TESTS = "tests"
"""Folder of the pictures of tests, below `FOLDER` of the lake: no product has such a name."""


def file_of_day(product_id: str, day: str) -> str:
    """Return the path of a picture below `FOLDER` of the lake, and below `PICTURES` of the UI.

    Args:
        day: as 2025-01-06.

    Raises:
        ValueError: the product or the day is none.

    >>> file_of_day("BTC-USD", "2025-01-06")
    'BTC-USD/2025-01-06.png'
    """
    check_product_id(product_id)
    return f"{product_id}/{date.fromisoformat(day).isoformat()}.png"


def file_of_test(run_id: str) -> str:
    """Return the path of the picture of a run's test, below `FOLDER` of the lake, and below `PICTURES` of the UI.

    Args:
        run_id: of a run of Dagster.

    Raises:
        ValueError: the id is none.

    >>> file_of_test("5d0c8b1e-0c0a-4f4e-9f57-0a8f3c1e2b7d")
    'tests/5d0c8b1e-0c0a-4f4e-9f57-0a8f3c1e2b7d.png'
    """
    return f"{TESTS}/{UUID(run_id)}.png"


def picture_route(path: str, lake_uri: str) -> Route:
    """Return the route of the pictures of a lake, as `path/BTC-USD/2025-01-06.png`."""

    def picture(request: Request) -> Response:
        from offline.lake.objects import Objects  # noqa: PLC0415 - a UI that nobody asks for a picture stays small

        try:
            png = Objects.open(lake_uri).get(f"{FOLDER}/{_asked_file(**request.path_params)}")
        except ValueError as error:
            return PlainTextResponse(f"{error}\n", HTTPStatus.NOT_FOUND)
        if png is None:
            return PlainTextResponse("the lake has no such picture\n", HTTPStatus.NOT_FOUND)
        return Response(png.content, media_type="image/png", headers={"cache-control": "no-cache"})

    return Route(f"{path}/{{folder}}/{{name}}.png", picture)


def _asked_file(folder: str, name: str) -> str:
    return file_of_test(name) if folder == TESTS else file_of_day(folder, name)
