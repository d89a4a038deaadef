// The live page: one stream of events in, chart and figures out.

import { Charts, readPalette } from "./charts.js";
import { Connection } from "./connection.js";
import { clock, whole } from "./format.js";
import { askForKey } from "./login.js";
import * as panels from "./panels.js";
import { Store } from "./store.js";
import { drawMisses, drawServed } from "./strips.js";

const { $ } = panels;
const MOST_POINTS = 2000; // of a view
const RECENT_MS = 15 * 60e3;

const page = {
  store: new Store(),
  hello: null,
  state: null,
  stream: null, // of the newest frame
  chosen: null, // by a person; null: the newest stream
  quality: null,
  spanMs: RECENT_MS,
  lostAt: null,
  refusal: null, // reason of the API; null: the API does not answer
  held: null, // while on hold: the number of forecasts at its begin
  cursor: null,
  isDue: false,
};

readPalette();
const charts = makeCharts();

function makeCharts() {
  if (window.uPlot) return new Charts($("price-chart"), $("vol-chart"), (index) => {
    page.cursor = index;
    showReadout();
  });
  $("no-chart").hidden = false;
  $("charts").hidden = true;
  $("strips").querySelectorAll(".strip").forEach((strip) => (strip.hidden = true));
  $("readout").hidden = true;
  $("no-chart").replaceChildren(
    ...panels.codeParts(
      "The chart library is not installed, so there is no chart. All figures go on. `make run` fetches the library over the network; `docs/live-page.md` has the way by hand.",
    ),
  );
  $("values").open = true;
  return null;
}

const connection = new Connection({
  hello(hello) {
    page.hello = hello;
    panels.write($("horizon"), String(hello.horizon_s));
    panels.write($("version"), `cryptovol ${hello.version}`);
  },
  state(state) {
    page.lostAt = null;
    page.state = state;
    drawSoon();
  },
  rows(frame) {
    page.lostAt = null;
    page.store.take(frame);
    page.stream = frame.stream;
    if (frame.quality) page.quality = frame.quality;
    drawSoon();
  },
  lost(since, refusal) {
    page.lostAt = since;
    page.refusal = refusal;
    drawSoon();
  },
  locked() {
    askForKey(() => connection.open(page.chosen));
  },
});

function choose(stream) {
  page.chosen = stream && { product_id: stream.product_id, source_id: stream.source_id };
  history.replaceState(null, "", stream ? `#${new URLSearchParams(page.chosen)}` : location.pathname);
  connection.open(page.chosen);
}

function drawSoon() {
  if (page.isDue) return;
  page.isDue = true;
  requestAnimationFrame(() => {
    page.isDue = false;
    draw();
  });
}

function draw() {
  const { store, hello, state } = page;
  panels.showState(stateNow());
  if (!hello) return;
  if (state) {
    panels.showService(state);
    panels.showSources(state.streams, state.shares, hello.limit_s, page.stream, choose);
    panels.showPicker(state.streams, page.chosen);
    panels.showPages(hello.pages, state.reachable);
    panels.showDrift(state.drift, page.stream?.product_id, state.now);
  }
  const promised = panels.showModel(store.tip, store.models, state, hello.nominal);
  if (page.held !== null) return;
  const tip = store.tip;
  document.title = tip ? `${tip.score.toFixed(2)} bp · ${page.stream.product_id} · cryptovol` : "cryptovol";
  if (!tip) return;
  panels.showTip(tip, store.columns.t.length ? firstRecent() : null, hello.horizon_s);
  panels.showJudged(store.judged, hello.horizon_s);
  panels.showQuality(page.quality, promised, hello.nominal);
  $("price").dataset.tradeId = page.stream.trade_id;
  if ($("values").open) panels.showTable(store);
  drawChart();
}

function firstRecent() {
  const { t } = page.store.columns;
  let i = t.length - 1;
  while (i > 0 && page.store.tip.t - t[i - 1] <= RECENT_MS) i--;
  return page.store.at(i);
}

function drawChart() {
  const { store, hello, state } = page;
  if (!charts) return;
  const spanMs = Math.min(page.spanMs, Math.max(store.spanMs, RECENT_MS)); // no empty hours before the oldest point
  const view = store.view(spanMs, MOST_POINTS, hello.gap_s * 1e3);
  charts.draw(view, spanMs, store.judged);
  drawMisses($("misses"), charts, view);
  drawServed($("served"), charts, view, store.models, state?.moves ?? []);
  showReadout();
}

function showReadout() {
  const view = charts?.data;
  if (!view || !view.t.length || !page.hello) return;
  let i = page.cursor ?? view.t.length - 1;
  if (view.score[i] == null) i = Math.max(0, i - 1);
  const words = panels.readout(pointOf(view, i), judgedFrom(view, i), page.store.models, page.hello.horizon_s);
  panels.write($("readout"), words);
}

function pointOf(view, i) {
  const point = Object.fromEntries(Object.entries(view).map(([name, column]) => [name, column[i]]));
  point.t *= 1e3;
  return point;
}

/** The judged point at an index or soon after: one forecast in each twelfth of a horizon is judged. */
function judgedFrom(view, from) {
  const until = view.t[from] + page.hello.horizon_s / 12;
  for (let i = from; i < view.t.length && view.t[i] < until; i++) {
    if (view.realized[i] != null) return pointOf(view, i);
  }
  return null;
}

/** The state to show: what the browser itself knows goes before what the API says. */
function stateNow() {
  if (page.lostAt !== null && page.refusal !== null) {
    return {
      state: "broken",
      what: `The API at ${location.host} refuses this page: ${page.refusal}.`,
      advice: "This page tries again by itself.",
    };
  }
  if (page.lostAt !== null) {
    return {
      state: "broken",
      what: `The API at ${location.host} has not answered since ${clock(page.lostAt)} UTC.`,
      advice: "Start it again (`make run` does): this page goes on by itself.",
    };
  }
  if (page.held !== null) {
    const waiting = (page.store.tip?.row ?? 0) - page.held.row;
    return {
      state: "held",
      what: `The chart is on hold at ${clock(page.held.t)} UTC; ${whole(waiting)} newer forecasts wait.`,
      advice: "Press Go on, or the key h.",
    };
  }
  return page.state?.state ?? { state: "starting", what: "Connecting to the API.", advice: "" };
}

function hold() {
  page.held = page.held === null && page.store.tip ? { row: page.store.tip.row, t: page.store.tip.t } : null;
  $("hold").setAttribute("aria-pressed", String(page.held !== null));
  panels.write($("hold"), page.held === null ? "Hold" : "Go on");
  drawSoon();
}

function switchTheme() {
  const root = document.documentElement;
  const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = isDark ? "light" : "dark";
  try {
    localStorage.setItem("theme", root.dataset.theme);
  } catch {
    // The choice holds for this visit.
  }
  recolour();
}

function recolour() {
  readPalette();
  charts?.redraw();
  drawSoon();
}

function moveCursor(event) {
  const view = charts?.data;
  if (!view) return;
  const last = view.t.length - 1;
  const at = page.cursor ?? last;
  const step = event.shiftKey ? 10 : 1;
  const targets = { ArrowLeft: at - step, ArrowRight: at + step, Home: 0, End: last };
  if (event.key in targets) {
    event.preventDefault();
    charts.moveTo(targets[event.key]);
  } else if (event.key === "Escape") {
    charts.clearCursor();
  }
}

$("stream").addEventListener("change", (event) => {
  const [product, source] = event.target.value.split(" ");
  choose(source ? { product_id: product, source_id: source } : null);
});
$("hold").addEventListener("click", hold);
$("theme").addEventListener("click", switchTheme);
$("charts").addEventListener("keydown", moveCursor);
$("values").addEventListener("toggle", drawSoon);
document.addEventListener("keydown", (event) => {
  const isText = event.target.closest?.("input, select, textarea");
  if (event.key === "h" && !isText && !event.ctrlKey && !event.metaKey && !event.altKey) hold();
});
for (const button of document.querySelectorAll(".ranges button")) {
  button.addEventListener("click", () => {
    page.spanMs = Number(button.dataset.minutes) * 60e3;
    for (const each of document.querySelectorAll(".ranges button")) each.setAttribute("aria-pressed", String(each === button));
    if (page.held === null) drawSoon();
    else if (page.store.tip) drawChart();
  });
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
addEventListener("resize", drawSoon);

const asked = new URLSearchParams(location.hash.slice(1));
page.chosen = asked.get("product_id") && asked.get("source_id") ? Object.fromEntries(asked) : null;
connection.open(page.chosen);
draw();
