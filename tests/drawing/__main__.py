"""Draw the dashboards as pictures: `python -m tests.drawing`.

The values come from a Prometheus with data (`--url`), or are generated. Needs npm, Chromium, Prometheus and promtool.
Grafana's components are fetched by the lock beside this file into `var/drawing`; no part of them is committed.
Grafana's own frame of a page is not among these components: title, variables and the marks of annotations are drawn
here.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from PIL import Image

from data.files import CHECKOUT
from monitoring.dashboards.__main__ import FOLDER
from tests.plausible import history
from tests.prometheus import REPLACED, prometheus_of, replaced, result_of, results_between, values_offered

HERE = Path(__file__).parent
TOOLS = CHECKOUT / "var" / "drawing"
WIDTH, TOP, CELL, GAP = 1600, 60, 36, 8
"""As in `panels.tsx`: pixels of the page's width, of title and variables, of a grid row, and between panels."""
SCRAPE_S, GENERATED_S = 5, 30
"""Seconds between two values of a series: scraped, and generated."""
POINTS = 500
"""Most points of a line: a panel has as many pixels."""
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


class Asked:
    """Questions to a Prometheus for a time.

    Attributes:
        start, end: seconds since 1970.
    """

    def __init__(self, url: str, start: float, end: float, every_s: int) -> None:
        self.url, self.start, self.end = url, start, end
        self._step_s = max(every_s, math.ceil((end - start) / POINTS))
        rate_s = max(4 * every_s, self._step_s + every_s)  # as Grafana does
        self._variables = REPLACED | {"$__rate_interval": f"{rate_s}s"}

    def series_of(self, panel: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the series of a panel, as Grafana would name them; times in ms."""
        for target in panel.get("targets", ()):
            expr = replaced(target["expr"], self._variables | {f"${panel.get('repeat')}": panel["picked"]})
            if target.get("instant") and not target.get("range"):
                found = result_of(self.url, expr, self.end)
            else:
                found = results_between(self.url, expr, self.start, self.end, self._step_s)
            for each in found:
                points = each.get("values") or [each["value"]]
                yield {
                    "name": _named(target["legendFormat"], each["metric"]),
                    "labels": each["metric"],
                    "times": [round(at * 1000) for at, _ in points],
                    "values": [None if value in ("NaN", "+Inf", "-Inf") else float(value) for _, value in points],
                }

    def marks_of(self, board: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the annotations of a dashboard; times in ms."""
        found: set[tuple[float, str, str]] = set()
        for each in board["annotations"]["list"]:
            expr = replaced(each["expr"], self._variables)
            for series in results_between(self.url, expr, self.start, self.end, self._step_s):
                text = _named(f"{each['titleFormat']} {each['textFormat']}", series["metric"])
                found |= {(float(value), text, each["iconColor"]) for _, value in series["values"]}
        shown = sorted(mark for mark in found if self.start * 1000 <= mark[0] <= self.end * 1000)
        return [{"time": at, "text": text, "color": colour} for at, text, colour in shown]

    def values_of(self, board: Mapping[str, Any]) -> dict[str, list[str]]:
        """Return the values that each variable of a dashboard offers."""
        return {name: values for name, (_, values) in values_offered(self.url, board, self.end).items()}


def _named(legend: str, labels: Mapping[str, str]) -> str:
    for name, value in labels.items():
        legend = legend.replace(f"{{{{{name}}}}}", value)
    return legend


def with_repeats(panels: Sequence[Mapping[str, Any]], values: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """Return the panels of a dashboard, each repeated panel once for each value, and later panels further down."""
    placed: list[dict[str, Any]] = []
    down = 0
    for panel in panels:
        for number, picked in enumerate(values[panel["repeat"]] if panel.get("repeat") else [""]):
            down += panel["gridPos"]["h"] if number else 0
            place = panel["gridPos"] | {"y": panel["gridPos"]["y"] + down}
            title = panel["title"].replace(f"${panel.get('repeat')}", picked)
            key = f"{panel['id']} {picked}"
            placed.append({**panel, "key": key, "picked": picked, "title": title, "gridPos": place})
    return placed


def draw(script: str, drawing: Mapping[str, Any], picture: Path) -> None:
    """Write the picture of a dashboard."""
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in drawing["panels"])
    height = TOP + rows * CELL + 2 * GAP
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
    parser.add_argument("--url", help="a Prometheus with data; none: generated values")
    parser.add_argument("--hours", type=float, default=4.0, help="hours up to now")
    parser.add_argument("--theme", choices=("dark", "light"), default="dark")
    parser.add_argument("--out", type=Path, default=CHECKOUT / "docs")
    asked = parser.parse_args()
    script = bundle()
    with ExitStack() as opened:
        end = float(round(time.time()) // 60 * 60)
        start = end - asked.hours * 3_600
        url, every_s = asked.url, SCRAPE_S
        if not url:
            every_s = GENERATED_S
            times = [start + every_s * step for step in range(round((end - start) / every_s) + 1)]
            folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
            url = opened.enter_context(prometheus_of(history(times, end), (start, end), every_s, folder))
        prometheus = Asked(url, start, end, every_s)
        for path in sorted(FOLDER.glob("*.json")):
            if asked.names and path.stem not in asked.names:
                continue
            picture = asked.out / f"dashboard-{path.stem}.png"
            draw(script, drawing_of(json.loads(path.read_text()), prometheus, asked.theme), picture)
            print(f"{picture} ({picture.stat().st_size // 1000} kB)")


def drawing_of(board: Mapping[str, Any], prometheus: Asked, theme: str) -> dict[str, Any]:
    """Return the global `DRAWING` of the page, see `panels.tsx`."""
    panels = with_repeats(board["panels"], prometheus.values_of(board))
    shown = [each for each in board["templating"]["list"] if each["type"] == "query"]
    return {
        "title": board["title"],
        "theme": theme,
        "from": prometheus.start * 1000,
        "to": prometheus.end * 1000,
        "panels": panels,
        "series": {panel["key"]: list(prometheus.series_of(panel)) for panel in panels},
        "variables": [[each["label"], each["current"]["text"]] for each in shown],
        "annotations": [each["name"] for each in board["annotations"]["list"]],
        "marks": prometheus.marks_of(board),
    }


if __name__ == "__main__":
    main()
