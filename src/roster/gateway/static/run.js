// One run: its graph, its timeline, its steps, and what a person may say to it.
import { get, post } from "./api.js";
import { Age, Lasting, clock } from "./ages.js";
import { Graph } from "./graph.js";
import { html } from "./html.js";
import { NoRuns, waitsFor } from "./runs.js";
import { store } from "./store.js";
import { Timeline } from "./timeline.js";
import { Act, Asking, Empty, Heading, Notice, Plain, State, nodeLink, plain, words } from "./ui.js";

const EVERY = 1000;
const OVER = ["succeeded", "failed", "cancelled", "dead"];
const PEOPLE = ["approval", "escalation"];

export class RunPage extends Asking {
  get path() {
    return `/api/v1/runs/${encodeURIComponent(this.props.id)}`;
  }

  async load() {
    const run = await get(this.path);
    if (this.gone) return null;
    this.setState({ run });
    if (!this.state.graph) {
      const graph = await get(`${this.path}/graph`);
      if (!this.gone) this.setState({ graph });
    }
    // A run that was given up can be resumed: it is looked at now and then.
    return OVER.includes(run.state) ? (run.state === "dead" ? 5000 : null) : EVERY;
  }

  say = (word, body) => async () => {
    this.setState({ run: await post(`${this.path}/${word}`, body) });
    this.again();
  };

  decide = (word, step) => async (comment) => {
    this.setState({ run: await post(`${this.path}/${word}`, { step, comment }) });
    this.again();
  };

  cancel = async (reason) => {
    this.setState({ run: await post(`${this.path}/cancel`, { reason }) });
    this.again();
  };

  render({ id }, { run, graph, failure }) {
    const top = html`<nav class="crumbs" aria-label="Where you are"><a href="#/runs">Runs</a> <span aria-hidden="true">/</span> <bdi>${run ? plain(run.card) : ""}</bdi></nav>`;
    if (!run) {
      if (failure?.status === 404) {
        return html`${top}<${Heading}>${plain(id)}<//><${Empty} title="There is no such run"><p>Runs that are over are kept for a while only. <a href="#/runs">See the runs there are</a>.</p><//>`;
      }
      return html`${top}<${Heading}>${plain(id)}<//>${failure ? html`<${NoRuns} failure=${failure} />` : html`<p class="muted" role="status">Reading …</p>`}`;
    }
    const over = OVER.includes(run.state);
    return html`${top}
      <header class="title"><${Heading}><bdi>${plain(run.id)}</bdi><//><${State} state=${run.state} /><span class="grow"></span>
        ${store.mayChange && html`
          ${(run.state === "paused" || run.state === "dead") && html`<button type="button" onClick=${this.say("resume", {})}>Resume</button>`}
          ${!over && run.state !== "paused" && html`<button type="button" onClick=${this.say("pause", {})}>Pause</button>`}
          ${!over && html`<${Act} kind="danger" act=${this.cancel} ask=${{ title: "Cancel this run?", text: "It ends, and what nodes do for it is stopped. It cannot be taken back.", confirm: "Cancel the run", field: "Reason" }}>Cancel run<//>`}`}
      </header>
      ${failure && html`<${Notice}>${words(failure)}<//>`}
      ${this.asked(run)}
      ${run.stuck && html`<${Notice}><b>It does not get on:</b> ${plain(run.stuck)}<//>`}
      ${run.error && html`<${Notice} kind="bad"><b>${plain(run.error.code ?? "It failed")}</b> ${run.error.step && html`in step <code>${plain(run.error.step)}</code>`}<br />${plain(run.error.message ?? "")}<//>`}
      <dl class="facts">
        <div><dt>Card</dt><dd><bdi>${plain(run.card)}</bdi> ${plain(run.card_version ?? "")}</dd></div>
        <div><dt>Started</dt><dd><${Age} at=${run.started_at ?? run.created_at} /></dd></div>
        <div><dt>${over ? "Took" : "Runs for"}</dt><dd><${Lasting} from=${run.started_at} to=${run.ended_at} /></dd></div>
        <div><dt>Taken up anew</dt><dd>${run.recoveries === 0 ? "never" : run.recoveries === 1 ? "once" : `${run.recoveries} times`}</dd></div>
        ${run.executor && html`<div><dt>Orchestrator</dt><dd class="mono">${plain(run.executor)}</dd></div>`}
      </dl>
      <div class="split run">
        <section aria-labelledby="graph"><h2 id="graph">Steps of the card</h2>${graph ? html`<${Graph} graph=${graph} steps=${run.steps} />` : html`<p class="muted">Reading …</p>`}</section>
        <div>
          <section aria-labelledby="timeline"><h2 id="timeline">Timeline</h2>
            ${run.steps.length ? html`<${Timeline} run=${run} />` : html`<p class="muted">No step has begun yet.</p>`}</section>
          ${this.tries(run)}
          <section><h2>Inputs</h2><pre class="json" role="region" tabindex="0" aria-label="Inputs">${shown(run.inputs)}</pre></section>
          ${run.state === "succeeded" && html`<section><h2>Result</h2><pre class="json" role="region" tabindex="0" aria-label="Result">${shown(run.result)}</pre></section>`}
        </div>
      </div>`;
  }

  /** What waits for a person. Steps that are not said apart wait as the run does. */
  asked(run) {
    const asking = run.steps.filter((step) => step.waiting && PEOPLE.includes(step.waiting.kind));
    const open = asking.length ? asking.map((step) => ({ key: step.key, id: step.id, waiting: step.waiting }))
      : run.waiting && PEOPLE.includes(run.waiting.kind) ? [{ key: null, id: run.waiting.step, waiting: run.waiting }] : [];
    if (!open.length) return run.waiting && html`<${Notice} kind="info">It ${plain(waitsFor(run.waiting))}, begun <${Age} at=${run.waiting.since} />.<//>`;
    return open.map(({ key, id, waiting }) => {
      const again = waiting.kind === "escalation";
      return html`<section class="asks" aria-label=${`Decision: ${plain(id)}`} key=${key ?? id}>
        <div><p class="over">${again ? "A step failed, and asks what to do" : "Waits for your approval"} · <code>${plain(id)}</code></p>
          <p class="question">${plain(waiting.message || (again ? "Try the step again?" : "May the run go on?"))}</p>
          <p class="muted">asked <${Age} at=${waiting.since} />${waiting.until && html`, answer until ${clock(Date.parse(waiting.until))}`}</p></div>
        ${store.mayChange
          ? html`<div class="buttons">
              <${Act} act=${this.decide("reject", key)} kind="danger" ask=${{ title: "Reject?", text: "The step fails, and the run goes the way that its card has for that.", confirm: "Reject", field: "Comment, for the record" }}>Reject<//>
              <${Act} act=${this.decide("approve", key)} kind="solid" ask=${{ title: again ? "Try again?" : "Approve?", text: again ? "The step is tried again." : "The run goes on.", confirm: again ? "Try again" : "Approve", field: "Comment, for the record" }}>${again ? "Try again" : "Approve"}<//>
            </div>`
          : html`<p class="muted">Your token may look and not decide.</p>`}
      </section>`;
    });
  }

  tries(run) {
    const rows = run.steps.filter((step) => step.attempts.length || step.error || step.waiting);
    return rows.length > 0 && html`<section><h2>Tries</h2><div class="tried"><${Plain} caption="Tries" rows=${rows} columns=${[
      ["Step", (step) => html`<b><bdi>${plain(step.id)}</bdi></b>${step.visit > 1 && html` <span class="muted">visit ${step.visit}</span>`}${step.action && html`<span class="under"><bdi>${plain(step.action)}</bdi></span>`}`],
      ["State", (step) => html`<${State} state=${step.state} />`],
      ["Where it was tried", (step) => html`${step.attempts.length > 0 && html`<ol class="tries">${step.attempts.map((one) => html`<li><${State} state=${one.outcome === "ok" ? "ok" : "bad"} word=${plain(one.outcome)} /> ${one.node && html`<a href=${nodeLink(one.node)}><bdi>${plain(one.node)}</bdi></a>`}${one.error && html`<span class="under">${plain(one.error)}</span>`}</li>`)}</ol>`}
        ${step.waiting && html`<span class="under">${plain(waitsFor(step.waiting))}</span>`}${step.error && html`<span class="under">${plain(step.error.message ?? step.error.code)}</span>`}`, "rest"],
      ["Took", (step) => html`<${Lasting} from=${step.dispatched_at ?? step.started_at} to=${step.ended_at} />`, "end"],
    ]} /></div></section>`;
  }
}

function shown(value) {
  // Line ends within texts are better read as such than as \n, but then it would not be JSON any more.
  return plain(JSON.stringify(value, null, 2) ?? "null");
}
