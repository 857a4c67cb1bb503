// Which nodes are shown, and in which order: plain functions over entries, quick enough for every keystroke.

export const STATES = ["ready", "busy", "starting", "draining", "unknown", "offline"];
const RANK = Object.fromEntries(STATES.map((state, place) => [state, place]));

/** What is kept of a node: the node as the API gives it, and what searching needs, made once. */
export function entryOf(node) {
  const labels = Object.entries(node.labels);
  const offers = Object.keys(node.capabilities);
  const words = [node.key, node.type, node.version ?? "", ...offers, ...labels.map(([key, value]) => `${key}=${value}`)];
  return {
    key: node.key,
    node,
    labels,
    pairs: labels.map(([key, value]) => `${key}=${value}`),
    offers,
    text: words.join("\n").toLowerCase(),
    load: node.capacity > 0 ? node.active_tasks / node.capacity : 0,
  };
}

/** Split what was typed into words that must all match. `key=value` is a label, `capability:x` and `state:x` are what they say. */
export function readQuery(typed) {
  return typed.toLowerCase().split(/\s+/).filter(Boolean).map((word) => {
    const [, field, value] = /^(capability|cap|state|label|namespace|ns|type):(.*)$/.exec(word) ?? [];
    if (field === undefined) return (entry) => entry.text.includes(word);
    if (field === "state") return (entry) => entry.node.state.startsWith(value);
    if (field === "type") return (entry) => entry.node.type.toLowerCase().startsWith(value);
    if (field === "namespace" || field === "ns") return (entry) => entry.node.namespace.startsWith(value);
    if (field === "label") {
      return (entry) => entry.pairs.some((pair) => pair.toLowerCase().startsWith(value));
    }
    return (entry) => entry.offers.some((offer) => offer.toLowerCase().includes(value));
  });
}

const ORDER = {
  name: (a, b) => (a.key < b.key ? -1 : 1),
  state: (a, b) => RANK[a.node.state] - RANK[b.node.state] || (a.key < b.key ? -1 : 1),
  load: (a, b) => b.load - a.load || b.node.active_tasks - a.node.active_tasks || (a.key < b.key ? -1 : 1),
  seen: (a, b) => {
    const left = a.node.healthy ? "9" : a.node.last_seen ?? "", right = b.node.healthy ? "9" : b.node.last_seen ?? "";
    return left > right ? -1 : left < right ? 1 : a.key < b.key ? -1 : 1;
  },
};

/**
 * Return `{rows, counts}`: the entries to show, and how many there are of each state when states are left aside.
 * `filter` is `{q, capability, label, states: Set, sort, down}`.
 */
export function select(entries, filter) {
  const tests = readQuery(filter.q);
  const counts = Object.fromEntries(STATES.map((state) => [state, 0]));
  const rows = [];
  let busy = 0, room = 0;
  for (const entry of entries) {
    if (filter.capability && !entry.offers.includes(filter.capability)) continue;
    if (filter.label && !entry.pairs.includes(filter.label)) continue;
    if (!tests.every((test) => test(entry))) continue;
    counts[entry.node.state] += 1;
    if (filter.states.size && !filter.states.has(entry.node.state)) continue;
    rows.push(entry);
    if (entry.node.healthy) {
      busy += entry.node.active_tasks;
      room += entry.node.capacity;
    }
  }
  rows.sort(ORDER[filter.sort] ?? ORDER.name);
  if (filter.down) rows.reverse();
  return { rows, counts, busy, room };
}
