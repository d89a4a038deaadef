// Two charts over one time axis: price, and forecast with its band against realized.

import { axisLabels, price } from "./format.js";
import { verdictAt } from "./store.js";

const GUTTER = 58; // left of both charts: the strips below begin there too
const RIGHT = 14;
const PAD = 0.02; // empty end of the time axis, as a share

export const palette = {};

/** Read the colours of the theme. */
export function readPalette() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["ink", "muted", "hair", "forecast", "band", "realized", "above", "below", "open", "card"]) {
    palette[name] = style.getPropertyValue(`--${name}`).trim();
  }
}

export class Charts {
  /** `onCursor` gets the index of the point under the cursor, null without. */
  constructor(priceBox, volBox, onCursor) {
    this.boxes = [priceBox, volBox];
    this.onCursor = onCursor;
    this.span = [0, 1];
    this.data = null;
    this.openFrom = null;
    const sync = { key: "live", setSeries: false };
    const axis = (more) => ({
      stroke: () => palette.muted,
      grid: { stroke: () => palette.hair, width: 1 },
      ticks: { show: false },
      font: "11px system-ui, sans-serif",
      ...more,
    });
    const common = {
      tzDate: (s) => uPlot.tzDate(new Date(s * 1e3), "Etc/UTC"),
      legend: { show: false },
      scales: { x: { time: true, range: () => this.span } },
      padding: [10, RIGHT, 8, 0],
      ms: 1e-3,
    };
    const line = (stroke, more) => ({ stroke: () => palette[stroke], width: 1.5, points: { show: false }, ...more });
    this.price = new uPlot(
      {
        ...common,
        ...size(priceBox),
        cursor: { sync, y: false, drag: { x: false, y: false }, points: { size: 7 } },
        axes: [
          axis({ show: false }),
          axis({ size: GUTTER, space: 28, values: (_, splits) => splits.map((each) => shortPrice(each, splits)) }),
        ],
        series: [{}, line("ink", { width: 1.25 })],
      },
      [[], []],
      priceBox,
    );
    this.vol = new uPlot(
      {
        ...common,
        ...size(volBox),
        padding: [6, RIGHT, 0, 0],
        scales: { ...common.scales, y: { range: (_, low, high) => [0, high == null ? 10 : high * 1.06] } },
        cursor: { sync, y: false, drag: { x: false, y: false }, points: { size: 7 } },
        axes: [
          axis({ values: (_, splits, __, ___, step) => axisLabels(splits, step), space: 64, size: 28 }),
          axis({ size: GUTTER, space: 36, values: (_, splits) => splits.map((each) => (each === 0 ? "0 bp" : String(each))) }),
        ],
        bands: [{ series: [3, 2], fill: () => palette.band }],
        series: [
          {},
          line("forecast", { width: 2 }),
          line("band", { width: 0.75 }),
          line("band", { width: 0.75 }),
          line("realized", { width: 1.5 }),
        ],
        hooks: {
          drawClear: [(u) => this.drawOpen(u)],
          draw: [(u) => this.drawMarks(u)],
          setCursor: [(u) => this.onCursor(u.cursor.left >= 0 ? u.cursor.idx : null)],
        },
      },
      [[], [], [], [], []],
      volBox,
    );
    new ResizeObserver(() => this.resize()).observe(volBox);
  }

  resize() {
    this.price.setSize(size(this.boxes[0]));
    this.vol.setSize(size(this.boxes[1]));
  }

  redraw() {
    this.price.redraw(false);
    this.vol.redraw(false);
  }

  /** Draw a view of the store that covers `spanMs` up to the newest point. */
  draw(view, spanMs, judged) {
    const end = view.t.length ? view.t[view.t.length - 1] : Date.now() / 1e3;
    const span = spanMs / 1e3;
    this.span = [end - span, end + PAD * span];
    this.openFrom = judged && view.t.length && judged.t / 1e3 > this.span[0] ? judged.t / 1e3 : null;
    this.data = view;
    this.price.setData([view.t, view.price]);
    this.vol.setData([view.t, view.score, view.lower, view.upper, view.realized]);
  }

  /** Left end and width of the plots in CSS pixels. */
  get plot() {
    return { left: this.vol.over.offsetLeft, width: this.vol.over.offsetWidth };
  }

  /** Position of a time in the plot, from 0 to 1. */
  place(seconds) {
    return (seconds - this.span[0]) / (this.span[1] - this.span[0]);
  }

  /** Shade the time whose horizon has not passed. */
  drawOpen(u) {
    if (this.openFrom == null) return;
    const { left, top, width, height } = u.bbox;
    const from = u.valToPos(this.openFrom, "x", true);
    u.ctx.fillStyle = palette.open;
    u.ctx.fillRect(from, top, left + width - from, height);
  }

  /** Mark the realized values outside the band, and the newest forecast. */
  drawMarks(u) {
    const view = this.data;
    if (!view || !view.t.length) return;
    const { ctx } = u;
    const scale = uPlot.pxRatio;
    ctx.save();
    for (let i = 0; i < view.t.length; i++) {
      const side = verdictAt(view, i);
      if (side === undefined || side === "inside") continue;
      dot(ctx, u.valToPos(view.t[i], "x", true), u.valToPos(view.realized[i], "y", true), 2.6 * scale, palette[side]);
    }
    const last = view.t.length - 1;
    const x = u.valToPos(view.t[last], "x", true);
    const y = u.valToPos(view.score[last], "y", true);
    dot(ctx, x, y, 6 * scale, palette.card);
    dot(ctx, x, y, 4 * scale, palette.forecast);
    ctx.restore();
  }

  /** Move the cursor to a point by index. */
  moveTo(index) {
    const view = this.data;
    if (!view || !view.t.length) return;
    const i = Math.max(0, Math.min(index, view.t.length - 1));
    this.vol.setCursor({ left: this.vol.valToPos(view.t[i], "x"), top: this.vol.valToPos(view.score[i] ?? 0, "y") });
  }

  clearCursor() {
    this.vol.setCursor({ left: -10, top: -10 });
  }
}

function dot(ctx, x, y, radius, colour) {
  ctx.beginPath();
  ctx.arc(x, y, radius, 0, 2 * Math.PI);
  ctx.fillStyle = colour;
  ctx.fill();
}

const size = (box) => ({ width: box.clientWidth, height: box.clientHeight });

/** A price of an axis, with the digits that tell it from its neighbours. */
function shortPrice(value, splits) {
  const step = splits.length > 1 ? splits[1] - splits[0] : 1;
  const digits = Math.max(0, -Math.floor(Math.log10(step)));
  return value >= 1 ? value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits }) : price(value);
}

