// The points of one stream, in columns, and views of them for a chart.

const RECENT_MS = 15 * 60e3; // all points are kept for this long, later the counted ones
const KEPT_MS = 24 * 3600e3;
const TRIM_EVERY = 512; // points between two trims
const COLUMNS = ["row", "t", "price", "score", "lower", "upper", "model", "counted", "in_sample"];

export class Store {
  constructor() {
    this.clear();
  }

  clear() {
    this.columns = Object.fromEntries([...COLUMNS, "realized"].map((name) => [name, []]));
    this.tip = null;
    this.models = [];
    this.judged = null; // the newest judged point
    this.added = 0;
  }

  take(frame) {
    if (frame.reset) this.clear();
    this.models = frame.models;
    const { points, judged, tip } = frame;
    for (const name of COLUMNS) for (const value of points[name]) this.columns[name].push(value);
    for (let i = 0; i < points.row.length; i++) this.columns.realized.push(undefined);
    for (let i = 0; i < judged.row.length; i++) this.judge(judged.row[i], judged.realized[i]);
    if (tip) {
      this.tip = { realized: undefined };
      for (const name of COLUMNS) this.tip[name] = tip[name][0];
    } else if (points.row.length) {
      this.tip = this.at(this.columns.row.length - 1);
    }
    this.added += points.row.length;
    if (this.added > TRIM_EVERY) this.trim();
  }

  judge(row, realized) {
    const i = firstFrom(this.columns.row, row);
    if (this.columns.row[i] !== row) return;
    this.columns.realized[i] = realized;
    this.judged = this.at(i);
  }

  at(i) {
    return Object.fromEntries(Object.entries(this.columns).map(([name, column]) => [name, column[i]]));
  }

  trim() {
    this.added = 0;
    const { t, counted } = this.columns;
    const newest = this.tip ? this.tip.t : t[t.length - 1];
    const kept = [];
    for (let i = 0; i < t.length; i++) {
      const ageMs = newest - t[i];
      if (ageMs <= RECENT_MS || (counted[i] && ageMs <= KEPT_MS)) kept.push(i);
    }
    if (kept.length < t.length) {
      for (const name in this.columns) {
        const column = this.columns[name];
        this.columns[name] = kept.map((i) => column[i]);
      }
    }
  }

  /** Time from the oldest point to the newest, in ms. */
  get spanMs() {
    const { t } = this.columns;
    return this.tip && t.length ? this.tip.t - t[0] : 0;
  }

  /**
   * Points of the last `spanMs`, at most about `most`: above, each k-th counted point. A hole longer than `gapMs` breaks
   * the lines. Unknown values are undefined: a line goes on over them; at a break they are null.
   */
  view(spanMs, most, gapMs) {
    const found = { t: [], price: [], score: [], lower: [], upper: [], realized: [], model: [], in_sample: [] };
    if (!this.tip) return found;
    const { columns } = this;
    const begin = firstFrom(columns.t, this.tip.t - spanMs);
    const last = columns.t.length;
    let every = 1;
    let countedOnly = false;
    if (last - begin > most) {
      countedOnly = true;
      let counted = 0;
      for (let i = begin; i < last; i++) counted += columns.counted[i];
      every = Math.max(1, Math.ceil(counted / most));
    }
    let before = null;
    let nth = 0;
    const push = (point, i) => {
      const ms = point === null ? this.tip.t : columns.t[i];
      if (before !== null && ms - before > gapMs) {
        found.t.push((before + 1) / 1e3);
        for (const name in found) if (name !== "t") found[name].push(null);
      }
      before = ms;
      found.t.push(ms / 1e3);
      for (const name in found) if (name !== "t") found[name].push(point === null ? this.tip[name] : columns[name][i]);
    };
    for (let i = begin; i < last; i++) {
      if (countedOnly && (!columns.counted[i] || nth++ % every)) continue;
      push(undefined, i);
    }
    if (!last || this.tip.row !== columns.row[last - 1]) push(null, -1);
    return found;
  }

  /** The last `count` counted points, the newest first. */
  lastCounted(count) {
    const found = [];
    for (let i = this.columns.t.length - 1; i >= 0 && found.length < count; i--) {
      if (this.columns.counted[i]) found.push(this.at(i));
    }
    return found;
  }
}

/** Index of the first value of a rising column that is at least `value`. */
export function firstFrom(column, value) {
  let low = 0;
  let high = column.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (column[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Whether a judged point lies inside its band; undefined until judged. */
export function verdict(point) {
  if (point.realized == null) return undefined;
  if (point.realized > point.upper) return "above";
  return point.realized < point.lower ? "below" : "inside";
}

/** The verdict of a point of a view, by index. */
export function verdictAt(view, i) {
  return verdict({ realized: view.realized[i], lower: view.lower[i], upper: view.upper[i] });
}
