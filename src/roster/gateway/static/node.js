// One node: what it says of itself, what became of it, and its passport.
import { get, nodePath, post } from "./api.js";
import { Age, duration } from "./ages.js";
import { html } from "./html.js";
import { Heartbeat } from "./nodes.js";
import { store } from "./store.js";
import { Act, Asking, Copy, Empty, Heading, Load, Notice, Plain, Some, State, link, plain, words } from "./ui.js";

const SOON = 400; // after a change of the node: what belongs together comes together
const SELDOM = 10_000; // tasks and published events make no event of the watch

export class NodePage extends Asking {
  componentDidMount() {
    super.componentDidMount();
    this.unsubscribe = store.subscribe(() => {
      const entry = store.nodes.get(this.props.id);
      if (entry !== this.entry) {
        this.entry = entry;
        clearTimeout(this.timer);
        this.timer = setTimeout(this.again, SOON);
      }
      this.setState({});
    });
    this.entry = store.nodes.get(this.props.id);
  }

  componentWillUnmount() {
    super.componentWillUnmount();
    this.unsubscribe();
  }

  async load() {
    const path = nodePath(this.props.id);
    const [document, yaml, past] = await Promise.all([
      get(path),
      get(path, { accept: "application/yaml" }),
      get(`${path}/history`),
    ]);
    if (!this.gone) this.setState({ document, yaml, past });
    return SELDOM;
  }

  drain = async () => {
    await post(`${nodePath(this.props.id)}/drain`);
    this.again();
  };

  undrain = async () => {
    await post(`${nodePath(this.props.id)}/undrain`);
    this.again();
  };

  render({ id }, { document, yaml, past, failure }) {
    const node = store.nodes.get(id)?.node;
    const name = id.split("/")[1];
    const top = html`<nav class="crumbs" aria-label="Where you are"><a href="#/nodes">Nodes</a> <span aria-hidden="true">/</span> <bdi>${plain(id.split("/")[0])}</bdi></nav>`;
    if (failure?.status === 404 || (!node && store.loaded && !document && failure)) {
      return html`${top}<${Heading}>${plain(name)}<//><${Empty} title="There is no such node">
        <p>It may have left in good order, or have been offline for longer than the registry keeps it. <a href="#/nodes">See the nodes there are</a>.</p><//>`;
    }
    if (!node || !document) return html`${top}<${Heading}>${plain(name)}<//>${failure ? html`<${Notice} kind="bad">${words(failure)}<//>` : html`<p class="muted" role="status">Reading …</p>`}`;
    const spec = document.spec ?? {};
    return html`${top}
      <header class="title">
        <${Heading}><bdi>${plain(node.name)}</bdi><//>
        <${State} state=${node.state} />
        ${node.cordoned && html`<span class="state s-draining">drained by hand</span>`}
        <span class="grow"></span>
        ${store.mayChange && (node.cordoned
          ? html`<${Act} act=${this.undrain} ask=${{ title: `Give ${plain(node.name)} work again?`, text: "It takes new work from now on.", confirm: "Undrain" }}>Undrain<//>`
          : html`<${Act} act=${this.drain} ask=${{ title: `Drain ${plain(node.name)}?`, text: "It gets no new work; what it runs it finishes. It stays so through restarts, until somebody undrains it.", confirm: "Drain" }}>Drain<//>`)}
      </header>
      ${failure && html`<${Notice}>${words(failure)}<//>`}
      <dl class="facts">
        <div><dt>Load</dt><dd><${Load} active=${node.active_tasks} capacity=${node.capacity} /></dd></div>
        <div><dt>Last heartbeat</dt><dd><${Heartbeat} node=${node} lostAt=${store.lostAt} /></dd></div>
        <div><dt>Registered</dt><dd><${Age} at=${node.registered_at} /></dd></div>
        <div><dt>Type</dt><dd>${plain(node.type)} ${plain(node.version ?? "")}</dd></div>
        <div><dt>Queue</dt><dd class="mono">${plain(node.queue)}</dd></div>
        <div><dt>Incarnation</dt><dd class="mono">${plain(node.uid || "none")}</dd></div>
        ${Object.keys(node.labels).length > 0 && html`<div class="wide"><dt>Labels</dt><dd>${Object.entries(node.labels).map(([key, value]) => html`<a class="tag" href=${link("nodes", { label: `${key}=${value}` })}><bdi>${plain(`${key}=${value}`)}</bdi></a> `)}</dd></div>`}
      </dl>
      <div class="split">
        <div>
          ${this.capabilities(node, spec)}
          ${this.conditions(node)}
          ${this.tasks(past)}
          ${this.states(past)}
          ${this.events(past)}
        </div>
        <section class="passport" aria-labelledby="passport">
          <div class="bar"><h2 id="passport">Passport</h2><${Copy} text=${plain(yaml)} what="the passport" /></div>
          <pre class="yaml" role="region" tabindex="0" aria-label="Passport as YAML">${plain(yaml)}</pre>
        </section>
      </div>`;
  }

  capabilities(node, spec) {
    const declared = Array.isArray(spec.capabilities) ? spec.capabilities : [];
    if (!declared.length) return null;
    return html`<section><h2>Capabilities</h2><ul class="offers">${declared.map((one) => html`<li>
      <a href=${link("nodes", { capability: one.name })}><bdi>${plain(one.name)}</bdi></a>
      ${one.version && html` <span class="muted">${plain(one.version)}</span>`}
      ${node.withdrawn.includes(one.name) && html` <span class="warnish">withdrawn at present</span>`}
      ${one.idempotent === true && html` <span class="tag">safe to repeat</span>`}
      ${one.description && html`<p class="muted">${plain(one.description)}</p>`}
    </li>`)}</ul></section>`;
  }

  conditions(node) {
    return html`<section><h2>Conditions</h2>${node.conditions.length
      ? html`<${Plain} caption="Conditions" rows=${node.conditions} columns=${[
          ["Condition", (row) => html`<b>${plain(row.type)}</b>`],
          ["Status", (row) => plain(row.status)],
          ["Why", (row) => html`${plain(row.reason)}${row.message && html`<span class="under">${plain(row.message)}</span>`}`, "rest"],
          ["Since", (row) => html`<${Age} at=${row.lastTransitionTime} />`, "end"],
        ]} />`
      : html`<p class="muted">None: it has nothing to complain about.</p>`}</section>`;
  }

  tasks(past) {
    const tasks = past?.tasks ?? [];
    return html`<section><h2>Recent tasks</h2>${tasks.length
      ? html`<${Some} items=${tasks}>${(rows) => html`<${Plain} caption="Recent tasks" rows=${rows} columns=${[
          ["Capability", (row) => html`<bdi>${plain(row.capability)}</bdi>`],
          ["Outcome", (row) => html`<${State} state=${row.outcome === "ok" ? "ok" : "bad"} word=${row.outcome === "ok" ? "done" : plain(row.outcome)} />${row.error && html`<span class="under">${plain(row.error)}</span>`}`, "rest"],
          ["Took", (row) => duration(row.duration), "end"],
          ["When", (row) => html`<${Age} at=${row.at} />`, "end"],
        ]} />`}<//>`
      : html`<p class="muted">None that this gateway has seen. It sees the calls made through it; callers with a bus of their own go past it.</p>`}</section>`;
  }

  states(past) {
    const states = past?.states ?? [];
    return html`<section><h2>History of states</h2>${states.length
      ? html`<${Some} items=${states}>${(rows) => html`<ol class="history">${rows.map((one) => html`<li>
          <${State} state=${one.state} word=${one.type === "removed" ? "removed" : one.state} />
          <span class="muted">${one.type === "added" ? "first seen here" : `${one.active_tasks} of ${one.capacity} tasks`}</span>
          <span class="grow"></span><${Age} at=${one.at} /></li>`)}</ol>`}<//>`
      : html`<p class="muted">Nothing has changed since this gateway started.</p>`}</section>`;
  }

  events(past) {
    const events = past?.events ?? [];
    return events.length > 0 && html`<section><h2>What it published</h2><${Some} items=${events}>${(rows) => html`<${Plain} caption="Published events" rows=${rows} columns=${[
      ["Topic", (row) => html`<bdi class="mono">${plain(row.topic)}</bdi>`],
      ["Data", (row) => html`<code class="cut">${row.data === null ? "" : plain(JSON.stringify(row.data))}</code>`, "rest"],
      ["When", (row) => html`<${Age} at=${row.at} />`, "end"],
    ]} />`}<//></section>`;
  }
}
