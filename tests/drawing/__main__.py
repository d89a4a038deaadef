"""Draw the dashboards as pictures: `python -m tests.drawing`, or with the `--url` of a Prometheus with data.

Needs npm, Chromium, Prometheus and promtool. Grafana's components are fetched by the lock beside this file into
`var/drawing`; no part of them is committed. Variables have one value each, and annotations are not drawn.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from PIL import Image

from data.files import CHECKOUT
from monitoring.dashboards.__main__ import FOLDER
from tests.plausible import history
from tests.prometheus import REPLACED, prometheus_of, replaced, result_of, results_between

HERE = Path(__file__).parent
TOOLS = CHECKOUT / "var" / "drawing"
WIDTH, CELL, GAP = 1600, 36, 8
"""As in `panels.tsx`: pixels of the page's width, of a grid row, and between panels."""
STEP_S = 30
COLOURS = 256
"""Colours of a picture: few colours make a small file."""
LOADERS = ("svg", "png", "woff2", "ttf", "woff")


def bundle() -> str:
    """Return style and script of a page as HTML, with Grafana's components."""
    TOOLS.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json", "panels.tsx"):
        shutil.copy(HERE / name, TOOLS / name)
    if not (TOOLS / "node_modules").exists():
        subprocess.run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=TOOLS, check=True)
    options = ["--bundle", "--format=iife", "--jsx=automatic", "--log-level=error", "--minify"]
    options += [f"--loader:.{kind}=dataurl" for kind in LOADERS]
    options += ['--define:process.env.NODE_ENV="production"', "--outfile=panels.js"]
    subprocess.run(["node_modules/.bin/esbuild", "panels.tsx", *options], cwd=TOOLS, check=True)
    style, code = ((TOOLS / f"panels.{kind}").read_text() for kind in ("css", "js"))
    code = code.replace("</script", r"<\/script")
    return f"<style>{style}</style><script>{code}</script>"


def series_of(
    url: str, panel: Mapping[str, Any], variables: Mapping[str, str], start: float, end: float
) -> Iterator[dict[str, Any]]:
    """Yield the series of a panel, as Grafana would name them; times in ms."""
    for target in panel.get("targets", ()):
        expr = replaced(target["expr"], variables)
        if target.get("instant") and not target.get("range"):
            found = result_of(url, expr, end)
        else:
            found = results_between(url, expr, start, end, STEP_S)
        for each in found:
            points = each.get("values") or [each["value"]]
            yield {
                "name": _named(target["legendFormat"], each["metric"]),
                "labels": each["metric"],
                "times": [round(at * 1000) for at, _ in points],
                "values": [None if value in ("NaN", "+Inf", "-Inf") else float(value) for _, value in points],
            }


def _named(legend: str, labels: Mapping[str, str]) -> str:
    for name, value in labels.items():
        legend = legend.replace(f"{{{{{name}}}}}", value)
    return legend


def draw(script: str, board: Mapping[str, Any], drawing: Mapping[str, Any], picture: Path) -> None:
    """Write the picture of a dashboard."""
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"]) * CELL + 2 * GAP
    page = TOOLS / f"{picture.stem}.html"
    values = json.dumps(drawing).replace("</", r"<\/")
    page.write_text(
        f'<!doctype html><meta charset="utf-8"><div id="root"></div><script>const DRAWING = {values}</script>{script}'
    )
    subprocess.run(
        [
            shutil.which("chromium") or "google-chrome",
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--virtual-time-budget=8000",
            f"--window-size={WIDTH},{height}",
            f"--screenshot={picture}",
            page.as_uri(),
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    Image.open(picture).convert("RGB").quantize(COLOURS, method=Image.Quantize.FASTOCTREE).save(picture, optimize=True)


def main() -> None:
    """Draw the named dashboards, or all dashboards."""
    parser = argparse.ArgumentParser(prog="python -m tests.drawing", description=__doc__)
    parser.add_argument("names", nargs="*", help="dashboards, as `drift`; none: all")
    parser.add_argument("--url", help="a Prometheus with data; none: one with plausible values is started")
    parser.add_argument("--hours", type=float, default=4.0, help="hours up to now")
    parser.add_argument("--product", default="BTC-USD", help="product of the panels that show one")
    parser.add_argument("--out", type=Path, default=CHECKOUT / "docs")
    asked = parser.parse_args()
    end = float(round(time.time()) // 60 * 60)
    start = end - asked.hours * 3_600
    script = bundle()
    with ExitStack() as stack:
        url = asked.url
        if not url:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            times = [start + STEP_S * step for step in range(round((end - start) / STEP_S) + 1)]
            url = stack.enter_context(prometheus_of(history(times, end), (start, end), STEP_S, folder))
        for path in sorted(FOLDER.glob("*.json")):
            if asked.names and path.stem not in asked.names:
                continue
            board = json.loads(path.read_text())
            every = REPLACED | {"$__rate_interval": f"{4 * STEP_S}s"}
            series = {}
            for panel in board["panels"]:
                variables = every | ({"$product": asked.product} if panel.get("repeat") else {})
                series[panel["id"]] = list(series_of(url, panel, variables, start, end))
            drawing = {
                "dashboard": board,
                "from": start * 1000,
                "to": end * 1000,
                "series": series,
                "variables": {"product": asked.product},
            }
            picture = asked.out / f"dashboard-{path.stem}.png"
            draw(script, board, drawing, picture)
            print(f"{picture} ({picture.stat().st_size // 1000} kB)")


if __name__ == "__main__":
    main()
