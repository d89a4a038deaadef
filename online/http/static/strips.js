// Two strips under the chart, on its time axis: misses of the band, and which model served.

import { palette } from "./charts.js";
import { verdictAt } from "./store.js";

const MISSES_HEIGHT = 26;
const MOVE_NAMES = { promote: "promoted", rollback: "rolled back" };
const GLYPHS = { promoted: "▲ ", "rolled back": "▼ ", "took over": "› " };

export function drawMisses(canvas, charts, view) {
  const { left, width } = charts.plot;
  const scale = devicePixelRatio;
  canvas.style.marginLeft = `${left}px`;
  canvas.style.width = `${width}px`;
  canvas.style.height = `${MISSES_HEIGHT}px`;
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = MISSES_HEIGHT * scale;
  const ctx = canvas.getContext("2d");
  const middle = canvas.height / 2;
  ctx.fillStyle = palette.hair;
  ctx.fillRect(0, middle - scale / 2, canvas.width, scale);
  const tick = Math.max(scale, Math.min(3 * scale, canvas.width / 400));
  for (let i = 0; i < view.t.length; i++) {
    const side = verdictAt(view, i);
    if (side === undefined) continue;
    const x = charts.place(view.t[i]) * canvas.width - tick / 2;
    const height = side === "inside" ? 3 * scale : middle - scale;
    ctx.fillStyle = side === "inside" ? palette.muted : palette[side];
    ctx.globalAlpha = side === "inside" ? 0.55 : 1;
    ctx.fillRect(x, side === "below" ? middle + scale : middle - height - scale * (side === "above"), tick, height);
  }
  ctx.globalAlpha = 1;
}

/** Spans of one model each: index of the model, begin and end in seconds. */
export function spansOf(view) {
  const spans = [];
  for (let i = 0; i < view.t.length; i++) {
    if (view.model[i] == null) continue;
    const last = spans[spans.length - 1];
    if (last && last.model === view.model[i]) last.end = view.t[i];
    else spans.push({ model: view.model[i], begin: view.t[i], end: view.t[i] });
  }
  return spans;
}

/**
 * Name of the move that began a span, undefined if the ledger's figures do not tell: the last span of a model has the
 * model's newest move, the span before has the move before.
 */
export function moveOf(spans, i, name, moves) {
  const later = spans.slice(i + 1).filter((span) => span.model === spans[i].model).length;
  const own = moves.filter((move) => `${move.model_variant} ${move.version}` === name).sort((a, b) => b.at - a.at);
  return own[later] && MOVE_NAMES[own[later].move];
}

/** Draw which model served when. `moves`: promotions and rollbacks of the ledger. */
export function drawServed(box, charts, view, models, moves) {
  const { left, width } = charts.plot;
  box.style.marginLeft = `${left}px`;
  box.style.width = `${width}px`;
  const spans = spansOf(view);
  const said = [];
  const wanted = spans.map((span, i) => {
    const name = models[span.model].join(" ");
    const move = i > 0 ? (moveOf(spans, i, name, moves) ?? "took over") : undefined;
    said.push(move ? `${name} ${move}` : name);
    const from = Math.max(0, charts.place(span.begin));
    const to = charts.place(spans[i + 1] ? spans[i + 1].begin : span.end);
    return { name, move, from, to, shade: span.model % 2 };
  });
  while (box.children.length > wanted.length) box.lastChild.remove();
  wanted.forEach((each, i) => {
    const part = box.children[i] ?? box.appendChild(document.createElement("span"));
    part.className = `span shade${each.shade}${each.move ? " moved" : ""}`;
    part.style.left = `${100 * each.from}%`;
    part.style.width = `${100 * Math.max(0, each.to - each.from)}%`;
    const glyph = GLYPHS[each.move] ?? "";
    const text = glyph + each.name;
    if (part.textContent !== text) part.textContent = text;
    part.title = each.move ? `${each.name} ${each.move}` : each.name;
  });
  const label = `Models that served: ${said.join(", then ") || "none yet"}`;
  if (box.getAttribute("aria-label") !== label) box.setAttribute("aria-label", label);
}
