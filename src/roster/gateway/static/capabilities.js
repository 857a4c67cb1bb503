// The capability matrix: who can do what, how many of them are healthy, how much room there is, and where one failure is enough.
import { get } from "./api.js";
import { STATES } from "./filter.js";
import { html } from "./html.js";
import { store } from "./store.js";
import { Asking, Command, Empty, Heading, Load, Notice, State, link, nodeLink, plain, words } from "./ui.js";

const EVERY = 5000;
const WHO = 6;
const GRID = 24; // nodes that fit beside each other

export class Capabilities extends Asking {
  state = { q: "", warned: false, grid: false };

  componentDidMount() {
    super.componentDidMount();
    let seen = store.version;
    this.unsubscribe = store.subscribe(() => {
      if (store.version === seen) return;
      seen = store.version;
      // At most once a second, however much happens.
      this.soon ??= setTimeout(() => {
        this.soon = null;
        this.again();
      }, 1000);
    });
  }

  componentWillUnmount() {
    super.componentWillUnmount();
    clearTimeout(this.soon);
    this.unsubscribe();
  }

  async load() {
    const items = [];
    let page = null;
    do {
      const answer = await get(`/api/v1/capabilities?${new URLSearchParams({ limit: "1000", ...(page ? { page } : {}) })}`);
      items.push(...answer.items);
      page = answer.next;
    } while (page !== null);
    if (!this.gone) this.setState({ items });
    return EVERY;
  }

  render(_, { items, failure, q, warned, grid }) {
    const head = html`<${Heading}>Capabilities<//>`;
    if (!items) return html`${head}${failure ? html`<${Notice} kind="bad">${words(failure)}<//>` : html`<p class="muted" role="status">Reading …</p>`}`;
    if (!items.length) {
      return html`${head}<${Empty} title="Nobody offers anything yet">
        <p>A capability is what a node's passport lists under <code>spec.capabilities</code>. Register a node that has some:</p>
        <${Command} text="roster register -f node_passport.yaml -- python agent.py" /><//>`;
    }
    const wanted = q.trim().toLowerCase();
    const warnings = items.filter((item) => warningsOf(item).length);
    const shown = (warned ? warnings : items).filter((item) => !wanted || `${item.name} ${item.description}`.toLowerCase().includes(wanted));
    const nodes = [...new Set(shown.flatMap((item) => item.offered_by))].sort();
    const fits = nodes.length <= GRID;
    return html`${head}
      ${failure && html`<${Notice}>${words(failure)}<//>`}
      <form class="filters" role="search" aria-label="Filter capabilities" onSubmit=${(event) => event.preventDefault()}>
        <label class="search"><span class="unseen">Search capabilities</span>
          <input type="search" placeholder="Search capabilities" autocomplete="off" spellcheck=${false} value=${q} onInput=${(event) => this.setState({ q: event.target.value })} /></label>
        <div class="toggles">
          <button type="button" class="toggle s-unknown" aria-pressed=${warned ? "true" : "false"} onClick=${() => this.setState({ warned: !warned })}><${State} state="warn" word="With warnings" /> <b>${warnings.length}</b></button>
          <button type="button" class="toggle" aria-pressed=${grid ? "true" : "false"} onClick=${() => this.setState({ grid: !grid })}>As a grid</button>
        </div>
      </form>
      <p class="tally" role="status"><span><b>${shown.length}</b> ${shown.length === 1 ? "capability" : "capabilities"} of <b>${nodes.length}</b> ${nodes.length === 1 ? "node" : "nodes"}</span></p>
      ${!shown.length
        ? html`<${Empty} title="No capability matches"><p>${warned ? "There is no warning among them, which is good." : "Try a part of its name."}</p><//>`
        : grid ? (fits ? gridOf(shown, nodes) : html`<${Notice}>A grid is for up to ${GRID} nodes, and these are ${nodes.length}. Search for fewer capabilities first.<//>`)
        : listOf(shown)}`;
  }
}

function warningsOf(item) {
  const found = [];
  if (item.healthy === 0) found.push(["bad", "Nobody can take work", "No healthy node offers it: calls fail or wait."]);
  else if (item.single) found.push(["warn", "Single point of failure", "One healthy node alone offers it: if that node ends, nobody can do it."]);
  if (item.healthy > 0 && item.free === 0) found.push(["warn", "No room", "All its nodes are busy: calls wait."]);
  if (item.mismatch) found.push(["warn", "Schemas differ", "Nodes declare one version of it with different schemas: callers cannot know what to send."]);
  return found;
}

const stateOf = (key) => store.nodes.get(key)?.node.state ?? "offline";

function Who({ item }) {
  const sorted = [...item.offered_by].sort((a, b) => healthy(b) - healthy(a) || (a < b ? -1 : 1));
  return html`<span class="who">${sorted.slice(0, WHO).map((key) => html`<a key=${key} class=${`tag node s-${stateOf(key)}`} href=${nodeLink(key)} title=${`${key}: ${stateOf(key)}`}><${State} state=${stateOf(key)} word=${plain(key.split("/")[1])} /><span class="unseen">, ${stateOf(key)}</span></a>`)}
    ${item.nodes > WHO && html`<a class="more" href=${link("nodes", { capability: item.name })}>+${item.nodes - WHO} more</a>`}</span>`;
}

const healthy = (key) => Number(["ready", "busy"].includes(stateOf(key)));

function listOf(shown) {
  return html`<div class="matrix" role="table" aria-label="Capabilities">
    <div class="row head" role="row">${["Capability", "Healthy", "Room", "Who", "Warnings"].map((title) => html`<div role="columnheader">${title}</div>`)}</div>
    ${shown.map((item) => html`<div class="row" role="row" key=${item.name}>
      <div role="cell" class="m-name"><a class="name" href=${link("nodes", { capability: item.name })}><bdi>${plain(item.name)}</bdi></a>
        <span class="muted versions"> ${Object.keys(item.versions).filter(Boolean).map(plain).join(", ")}</span>
        ${item.description && html`<span class="under">${plain(item.description)}</span>`}</div>
      <div role="cell" class="m-healthy"><b>${item.healthy}</b><span class="muted"> of ${item.nodes}</span></div>
      <div role="cell" class="m-room"><${Load} active=${item.active_tasks} capacity=${item.capacity} /><span class="under">${item.free} free</span></div>
      <div role="cell" class="m-who"><${Who} item=${item} /></div>
      <div role="cell" class="m-warn">${warningsOf(item).map(([kind, word, why]) => html`<span class=${`warning w-${kind}`} title=${why}><${State} state=${kind} word=${word} /></span>`)}</div>
    </div>`)}
  </div>`;
}

function gridOf(shown, nodes) {
  return html`<div class="scroll"><table class="grid"><caption class="unseen">Which node offers which capability</caption>
    <thead><tr><th scope="col">Capability</th>${nodes.map((key) => html`<th scope="col" class="up"><a href=${nodeLink(key)}><bdi>${plain(key.split("/")[1])}</bdi></a></th>`)}</tr></thead>
    <tbody>${shown.map((item) => html`<tr key=${item.name}><th scope="row"><bdi>${plain(item.name)}</bdi>${item.single && html` <span class="warning w-warn"><${State} state="warn" word="one alone" /></span>`}</th>
      ${nodes.map((key) => html`<td>${item.offered_by.includes(key) ? html`<span title=${`${key} offers ${plain(item.name)}: ${stateOf(key)}`}><${State} state=${stateOf(key)} word=${html`<span class="unseen">${stateOf(key)}</span>`} /></span>` : null}</td>`)}</tr>`)}
    </tbody></table></div>
    <p class="legend" aria-hidden="true">${STATES.map((state) => html`<${State} state=${state} />`)}</p>`;
}
