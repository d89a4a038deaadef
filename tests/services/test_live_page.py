"""The live page: the API in a process of its own, a real broker, and a real browser."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import math
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from data.features.spec import FeatureSpec
from data.stream.records import PREDICTIONS
from data.stream.topics.creation import create_topics
from data.times import NS, time_text
from data.truth.counting import counted_rows
from data.truth.targets import target_volatility
from online.http.live_page import LIBRARY, MAX_BROWSERS
from online.keys.ring import hash_line, new_key
from tests.broker import Broker, running_broker
from tests.browser import Errors, heap_mb, running_browser
from tests.pipeline import environment, read_topic, replay, running, wait_until
from tests.proofs import Proof
from tests.services.test_api import Api, a_record, check_problem, put, recording, running_api

SPEC = FeatureSpec()
START_NS = 1_741_183_200_000_000_000
LIMIT_S = 3.0


@pytest.fixture(scope="module")
def page_broker(tmp_path_factory: pytest.TempPathFactory, jars: list[Path]) -> Iterator[Broker]:
    """Run a broker for this file: it is killed, and its topics hold nothing but the page's records."""
    with running_broker(tmp_path_factory.mktemp("page-kafka"), jars) as broker:
        create_topics({"bootstrap.servers": broker.bootstrap_servers})
        yield broker


@pytest.fixture(scope="module")
def page_environment(page_broker: Broker, models: Path) -> dict[str, str]:
    return environment(page_broker.bootstrap_servers, models, MAX_FEATURE_AGE_S=str(LIMIT_S))


@pytest.fixture(scope="module")
def api(page_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running_api(page_environment, tmp_path_factory.mktemp("page") / "api.log", "online.api") as api:
        wait_until(api.is_healthy, "the API is healthy")
        yield api


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with running_browser() as browser:
        yield browser


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """Yield an empty page of a new visitor."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    yield context.new_page()
    context.close()


class Feed:
    """Publish forecasts of one stream, with a price that wanders."""

    def __init__(self, broker: Broker, source_id: str, step_s: float = 0.1) -> None:
        self._broker, self.source_id, self._step_ns = broker, source_id, int(step_s * 1e9)
        self.rows = 0

    def put(self, rows: int = 1, **more: Any) -> int:
        """Publish rows, and return the trade id of the last."""
        records = []
        for _ in range(rows):
            self.rows += 1
            price = 100.0 * math.exp(2e-4 * math.sin(self.rows / 37) + 1e-4 * math.sin(self.rows / 3.1))
            at = {"event_time": START_NS + self.rows * self._step_ns, "trade_id": self.rows, "price": price}
            records.append(a_record(self.source_id, "PAGE-USD", **at, **more))
        put(self._broker, *records)
        return self.rows

    def end(self) -> None:
        put(self._broker, a_record(self.source_id, "PAGE-USD", end=True))


def await_trade(page: Any, trade_id: int, within_s: float = 20.0) -> None:
    page.wait_for_selector(f"#price[data-trade-id='{trade_id}']", timeout=1e3 * within_s)


def await_script(page: Any, expression: str) -> None:
    """Wait until an expression is true; Playwright's own way is forbidden by the page's policy."""
    wait_until(lambda: page.evaluate(expression), expression, within_s=10)


def await_state(page: Any, state: str, within_s: float = 20.0) -> float:
    """Return the seconds until the page shows a state."""
    began = time.monotonic()
    page.wait_for_selector(f"#pill[data-state={state}]", timeout=1e3 * within_s)
    return time.monotonic() - began


def await_live(page: Any, feed: Feed) -> None:
    """Publish until the page shows a live stream: a record is fresh for `LIMIT_S` alone."""

    def is_live() -> bool:
        feed.put()
        return bool(page.locator("#pill[data-state=live]").count())

    wait_until(is_live, "the page is live")


def events_of(api: Api, wanted: Callable[[dict[str, list[Any]]], bool], query: str = "") -> dict[str, list[Any]]:
    """Read the stream until enough has come; return the data by the name of the event."""
    found: dict[str, list[Any]] = {"hello": [], "state": [], "rows": []}
    with api.client.stream("GET", f"/live/events{query}") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        name = ""
        for line in answer.iter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                found[name].append(json.loads(line.removeprefix("data: ")))
                if wanted(found):
                    break
    return found


# The files


def test_the_page_loads_from_its_own_origin_alone(api: Api) -> None:
    answer = api.get("/")
    assert answer.status_code == 200
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert {policy[name] for name in ("script-src", "style-src", "connect-src", "img-src")} == {"'self'"}
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert not re.search(r"(src|href)=\"(https?:)?//", answer.text)
    assert not re.search(r"<script(?![^>]* src=)|\sstyle=|\son\w+=", answer.text), "the policy forbids inline code"


def test_a_file_is_sent_once(api: Api) -> None:
    answer = api.get("/static/main.js")
    again = api.client.get("/static/main.js", headers={"if-none-match": answer.headers["etag"]})
    assert (answer.status_code, again.status_code, again.content) == (200, 304, b"")


@pytest.mark.parametrize(
    "name", ["nothing.js", "package.json", "..%2Fstatic%2Fmain.js", "%2e%2e", ".", "long" * 100 + ".js", "%00.js"]
)
def test_no_other_file_is_served(api: Api, name: str) -> None:
    check_problem(api.get(f"/static/{name}"), 404)


# The stream


def test_frames_of_a_replay_hold_the_forecasts_and_targets_of_the_topic(
    online: dict[str, str], broker: Broker, tmp_path: Path
) -> None:
    """The real pipeline: ingestor, forecaster, topic, API."""
    file = recording(tmp_path, "LIVEPAGE-USD", 3_000)
    with running(process := replay(online, tmp_path, "live-page", file)):
        assert process.process.wait(60) == 0, process.log.read_text()
    query = "?product_id=LIVEPAGE-USD&source_id=live-page"
    with running_api(online, tmp_path / "api.log", "online.api") as api:
        wait_until(api.is_healthy, "the API is healthy")

        def is_whole(found: dict[str, list[Any]]) -> bool:
            return bool(found["rows"] and found["state"]) and is_end(found["rows"][-1]["stream"])

        def is_end(stream: dict[str, Any]) -> bool:
            """Return whether a frame is of the ended replay; until its first forecast, frames are of another stream."""
            return bool(stream["source_id"] == "live-page" and stream["has_ended"])

        found = wait_until(lambda: is_end((e := events_of(api, is_whole, query))["rows"][0]["stream"]) and e, "all")
    records = [r for r in read_topic(broker.bootstrap_servers, PREDICTIONS, "live-page") if "end" not in r]
    times = np.array([record["event_time"] for record in records])
    targets = target_volatility(times, np.array([record["price"] for record in records]), SPEC)
    counted = counted_rows(times, SPEC)
    judged = counted[~np.isnan(targets[counted])]
    [frame] = found["rows"]
    assert len(judged) > 30
    assert frame["judged"] == {"row": judged.tolist(), "realized": np.round(1e4 * targets[judged], 4).tolist()}
    points = frame["points"]
    assert points["score"] == [round(1e4 * records[row]["score"], 4) for row in points["row"]]
    assert points["price"] == [records[row]["price"] for row in points["row"]]
    target = targets[judged]
    lower, upper = np.array([records[row]["interval"] for row in judged]).T
    assert frame["quality"]["all"]["coverage"] == pytest.approx(np.mean((lower <= target) & (target <= upper)))
    assert frame["stream"]["trade_id"] == records[-1]["trade_id"]
    assert found["state"][0]["state"]["state"] == "ended"
    assert found["hello"][0]["horizon_s"] == 60


def test_a_stream_is_no_request_and_costs_no_health(api: Api) -> None:
    events_of(api, lambda found: len(found["state"]) >= 2)
    assert '"/live/events"' not in api.get("/metrics").text
    assert "/live/events" not in api.get("/metrics").text
    assert api.is_healthy()


def test_a_name_that_cannot_be_is_refused(api: Api) -> None:
    check_problem(api.get("/live/events?product_id=btc&source_id=a"), 422)


@pytest.mark.parametrize("module", ["online.api", "uvicorn"])
def test_an_open_stream_does_not_keep_the_api_from_ending(
    page_environment: dict[str, str], tmp_path: Path, module: str
) -> None:
    with running_api(page_environment, tmp_path / "api.log", module) as api:
        heard, ended = threading.Event(), threading.Event()

        def listen() -> None:
            with httpx.stream("GET", f"{api.client.base_url}/live/events", timeout=30) as answer:
                for _ in answer.iter_lines():
                    heard.set()
            ended.set()

        threading.Thread(target=listen, daemon=True).start()
        assert heard.wait(10)
        began = time.monotonic()
        api.process.stop(within_s=10)
        assert time.monotonic() - began < 3, "the open stream was waited for"
        assert ended.wait(1), "the browser is told by the end of the stream"
    assert "Traceback" not in api.process.log.read_text()


# The page


def test_empty_then_live_then_ended_each_say_what_is_the_matter(
    page_environment: dict[str, str], jars: list[Path], models: Path, tmp_path: Path, browser: Any
) -> None:
    with running_broker(tmp_path / "kafka", jars) as broker:
        create_topics({"bootstrap.servers": broker.bootstrap_servers})
        environ = environment(broker.bootstrap_servers, models, MAX_FEATURE_AGE_S=str(LIMIT_S))
        with running_api(environ, tmp_path / "api.log", "online.api") as api:
            page = browser.new_page()
            errors = Errors(page)
            page.goto(str(api.client.base_url))
            await_state(page, "empty")
            assert "no trade has come in" in page.inner_text("#notice")
            assert "make run" in page.inner_text("#notice")
            feed = Feed(broker, "first")
            await_trade(page, feed.put(50))
            await_live(page, feed)
            assert not page.is_visible("#notice")
            await_state(page, "paused")
            assert "no ingestor has written" in page.inner_text("#notice")
            assert "REPLAY_ID=first" in page.inner_text("#notice")
            feed.end()
            await_state(page, "ended")
            assert "has ended" in page.inner_text("#announce"), "a screen reader is told too"
            assert errors == []
            page.close()


def test_first_paint_and_a_new_forecast_each_within_a_second(
    api: Api, page_broker: Broker, page: Any, proof: Proof
) -> None:
    errors = Errors(page)
    feed = Feed(page_broker, "fresh")
    await_url = str(api.client.base_url)
    page.goto(await_url)
    paint_ms = page.evaluate(
        "new Promise(done => new PerformanceObserver(seen => done(seen.getEntries()[0].startTime))"
        ".observe({type: 'paint', buffered: true}))"
    )
    await_trade(page, feed.put())
    delays = []
    for _ in range(12):
        time.sleep(0.13)
        began = time.monotonic()
        await_trade(page, feed.put())
        delays.append(time.monotonic() - began)
    proof.saw(
        first_paint_ms=round(paint_ms), seen_median_s=round(sorted(delays)[6], 2), seen_max_s=round(max(delays), 2)
    )
    assert paint_ms <= 1_000
    assert max(delays) <= 1.0
    assert errors == []


def test_a_killed_broker_is_said_within_5_s_and_the_page_goes_on_by_itself(
    api: Api, page_broker: Broker, page: Any, proof: Proof
) -> None:
    proof.disturbs("broker killed")
    feed = Feed(page_broker, "killed")
    page.goto(str(api.client.base_url))
    await_trade(page, feed.put(20))
    await_live(page, feed)
    page_broker.kill()
    try:
        said_s = await_state(page, "broken")
        assert "The broker at" in page.inner_text("#notice")
    finally:
        page_broker.start()
    began = time.monotonic()
    await_live(page, feed)
    await_trade(page, feed.put())
    proof.saw(said_s=round(said_s, 2), back_s=round(time.monotonic() - began, 2))
    assert said_s <= 5


def test_a_lost_api_is_said_and_the_page_comes_back_by_itself(
    page_environment: dict[str, str], page_broker: Broker, page: Any, tmp_path: Path, proof: Proof
) -> None:
    proof.disturbs("API killed")
    with running_api(page_environment, tmp_path / "api.log", "online.api") as api:
        feed = Feed(page_broker, "lost")
        page.goto(str(api.client.base_url))
        await_trade(page, feed.put(20))
        api.process.kill()
        said_s = await_state(page, "broken")
        assert "has not answered since" in page.inner_text("#notice")
        with running(api.process):
            await_trade(page, feed.put(5), within_s=60)
            await_live(page, feed)
    proof.saw(said_s=round(said_s, 2))
    assert said_s <= 5


def test_a_browser_too_many_is_told_the_reason_and_gets_in_later(
    api: Api, page_broker: Broker, page: Any, tmp_path: Path
) -> None:
    with contextlib.ExitStack() as others:
        for _ in range(MAX_BROWSERS):
            others.enter_context(api.client.stream("GET", "/live/events"))
        page.goto(str(api.client.base_url))
        page.wait_for_selector("#notice:has-text('32 browsers look at the live page already')", timeout=20e3)
    await_live(page, Feed(page_broker, "crowd"))


def test_phone_theme_keyboard_and_table(api: Api, page_broker: Broker, browser: Any) -> None:
    feed = Feed(page_broker, "phone")
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme="dark", has_touch=True)
    page = context.new_page()
    errors = Errors(page)
    page.goto(str(api.client.base_url))
    await_trade(page, feed.put(1_500))
    assert page.evaluate("document.documentElement.scrollWidth") <= 390, "nothing is wider than a phone"
    background = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(background)
    page.click("#theme")
    light = page.evaluate(background)
    assert dark != light
    page.reload()
    await_trade(page, feed.rows)
    assert page.evaluate(background) == light, "the choice stays"
    page.click("#values summary")
    await_script(page, "document.querySelectorAll('#rows tr').length === 24")
    verdicts = set(page.locator("#rows td:nth-child(6)").all_inner_texts())
    assert {"open"} < verdicts <= {"open", "inside", "above", "below"}
    assert page.evaluate("document.querySelectorAll('button:not([type]), img:not([alt])').length") == 0
    page.keyboard.press("h")
    await_state(page, "held")
    feed.put(3)
    await_script(page, "document.getElementById('notice').innerText.includes('3 newer forecasts wait')")
    page.keyboard.press("h")
    await_trade(page, feed.rows)
    if LIBRARY.is_dir():
        newest = page.inner_text("#readout")
        page.focus("#charts")
        page.keyboard.press("Home")
        await_script(page, f"document.getElementById('readout').innerText !== {json.dumps(newest)}")
        assert re.search(
            r"realized \S+ \(\S+ % a year\), (inside|above|below) at 14:00:05", page.inner_text("#readout")
        )
    assert errors == []
    context.close()


def test_a_page_without_its_chart_library_says_so_and_shows_the_figures(
    api: Api, page_broker: Broker, page: Any
) -> None:
    page.route("**/static/uplot.js", lambda route: route.fulfill(status=404))
    page.goto(str(api.client.base_url))
    await_trade(page, Feed(page_broker, "bare").put(1_500))
    assert "chart library is not installed" in page.inner_text("#no-chart")
    await_script(page, "document.querySelectorAll('#rows tr').length === 24")


def test_a_change_of_model_and_two_sources_are_told_apart(api: Api, page_broker: Broker, page: Any) -> None:
    first, second = Feed(page_broker, "one"), Feed(page_broker, "two")
    first.put(300)
    page.goto(str(api.client.base_url))
    await_trade(page, second.put(400))
    await_trade(page, second.put(400, version="2"))
    if LIBRARY.is_dir():
        await_script(page, "document.querySelectorAll('#served .span').length === 2")
        assert page.inner_text("#served").split("\n")[-1].endswith("baseline 2")
    assert page.inner_text("#model .big") == "baseline 2"
    page.select_option("#stream", "PAGE-USD one")
    await_trade(page, first.rows)
    page.reload()
    await_trade(page, first.rows)
    assert "source_id=one" in page.url, "the address names the choice"


def test_open_replays_have_their_progress_and_an_unknown_total_is_said(
    api: Api, page_broker: Broker, page_environment: dict[str, str], page: Any, tmp_path: Path
) -> None:
    """A real ingestor, paced: 100 s of event time, at twice the recorded pace."""
    errors = Errors(page)
    part, feed = Feed(page_broker, "part"), Feed(page_broker, "feed")
    file = tmp_path / "part.csv"
    file.write_text("timestamp,price,volume\n" + "".join(f"{time_text(START_NS + i * NS)},100,1\n" for i in range(100)))
    process = replay(page_environment, tmp_path, "part", file, REPLAY_SPEED="2")
    page.goto(str(api.client.base_url))

    def cell_of(source_id: str) -> Any:
        return page.locator(f"#sources tr:has(td:text('{source_id} ·')) td.progress")

    def percent() -> float:
        """Return the shown progress; 0 while none is shown."""
        part.put()
        found = re.fullmatch(r"([\d.]+) %", cell_of("part").inner_text().strip()) if cell_of("part").count() else None
        return float(found[1]) if found else 0.0

    await_trade(page, feed.put())
    with running(process):
        first = wait_until(percent, "the page shows a progress")
        then = wait_until(lambda: (now := percent()) > first and now, "the progress rises", 30)
        assert 0 < first < then < 100
        bar = cell_of("part").locator("progress")
        assert bar.get_attribute("aria-label") == "Progress of part"
        assert bar.evaluate("bar => bar.value") == pytest.approx(then / 100, abs=0.2)
        assert bar.evaluate("bar => bar.getBoundingClientRect().width") > 40
        process.kill()
    assert percent() >= then, "a paused replay keeps its progress"
    assert cell_of("feed").inner_text() == "no known total"
    assert cell_of("feed").locator("progress").count() == 0
    feed.end()
    wait_until(lambda: cell_of("feed").inner_text() == "–", "an ended source has no progress")
    again = replay(page_environment, tmp_path, "part", file, REPLAY_SPEED="max")
    with running(again):
        assert again.process.wait(30) == 0, again.log.read_text()
    assert "resumes_after" in again.log.read_text(), "the note of the recordings is another one"
    assert errors == []


def test_the_verdict_of_a_drift_report_names_the_column_that_drifts(api: Api, page: Any) -> None:
    page.goto(str(api.client.base_url))

    def said(ratio: float, **flags: float) -> tuple[str, str]:
        figures = [{"name": name, "value": value} for name, value in flags.items()]
        figures += [
            {"name": "drift_ratio", "column": "ret_std", "view": "change", "value": ratio},
            {"name": "drift_ratio", "column": "qlike", "view": "loss", "value": 1.4},
        ]
        drift = {"figures": [{"product_id": "A", "at": 0} | each for each in figures]}
        show = "panels.showDrift(drift, 'A', 0); const head = document.querySelector('#drift p')"
        script = f"async drift => {{ const panels = await import('/static/panels.js'); {show}; "
        text, alarm = page.evaluate(script + "return [head.innerText, head.dataset.alarm]; }", drift)
        return text.removesuffix(", report of 00:00 UTC"), alarm

    assert said(0.9, drift_alarm=0) == ("no drift", "no")
    assert said(0.9, drift_alarm=0, drift_loss_alarm=1) == ("no drift, but more loss than usual", "no")
    assert said(1.2, drift_alarm=1, drift_loss_alarm=0) == ("drift of ret_std", "yes")
    assert said(1.2, drift_alarm=1, drift_with_loss=1) == ("drift of ret_std with loss within three hours", "yes")
    assert said(0.8, drift_alarm=0, drift_with_loss=1) == ("drift with loss within three hours", "yes")


def test_nine_thousand_forecasts_leave_no_trace_in_the_heap(
    api: Api, page_broker: Broker, page: Any, proof: Proof
) -> None:
    """A quarter of an hour of event time at ten rows a second, thirty times as fast."""
    feed = Feed(page_broker, "heap")
    page.goto(str(api.client.base_url))
    await_trade(page, feed.put(100))
    before = heap_mb(page)
    for _ in range(90):
        feed.put(100)
        time.sleep(0.25)
    await_trade(page, feed.rows)
    grown = heap_mb(page) - before
    proof.saw(rows=feed.rows, heap_before_mb=round(before, 2), heap_grown_mb=round(grown, 2))
    assert grown <= 10


@pytest.mark.acceptance
def test_a_quarter_of_an_hour_at_ten_rows_a_second_costs_10_mb_at_most(
    api: Api, page_broker: Broker, page: Any, proof: Proof
) -> None:
    feed = Feed(page_broker, f"quarter-{dt.datetime.now():%H%M%S}")
    page.goto(str(api.client.base_url))
    await_trade(page, feed.put(10))
    before, began, delays = heap_mb(page), time.monotonic(), []
    while time.monotonic() - began < 900:
        due = began + feed.rows / 10
        time.sleep(max(0.0, due - time.monotonic()))
        trade_id, sent = feed.put(), time.monotonic()
        if trade_id % 100 == 0:
            await_trade(page, trade_id)
            delays.append(time.monotonic() - sent)
    grown = heap_mb(page) - before
    proof.saw(rows=feed.rows, heap_grown_mb=round(grown, 2), seen_max_s=round(max(delays), 2))
    assert feed.rows >= 8_500
    assert grown <= 10
    assert max(delays) <= 1.0


def test_a_page_of_an_api_with_keys_asks_for_one_and_the_browser_stays_logged_in(
    page_environment: dict[str, str], page_broker: Broker, page: Any, tmp_path: Path
) -> None:
    """No script can read the cookie, and another tab needs no second login."""
    key = new_key()
    keys = {"API_KEYS": hash_line("desk", key), "API_COOKIE_SECRET": "a secret of all replicas"}
    feed = Feed(page_broker, "login")
    with running_api(page_environment | keys, tmp_path / "api.log", "online.api") as api:
        page.goto(str(api.client.base_url))
        page.wait_for_selector("#login:not([hidden])", timeout=20e3)
        page.wait_for_selector("#notice:has-text('a key is needed')")
        page.fill("#key", "wrong")
        page.keyboard.press("Enter")
        page.wait_for_selector("#login-problem:has-text('this key is not known')")
        page.fill("#key", key)
        page.keyboard.press("Enter")
        page.wait_for_selector("#login", state="hidden")
        await_live(page, feed)
        assert page.evaluate("document.cookie") == ""
        assert page.evaluate("document.getElementById('key').value") == ""
        (cookie,) = page.context.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/live")
        other = page.context.new_page()
        errors = Errors(other)
        other.goto(str(api.client.base_url))
        await_live(other, feed)
        assert other.is_hidden("#login")
        assert errors == []
