// The steps of a card as a picture, coloured by how far the run is.
import { html } from "./html.js";
import { plain } from "./ui.js";

const WIDTH = 188, HEIGHT = 50, ACROSS = 28, DOWN = 38, LANE = 14, MARGIN = 14, PASSAGE = 12, CHARS = 25;
const WORST = ["running", "waiting", "failed", "cancelled", "succeeded", "skipped"];

const cut = (text) => {
  const whole = plain(text);
  return whole.length <= CHARS ? whole : `${whole.slice(0, CHARS - 1)}…`;
};

/** What became of each step: how far its visits are, and how many there were. */
export function statesOf(steps) {
  const found = new Map();
  for (const step of steps) {
    const visits = found.get(step.id) ?? [];
    visits.push(step);
    found.set(step.id, visits);
  }
  return new Map([...found].map(([id, visits]) => {
    // Of branches and items beside each other the one that needs looking at; of a loop the last round.
    const last = visits.filter((one) => one.visit === Math.max(...visits.map((visit) => visit.visit)));
    const state = WORST.find((candidate) => last.some((one) => one.state === candidate)) ?? last[0].state;
    return [id, { state, visits: visits.length, redispatched: visits.reduce((sum, one) => sum + one.redispatched, 0) }];
  }));
}

/**
 * Where everything lies. A node stands one row below the lowest of what leads to it, ways back aside; a way past other rows goes
 * through a place of its own in each of them, so that it crosses no box. In its row each keeps close under what leads to it.
 */
function layout({ arrows, order }) {
  const place = new Map(order.map((number, index) => [number, index]));
  const rank = new Map(order.map((number) => [number, 0]));
  for (const number of order) {
    for (const arrow of arrows) {
      if (arrow.source === number && place.get(arrow.target) > place.get(number)) {
        rank.set(arrow.target, Math.max(rank.get(arrow.target), rank.get(number) + 1));
      }
    }
  }
  const spots = new Map(); // number, or the way and the row of a passage -> spot
  const rows = [];
  const add = (key, row, width) => {
    const spot = { x: 0, row, width, above: [] };
    spots.set(key, spot);
    (rows[row] ??= []).push(spot);
    return spot;
  };
  for (const number of order) add(number, rank.get(number), WIDTH);
  const paths = arrows.map((arrow, index) => {
    const from = spots.get(arrow.source), to = spots.get(arrow.target);
    if (to.row <= from.row) return { arrow, back: true };
    const path = [from];
    for (let row = from.row + 1; row < to.row; row += 1) path.push(add(`${index}/${row}`, row, PASSAGE));
    path.push(to);
    path.slice(1).forEach((spot, step) => spot.above.push(path[step]));
    return { arrow, path, back: false };
  });
  let left = Infinity, right = -Infinity;
  rows.forEach((row, number) => {
    row.forEach((spot, index) => {
      spot.wish = spot.above.length ? spot.above.reduce((sum, above) => sum + above.x, 0) / spot.above.length : 0;
      spot.index = index;
    });
    row.sort((a, b) => a.wish - b.wish || a.index - b.index);
    let edge = -Infinity;
    for (const spot of row) {
      spot.x = Math.max(spot.wish, edge + ACROSS + spot.width / 2);
      edge = spot.x + spot.width / 2;
    }
    // Pushed aside to one side only: the row as a whole goes back to where it wants to be.
    const shift = row.reduce((sum, spot) => sum + spot.wish - spot.x, 0) / row.length;
    for (const spot of row) {
      spot.x += shift;
      spot.y = MARGIN + HEIGHT / 2 + number * (HEIGHT + DOWN);
      left = Math.min(left, spot.x - spot.width / 2);
      right = Math.max(right, spot.x + spot.width / 2);
    }
  });
  for (const spot of spots.values()) spot.x += MARGIN - left;
  let lanes = 0;
  const ways = paths.map(({ arrow, path, back }) => {
    const from = spots.get(arrow.source), to = spots.get(arrow.target);
    if (!back) return { d: forward(path), label: arrow.label, x: (from.x + path[1].x) / 2, y: from.y + HEIGHT / 2 + DOWN / 2 + 3, back };
    lanes += 1;
    const lane = MARGIN + right - left + lanes * LANE;
    const out = from.y + HEIGHT / 2 + 10, into = to.y - HEIGHT / 2 - 10;
    return { d: `M${from.x + 36} ${out - 10}V${out}H${lane}V${into}H${to.x + 36}V${into + 10}`, label: arrow.label, x: from.x + 68, y: out + 4, back };
  });
  return { spots, ways, width: 2 * MARGIN + right - left + (lanes ? (lanes + 1) * LANE : 0), height: 2 * MARGIN + rows.length * (HEIGHT + DOWN) - DOWN };
}

function forward(path) {
  let d = `M${path[0].x} ${path[0].y + HEIGHT / 2}`;
  path.slice(1).forEach((spot, step) => {
    const top = path[step].y + HEIGHT / 2, bottom = spot.y - HEIGHT / 2, middle = (top + bottom) / 2;
    d += `C${path[step].x} ${middle} ${spot.x} ${middle} ${spot.x} ${bottom}`;
    if (step < path.length - 2) d += `V${spot.y + HEIGHT / 2}`;
  });
  return d;
}

export function Graph({ graph, steps }) {
  const states = statesOf(steps);
  const { spots, ways, width, height } = layout(graph);
  return html`<div class="scroll graph" tabindex="0" role="group" aria-label="Graph of the steps"><svg viewBox=${`0 0 ${width} ${height}`} width=${width} height=${height} role="img" aria-label=${`${graph.nodes.length} nodes; the table of tries says the same in words`}>
    <defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path class="tip" d="M0 0L8 4L0 8z" /></marker></defs>
    ${ways.map((way) => html`<path class=${way.back ? "way back" : "way"} d=${way.d} marker-end="url(#tip)" />`)}
    ${graph.nodes.map((node) => {
      const { x, y } = spots.get(node.number);
      const said = node.step === null ? undefined : states.get(node.step);
      const known = node.shape === "bar" && node.detail === "joined" ? undefined : said;
      const left = x - WIDTH / 2, top = y - HEIGHT / 2;
      const edge = { x: left, y: top, width: WIDTH, height: HEIGHT, rx: node.shape === "round" ? HEIGHT / 2 : 7 };
      const word = known ? `${known.state}${known.visits > 1 ? ` ×${known.visits}` : ""}${known.redispatched ? `, sent again ×${known.redispatched}` : ""}` : "";
      const second = word || node.detail;
      return html`<g class=${`step k-${node.shape} ${known ? `s-${known.state}` : "s-none"}`}>
        <title>${plain(`${node.title}${node.detail ? `: ${node.detail}` : ""}${word ? ` (${word})` : ""}`)}</title>
        ${node.shape === "diamond"
          ? html`<polygon points=${`${left},${y} ${left + 13},${top} ${left + WIDTH - 13},${top} ${left + WIDTH},${y} ${left + WIDTH - 13},${top + HEIGHT} ${left + 13},${top + HEIGHT}`} />`
          : html`<rect ...${edge} />`}
        <text x=${x} y=${second ? y - 3 : y + 4}>${cut(node.title)}</text>
        ${second && html`<text class="second" x=${x} y=${y + 14}>${cut(second)}</text>`}
      </g>`;
    })}
    ${ways.filter((way) => way.label).map((way) => html`<text class="label" x=${way.x} y=${way.y}>${cut(way.label)}</text>`)}
  </svg></div>`;
}
