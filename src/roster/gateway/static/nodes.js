// The list of nodes: search, filters, and one row a node.
import { Age } from "./ages.js";
import { STATES, select } from "./filter.js";
import { createRef, html } from "./html.js";
import { store } from "./store.js";
import { Table } from "./table.js";
import { Command, Empty, Heading, Live, Load, State, Tags, link, nodeLink, plain } from "./ui.js";

const NARROW = matchMedia("(max-width: 760px)");
const COLUMNS = [
  { id: "name", title: "Node", class: "c-name", sort: true },
  { id: "state", title: "State", class: "c-state", sort: true },
  { id: "load", title: "Load", class: "c-load", sort: true, falls: true },
  { id: "offers", title: "Capabilities", class: "c-offers" },
  { id: "labels", title: "Labels", class: "c-labels" },
  { id: "seen", title: "Last heartbeat", class: "c-seen", sort: true, falls: true },
];

const FEW = 50;
const MOST = 300;

const optionsOf = (counted) =>
  counted.sort(([a], [b]) => (a < b ? -1 : 1)).slice(0, MOST).map(([name, count]) => html`<option key=${name} value=${name}>${plain(name)} (${count})</option>`);

/** When a node is known to have lived last: as long as its lease lives that is now, as far as this page is fresh. */
export function Heartbeat({ node, lostAt }) {
  const live = node.state !== "offline" && node.state !== "unknown";
  if (live && lostAt === null) return html`<span title=${`Its lease lives. It wrote its status last at ${node.last_written ?? "an unknown time"}.`}>now</span>`;
  return html`<${Age} at=${live ? new Date(lostAt).toISOString() : node.last_seen} />`;
}

function rowOf(entry) {
  const { node } = entry;
  return [
    html`<a class="name" href=${nodeLink(node.key)}>${plain(node.name)}</a><span class="under">${plain(node.namespace)} · ${plain(node.type)}${node.version ? ` ${plain(node.version)}` : ""}</span>`,
    html`<${State} state=${node.state} />${node.cordoned && node.state !== "draining" ? html`<span class="under warnish">drained</span>` : null}`,
    html`<${Load} active=${node.active_tasks} capacity=${node.capacity} />`,
    html`<${Tags} items=${entry.offers} most=${2} />`,
    html`<${Tags} items=${entry.labels} most=${2} of=${([key, value]) => `${key}=${value}`} class="soft" />`,
    html`<${Heartbeat} node=${node} lostAt=${store.lostAt} />`,
  ];
}

export class Nodes extends Live {
  search = createRef();
  state = { narrow: NARROW.matches };

  constructor(props) {
    super(props);
    this.filter = read(props.query);
  }

  componentDidMount() {
    super.componentDidMount();
    this.onNarrow = () => this.setState({ narrow: NARROW.matches });
    NARROW.addEventListener("change", this.onNarrow);
    this.onSlash = (event) => {
      if (event.key !== "/" || event.target.closest("input, select, textarea, dialog")) return;
      event.preventDefault();
      this.search.current?.focus();
    };
    addEventListener("keydown", this.onSlash);
  }

  componentWillUnmount() {
    super.componentWillUnmount();
    NARROW.removeEventListener("change", this.onNarrow);
    removeEventListener("keydown", this.onSlash);
    clearTimeout(this.writing);
  }

  componentWillReceiveProps({ query }) {
    if (query !== this.props.query) this.filter = read(query);
  }

  change(part) {
    this.filter = { ...this.filter, ...part };
    this.setState({});
    if (scrollY > 0 && !("q" in part)) scrollTo({ top: 0 });
    // The address follows a moment later: browsers refuse a hundred changes of it in a row.
    clearTimeout(this.writing);
    this.writing = setTimeout(() => history.replaceState(null, "", link("nodes", written(this.filter))), 250);
  }

  toggle(state) {
    const states = new Set(this.filter.states);
    if (!states.delete(state)) states.add(state);
    this.change({ states });
  }

  sort = (id) => {
    this.change(this.filter.sort === id ? { down: !this.filter.down } : { sort: id, down: false });
  };

  /** What there is to choose from, made anew when nodes have changed and not at each keystroke. */
  choices() {
    if (this.chosenOf !== store.version) {
      const offers = new Map(), labels = new Map();
      for (const entry of store.nodes.values()) {
        for (const offer of entry.offers) offers.set(offer, (offers.get(offer) ?? 0) + 1);
        for (const pair of entry.pairs) labels.set(pair, (labels.get(pair) ?? 0) + 1);
      }
      // Labels that one node alone has, such as its host, are for the search.
      const shared = store.nodes.size > FEW ? [...labels].filter(([, count]) => count > 1) : [...labels];
      this.known = { capability: offers, label: labels };
      this.options = { capability: optionsOf([...offers]), label: optionsOf(shared) };
      this.chosenOf = store.version;
    }
  }

  choice(field, title, any) {
    const chosen = this.filter[field];
    return html`<span class="pick">
      <select aria-label=${title} value=${chosen} onChange=${(event) => this.change({ [field]: event.target.value })}>
        <option value="">${any}</option>
        ${chosen && !this.options[field].some((option) => option.key === chosen) && html`<option key=${chosen} value=${chosen}>${plain(chosen)} (${this.known[field].get(chosen) ?? 0})</option>`}
        ${this.options[field]}
      </select>
    </span>`;
  }

  render(_, { narrow }) {
    const { filter } = this;
    const head = html`<${Heading}>Nodes<//>`;
    if (!store.loaded) return html`${head}<p class="muted" role="status">Reading the registry …</p>`;
    if (store.nodes.size === 0) {
      return html`${head}<${Empty} title="No node is registered yet">
        <p>Register a passport and keep it alive beside your program; it appears here at once:</p>
        <${Command} text="roster register -f node_passport.yaml -- python agent.py" />
        <p class="muted">There should be some? Then this gateway may look at another registry than they do: compare what <code>roster doctor</code> says here and there.</p>
      <//>`;
    }
    const { rows, counts, busy, room } = select(store.nodes.values(), filter);
    const narrowed = Boolean(filter.q.trim() || filter.capability || filter.label || filter.states.size);
    this.choices();
    return html`${head}
      <form class="filters" role="search" aria-label="Filter nodes" onSubmit=${(event) => event.preventDefault()}>
        <label class="search"><span class="unseen">Search nodes</span>
          <input ref=${this.search} type="search" placeholder="Search name, capability, role=writer …" autocomplete="off" spellcheck=${false}
            value=${filter.q} onInput=${(event) => this.change({ q: event.target.value })} />
          <kbd aria-hidden="true">/</kbd>
        </label>
        ${this.choice("capability", "Capability", "Any capability")}
        ${this.choice("label", "Label", "Any label")}
        <div class="toggles" role="group" aria-label="States">
          ${STATES.filter((state) => counts[state] || filter.states.has(state)).map((state) => html`<button type="button" key=${state} aria-pressed=${filter.states.has(state) ? "true" : "false"}
            class=${`toggle s-${state}`} onClick=${() => this.toggle(state)}><${State} state=${state} /> <b>${counts[state]}</b></button>`)}
        </div>
      </form>
      <p class="tally" role="status" aria-live="polite">
        <span><b>${rows.length}</b>${narrowed ? ` of ${store.nodes.size}` : ""} ${rows.length === 1 && !narrowed ? "node" : "nodes"}</span>
        <span class="muted"><b>${busy}</b> of <b>${room}</b> slots in use</span>
        ${narrowed && html`<button type="button" class="quiet" onClick=${() => this.change({ q: "", capability: "", label: "", states: new Set() })}>Clear filters</button>`}
      </p>
      ${rows.length
        ? html`<div class="nodes"><${Table} label="Nodes" columns=${COLUMNS} rows=${rows} row=${rowOf} height=${narrow ? 124 : 52}
            sort=${filter.sort} down=${filter.down} onSort=${this.sort} /></div>`
        : html`<${Empty} title="No node matches">
            <p>Every word of the search must match. A label is <code>role=writer</code>; <code>capability:</code>, <code>state:</code> and <code>namespace:</code> look in one place alone.</p>
          <//>`}`;
  }
}

function read(query) {
  const states = (query.get("state") ?? "").split(",").filter((state) => STATES.includes(state));
  return {
    q: query.get("q") ?? "",
    capability: query.get("capability") ?? "",
    label: query.get("label") ?? "",
    states: new Set(states),
    sort: query.get("sort") ?? "name",
    down: query.get("down") === "1",
  };
}

function written({ q, capability, label, states, sort, down }) {
  return { q: q.trim(), capability, label, state: [...states].join(","), sort: sort === "name" ? "" : sort, down: down ? "1" : "" };
}
