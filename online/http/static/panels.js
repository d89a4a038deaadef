// The figures beside the chart. Text is written only where it changes.

import * as f from "./format.js";
import { verdict } from "./store.js";

const SHOWN_COLUMNS = 8;
const TABLE_ROWS = 24; // the first twelve are not judged yet
const ALARMING = ["change", "spread", "loss"]; // views of drift that raise an alarm; the level is a mark beside the bar

export const $ = (id) => document.getElementById(id);

export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function make(tag, text, className) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  return element;
}

/** Replace the children of an element if `key` has changed since the last call. */
function replace(element, key, children) {
  if (element.dataset.key === key) return;
  element.dataset.key = key;
  element.replaceChildren(...children());
}

export function showState({ state, what, advice }) {
  const names = { live: "live", starting: "starting", empty: "no data", stale: "stale", paused: "paused", ended: "ended", broken: "broken", held: "on hold" };
  const pill = $("pill");
  if (pill.dataset.state !== state) {
    pill.dataset.state = document.body.dataset.state = state;
    write($("announce"), `${what} ${advice.replaceAll("`", "")}`); // once: the ages in a notice change each second
  }
  write($("pill-text"), names[state]);
  const notice = $("notice");
  notice.hidden = state === "live";
  notice.dataset.state = state;
  if (state !== "live") {
    write($("notice-what"), what);
    replace($("notice-advice"), advice, () => codeParts(advice));
  }
}

/** Text with `code` in marks, as nodes. */
export function codeParts(text) {
  return text.split("`").map((part, i) => (i % 2 ? make("code", part) : document.createTextNode(part)));
}

/** The newest forecast. `first` is the oldest point of the recent past. */
export function showTip(tip, first, horizonS) {
  write($("price"), f.price(tip.price));
  const moved = first ? 1e4 * Math.log(tip.price / first.price) : null;
  write($("price-note"), moved == null ? "" : `${moved >= 0 ? "+" : "−"}${Math.abs(moved).toFixed(1)} bp in ${f.age((tip.t - first.t) / 1e3)}`);
  write($("score"), f.bp(tip.score));
  write($("score-note"), `${f.bp(tip.lower)} to ${f.bp(tip.upper)} · ${f.annualized(tip.score, horizonS)}${tip.in_sample ? " · in-sample" : ""}`);
  $("score").parentElement.title = `${f.annualized(tip.lower, horizonS)} to ${f.annualized(tip.upper, horizonS)}`;
  write($("clock"), f.dayAndClock(tip.t));
}

export function showJudged(judged, horizonS) {
  if (!judged) {
    write($("realized"), f.MISSING);
    write($("realized-note"), "known when the first horizon has passed");
    return;
  }
  const side = verdict(judged);
  write($("realized"), f.bp(judged.realized));
  const words = { inside: "inside the band", above: "above the band", below: "below the band" };
  write($("realized-note"), `${words[side]} of ${f.clock(judged.t)}`);
  $("realized").parentElement.title = f.annualized(judged.realized, horizonS);
  $("realized-note").dataset.side = side;
}

/** Coverage and QLIKE of the model's last hour against what its test promised. */
export function showQuality(quality, promised, nominal) {
  const hour = quality?.hour;
  const all = quality?.all;
  const since = (name, text) => (all ? `; so far ${text(all[name])} in ${f.whole(all.horizons)} horizons` : "");
  write($("coverage"), f.percent(hour?.coverage));
  gauge($("coverage-gauge"), "coverage", hour?.coverage, promised?.coverage, nominal, f.percent);
  write(
    $("coverage-note"),
    hour ? `${f.percent(hour.below)} below, ${f.percent(hour.above)} above${since("coverage", f.percent)}` : "no forecast is judged yet",
  );
  write($("qlike"), f.qlike(hour?.qlike));
  gauge($("qlike-gauge"), "QLIKE", hour?.qlike, promised?.qlike, null, f.qlike);
  const why = hour ? "the model's file names no variance floor" : "no forecast is judged yet";
  write($("qlike-note"), hour?.qlike == null ? why : `0 is perfect${since("qlike", f.qlike)}`);
}

/** A line from low to high with the promised range, its median, and the value of now. */
function gauge(box, name, value, promised, nominal, text) {
  const known = [value, ...(promised ?? []), nominal].filter((each) => each != null);
  const key = known.join();
  replace(box, key, () => {
    if (value == null || known.length < 2) return [];
    const low = Math.min(...known);
    const high = Math.max(...known);
    const pad = 0.12 * (high - low) || 0.01;
    const at = (each) => `${(100 * (each - low + pad)) / (high - low + 2 * pad)}%`;
    const parts = [make("span", undefined, "rail")];
    let words = `${name} ${text(value)}`;
    if (promised) {
      const range = make("span", undefined, "range");
      range.style.left = at(promised[0]);
      range.style.right = `calc(100% - ${at(promised[2])})`;
      const median = make("span", undefined, "median");
      median.style.left = at(promised[1]);
      parts.push(range, median);
      words += `; hours of the test: ${text(promised[0])} to ${text(promised[2])}, median ${text(promised[1])}`;
    } else if (nominal != null) {
      const line = make("span", undefined, "median");
      line.style.left = at(nominal);
      parts.push(line);
      words += `; nominal ${text(nominal)}`;
    }
    const isOut = promised && (name === "QLIKE" ? value > promised[2] : value < promised[0]);
    const now = make("span", undefined, isOut ? "now out" : "now");
    now.style.left = at(value);
    parts.push(now);
    box.title = words;
    box.setAttribute("role", "img");
    box.setAttribute("aria-label", words);
    return parts;
  });
}

export function showModel(tip, models, state, nominal) {
  const box = $("model");
  const [variant, version] = tip ? models[tip.model] : [state?.model?.model_variant, state?.model?.version];
  if (!variant) {
    replace(box, "", () => [make("p", "No model serves yet.", "quiet")]);
    return undefined;
  }
  const facts = state?.versions.find((each) => each.model_variant === variant && each.version === version);
  const serving = state?.model;
  const other = serving && (serving.model_variant !== variant || serving.version !== version) ? serving : null;
  const key = JSON.stringify([variant, version, facts, other?.version, other?.model_variant, serving?.origin]);
  replace(box, key, () => {
    const list = make("dl");
    const add = (name, text, title) => {
      const value = make("dd", text);
      if (title) value.title = title;
      list.append(make("dt", name), value);
    };
    if (facts?.digest) add("file", `${facts.digest.slice(0, 12)}…`, facts.digest);
    if (facts?.train_end) add("trained to", facts.train_end.slice(0, 16).replace("T", " "));
    if (facts?.variance_floor) add("variance floor", `${f.bp(1e4 * Math.sqrt(facts.variance_floor))} bp/min`);
    if (!other && serving) add("from", serving.origin === "disk" ? "disk: the registry is away" : "the registry");
    const promise = (name, text) => {
      const found = facts?.promised[name];
      return found ? `${text(found[1])} (${text(found[0])}–${text(found[2])})`.replaceAll(" %", "") : undefined;
    };
    add("promised coverage, %", promise("coverage", f.percent) ?? f.percent(nominal), "median of the test's hours (5 to 95 %), else nominal");
    add("promised QLIKE", promise("qlike", f.qlike) ?? "not stated", "median of the test's hours (5 to 95 %)");
    const found = [make("p", `${variant} ${version}`, "big"), list];
    if (other) found.push(make("p", `/predict is answered by ${other.model_variant} ${other.version}.`, "quiet"));
    return found;
  });
  return facts?.promised;
}

export function showDrift(drift, productId, now) {
  const box = $("drift");
  const own = drift?.figures.filter((each) => each.product_id === productId) ?? [];
  const columns = new Map();
  for (const each of own.filter((figure) => figure.name === "drift_ratio")) {
    const shown = columns.get(each.column) ?? { ratio: -1, view: "", level: null };
    if (each.view === "level") shown.level = each.value;
    else if (ALARMING.includes(each.view) && each.value > shown.ratio) Object.assign(shown, { ratio: each.value, view: each.view });
    columns.set(each.column, shown);
  }
  const rows = [...columns].filter(([, { ratio }]) => ratio >= 0).sort(([, a], [, b]) => b.ratio - a.ratio);
  if (!rows.length) {
    replace(box, `none ${productId}`, () => [make("p", "No drift report yet: Dagster makes one each hour.", "quiet")]);
    return;
  }
  const value = (name) => own.find((each) => each.name === name)?.value;
  const at = Math.max(...own.map((each) => each.at));
  const [word, isAlarm] = driftWords(value, rows.find(([, { view }]) => view !== "loss"));
  const key = JSON.stringify([rows, word, at, Math.floor((now - at) / 60e3)]);
  replace(box, key, () => {
    const top = Math.max(1.5, rows[0][1].ratio * 1.05);
    const list = make("ul", undefined, "bars");
    for (const [name, { ratio, view, level }] of rows.slice(0, SHOWN_COLUMNS)) {
      const row = make("li");
      const rail = make("span", undefined, "rail");
      const bar = make("span", undefined, ratio >= 1 ? "bar over" : "bar");
      bar.style.width = `${(100 * ratio) / top}%`;
      const limit = make("span", undefined, "limit");
      limit.style.left = `${100 / top}%`;
      rail.append(bar, limit);
      if (level != null) {
        const mark = make("span", undefined, "level");
        mark.style.left = `${Math.min(100, (100 * level) / top)}%`;
        rail.append(mark);
      }
      row.append(make("span", name, "name"), rail, make("span", ratio.toFixed(2), "number"));
      row.title = `${view}: ${ratio.toFixed(3)} of the threshold${level == null ? "" : `; level against training: ${level.toFixed(3)}`}`;
      list.append(row);
    }
    const head = make("p", `${word}, report of ${f.clock(at).slice(0, 5)} UTC`, "note");
    head.dataset.alarm = isAlarm ? "yes" : "no";
    const rest = rows.length > SHOWN_COLUMNS ? `; ${rows.length - SHOWN_COLUMNS} columns more are lower` : "";
    return [head, list, make("p", `1 is the alarm${rest}; ring: level against training, never an alarm`, "note")];
  });
}

/** The verdict of a report in words, and whether it is an alarm. `largest`: column with the largest ratio. */
function driftWords(value, largest) {
  const named = largest?.[1].ratio >= 1 ? ` of ${largest[0]}` : "";
  if (value("drift_with_loss")) return [`drift${named} with loss within three hours`, true];
  if (value("drift_alarm")) return [`drift${named}`, true];
  return value("drift_loss_alarm") ? ["no drift, but more loss than usual", false] : ["no drift", false];
}

export function showService(state) {
  const rows = [];
  const { broker, latency, trades_behind: behind } = state;
  rows.push(["broker", broker.ok ? `answers in ${f.milliseconds(broker.answered_ms)}` : "away"]);
  if (latency) {
    const words = `p50 ${f.milliseconds(latency.p50_ms)} · p99 ${f.milliseconds(latency.p99_ms)}`;
    rows.push(["trade to here", words, `${f.whole(latency.rows)} forecasts of the last minute, from ingest to the API`]);
  }
  if (behind != null) rows.push(["consumer lag", `${f.whole(behind)} trades`, "published, and not yet forecast"]);
  replace($("service"), JSON.stringify(rows), () =>
    rows.flatMap(([name, text, title]) => {
      const value = make("dd", text);
      if (title) value.title = title;
      return [make("dt", name), value];
    }),
  );
}

export function showSources(streams, shares, limitS, current, choose) {
  const table = $("sources");
  $("no-sources").hidden = streams.length > 0;
  table.closest(".scroll").hidden = streams.length === 0;
  while (table.rows.length > streams.length) table.deleteRow(-1);
  streams.forEach((stream, i) => {
    const row = table.rows[i] ?? addRow(table, 8);
    const isCurrent = current && stream.source_id === current.source_id && stream.product_id === current.product_id;
    row.classList.toggle("current", Boolean(isCurrent));
    const state = stream.has_ended ? "ended" : stream.age_s > limitS ? "silent" : "open";
    const button = row.cells[0].firstChild ?? row.cells[0].appendChild(make("button"));
    button.type = "button";
    write(button, stream.product_id);
    button.title = "Show this stream";
    button.onclick = () => choose(stream);
    write(row.cells[1], `${stream.source_id} · ${stream.purpose}`);
    write(row.cells[2], state === "open" ? state : `${state}, ${f.age(stream.age_s)} ago`);
    showProgress(row.cells[3], stream, shares[stream.source_id]);
    write(row.cells[4], f.dayAndClock(stream.event_time));
    write(row.cells[5], stream.speed == null ? f.MISSING : `× ${f.rate(stream.speed)}`);
    write(row.cells[6], f.rate(stream.rows_per_s));
    write(row.cells[7], f.whole(stream.rows));
  });
}

/** Share of the recordings that an open source has sent; undefined if its writer notes none, as for an endless source. */
function showProgress(cell, stream, share) {
  cell.className = "progress";
  if (stream.has_ended || share === undefined) {
    cell.title = stream.has_ended ? "" : "The writer of this source notes no share of a whole";
    const text = stream.has_ended ? f.MISSING : "no known total";
    replace(cell, text, () => [document.createTextNode(text)]);
    return;
  }
  cell.title = "Share of the recordings' bytes that was sent";
  if (!cell.querySelector("progress")) replace(cell, "bar", () => [make("progress"), make("span")]);
  const [bar, text] = cell.children;
  bar.value = share;
  bar.setAttribute("aria-label", `Progress of ${stream.source_id}`);
  write(text, f.percent(share));
}

function addRow(table, cells) {
  const row = table.insertRow();
  for (let i = 0; i < cells; i++) row.insertCell();
  return row;
}

export function showPicker(streams, chosen) {
  const select = $("stream");
  const names = streams.map((each) => [`${each.product_id} ${each.source_id}`, `${each.product_id} · ${each.source_id}`]);
  const wanted = chosen ? `${chosen.product_id} ${chosen.source_id}` : "";
  if (wanted && !names.some(([value]) => value === wanted)) names.push([wanted, `${chosen.product_id} · ${chosen.source_id}`]);
  replace(select, JSON.stringify([names, wanted]), () => {
    const first = make("option", streams.length ? `newest: ${streams[0].product_id}` : "newest source");
    first.value = "";
    return [first, ...names.map(([value, text]) => Object.assign(make("option", text), { value }))];
  });
  if (document.activeElement !== select) select.value = wanted;
}

export function showPages(pages, reachable) {
  replace($("pages"), JSON.stringify([pages, reachable]), () => {
    const links = [["API docs", "/docs", true], ...Object.entries(pages).map(([name, url]) => [name, seenFromHere(url), reachable[name]])];
    return links.map(([name, url, answers]) => {
      const link = make("a", name);
      link.href = url;
      if (answers === false) {
        link.className = "away";
        link.title = `${name} does not answer at ${url}`;
        link.append(make("small", "off"));
      }
      const item = make("li");
      item.append(link);
      return item;
    });
  });
}

/** The address of a page on the API's machine, as this browser reaches it. */
function seenFromHere(url) {
  const address = new URL(url);
  if (["127.0.0.1", "localhost", "[::1]"].includes(address.hostname)) address.hostname = location.hostname;
  return address.href;
}

export function showTable(store) {
  const table = $("rows");
  const points = store.lastCounted(TABLE_ROWS);
  while (table.rows.length > points.length) table.deleteRow(-1);
  points.forEach((point, i) => {
    const row = table.rows[i] ?? addRow(table, 7);
    const side = verdict(point);
    const texts = [
      f.clock(point.t),
      f.price(point.price),
      f.bp(point.score),
      `${f.bp(point.lower)} to ${f.bp(point.upper)}`,
      f.bp(point.realized),
      side ?? "open",
      store.models[point.model].join(" "),
    ];
    texts.forEach((text, column) => write(row.cells[column], text));
    row.cells[5].dataset.side = side ?? "";
  });
}

/** One point in words, for the line above the chart; `judged`: the point whose target belongs to it, null without. */
export function readout(point, judged, models, horizonS) {
  const parts = [
    f.dayAndClock(point.t),
    `price ${f.price(point.price)}`,
    `forecast ${f.bp(point.score)} bp/min (${f.annualized(point.score, horizonS)})`,
    `band ${f.bp(point.lower)} to ${f.bp(point.upper)}`,
  ];
  if (judged) {
    const words = `realized ${f.bp(judged.realized)} (${f.annualized(judged.realized, horizonS)}), ${verdict(judged)}`;
    parts.push(judged.t === point.t ? words : `${words} at ${f.clock(judged.t)}`);
  }
  parts.push(models[point.model]?.join(" ") ?? "");
  return parts.join("  ·  ");
}
