// The list of runs of process cards.
import { get } from "./api.js";
import { Age, Lasting } from "./ages.js";
import { html } from "./html.js";
import { Asking, Command, Empty, Heading, Notice, State, plain, runLink, words } from "./ui.js";

const EVERY = 2000;
const STATES = ["running", "waiting", "paused", "pending", "succeeded", "failed", "cancelled", "dead"];
const WAITS = { approval: "a person", escalation: "a person, after a failure", event: "an event", duration: "a time", node: "a node" };

/** What a run or a step waits for, in words. */
export function waitsFor(waiting) {
  const what = WAITS[waiting.kind] ?? waiting.kind;
  const which = waiting.event ? `event ${waiting.event}` : what;
  return `waits for ${which}${waiting.message ? `: ${waiting.message}` : ""}`;
}

/** Why there are no runs to see. */
export function NoRuns({ failure }) {
  if (failure.status === 501 || failure.status === 404) {
    return html`<${Empty} title="This gateway cannot run process cards"><p>${words(failure)}</p>
      <${Command} text="pip install 'agent-roster[gateway,runs]'" /><p class="muted">Then start the gateway again.</p><//>`;
  }
  return html`<${Notice} kind="bad">${words(failure)}<//>`;
}

export class Runs extends Asking {
  state = { only: null, pages: 1 };

  async load() {
    const { only, pages } = this.state;
    const items = [];
    let page = null;
    for (let number = 0; number < pages; number += 1) {
      const answer = await get(`/api/v1/runs?${new URLSearchParams({ limit: "100", ...(only ? { state: only } : {}), ...(page ? { page } : {}) })}`);
      items.push(...answer.items);
      page = answer.next;
      if (page === null) break;
    }
    if (!this.gone && only === this.state.only) this.setState({ items, more: page !== null });
    return EVERY;
  }

  choose(state) {
    this.setState({ only: this.state.only === state ? null : state, pages: 1 }, this.again);
  }

  render(_, { items, more, only, pages, failure }) {
    const head = html`<${Heading}>Runs<//>`;
    if (!items) return html`${head}${failure ? html`<${NoRuns} failure=${failure} />` : html`<p class="muted" role="status">Reading …</p>`}`;
    if (!items.length && !only) {
      return html`${head}<${Empty} title="No process card has run yet">
        <p>A process card is a YAML workflow whose steps name capabilities. Start one, and watch it here step by step:</p>
        <${Command} text="roster run card.yaml -i topic=bees" /><//>`;
    }
    return html`${head}
      ${failure && html`<${Notice}>${words(failure)}<//>`}
      <div class="filters"><div class="toggles" role="group" aria-label="States">
        ${STATES.map((state) => html`<button type="button" key=${state} class=${`toggle s-${state}`} aria-pressed=${only === state ? "true" : "false"} onClick=${() => this.choose(state)}><${State} state=${state} /></button>`)}
      </div></div>
      ${items.length
        ? html`<div class="matrix runs" role="table" aria-label="Runs">
            <div class="row head" role="row">${["Run", "Card", "State", "Started", "Took"].map((title) => html`<div role="columnheader">${title}</div>`)}</div>
            ${items.map((run) => html`<div class="row" role="row" key=${run.id}>
              <div role="cell" class="r-id"><a class="name" href=${runLink(run.id)}><bdi>${plain(run.id)}</bdi></a></div>
              <div role="cell" class="r-card"><bdi>${plain(run.card)}</bdi> <span class="muted">${plain(run.card_version ?? "")}</span></div>
              <div role="cell" class="r-state"><${State} state=${run.state} />
                ${run.waiting ? html`<span class="under">${plain(waitsFor(run.waiting))}</span>` : run.error ? html`<span class="under">${plain(run.error.message ?? run.error.code)}</span>` : null}</div>
              <div role="cell" class="r-at"><${Age} at=${run.started_at ?? run.created_at} /></div>
              <div role="cell" class="r-took"><${Lasting} from=${run.started_at} to=${run.ended_at} /></div>
            </div>`)}
          </div>
          ${more && html`<p><button type="button" onClick=${() => this.setState({ pages: pages + 1 }, this.again)}>Show more</button></p>`}`
        : html`<${Empty} title=${`No run is ${only}`}><p><button type="button" class="quiet" onClick=${() => this.choose(only)}>Show all runs</button></p><//>`}`;
  }
}
