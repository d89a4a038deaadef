"""Pictures of product-days: files of the lake, which the Dagster UI serves under its own address."""

from __future__ import annotations

from datetime import date
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from data.names import check_product_id

FOLDER = "pictures"
"""Folder of the pictures in the lake."""
PICTURES = f"/{FOLDER}"
"""Path of the pictures, after the prefix of all paths of the UI."""


def picture_file(product_id: str, day: str) -> str:
    """Return the path of a picture below `FOLDER` of the lake, and below `PICTURES` of the UI.

    Args:
        day: as 2025-01-06.

    Raises:
        ValueError: the product or the day is none.

    >>> picture_file("BTC-USD", "2025-01-06")
    'BTC-USD/2025-01-06.png'
    """
    check_product_id(product_id)
    return f"{product_id}/{date.fromisoformat(day).isoformat()}.png"


def picture_route(path: str, lake_uri: str) -> Route:
    """Return the route of the pictures of a lake, as `path/BTC-USD/2025-01-06.png`."""

    def picture(request: Request) -> Response:
        from offline.lake.objects import Objects  # noqa: PLC0415 - a UI that nobody asks for a picture stays small

        try:
            png = Objects.open(lake_uri).get(f"{FOLDER}/{picture_file(**request.path_params)}")
        except ValueError as error:
            return PlainTextResponse(f"{error}\n", HTTPStatus.NOT_FOUND)
        if png is None:
            return PlainTextResponse("the lake has no picture of this product and day\n", HTTPStatus.NOT_FOUND)
        return Response(png.content, media_type="image/png", headers={"cache-control": "no-cache"})

    return Route(f"{path}/{{product_id}}/{{day}}.png", picture)
