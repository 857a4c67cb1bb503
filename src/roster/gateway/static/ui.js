// The small parts that every page is made of.
import { Component, createRef, html } from "./html.js";
import { Problem } from "./api.js";
import { store } from "./store.js";

// What would turn a line around or hide in it is written out: names and messages are anybody's text.
// eslint-disable-next-line no-control-regex
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

/** A text in which nothing is hidden. */
export const plain = (text) =>
  String(text).replace(UNSEEN, (found) => `\\u${found.charCodeAt(0).toString(16).padStart(4, "0")}`);

/** A list's address with some of its filters. */
export function link(page, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value);
  return `#/${page}${given.length ? `?${new URLSearchParams(given)}` : ""}`;
}

export const nodeLink = (key) => `#/nodes/${key.split("/").map(encodeURIComponent).join("/")}`;
export const runLink = (id) => `#/runs/${encodeURIComponent(id)}`;

// A shape for each state, so that the colour is not all that tells them apart.
const SHAPES = {
  dot: html`<circle cx="5" cy="5" r="4" fill="currentColor"/>`,
  half: html`<circle cx="5" cy="5" r="3.3" fill="none" stroke="currentColor" stroke-width="1.4"/><path d="M5 1.7a3.3 3.3 0 0 1 0 6.6z" fill="currentColor"/>`,
  ring: html`<circle cx="5" cy="5" r="3.3" fill="none" stroke="currentColor" stroke-width="1.4"/>`,
  down: html`<path d="M1 2h8L5 9z" fill="currentColor"/>`,
  diamond: html`<path d="M5 .6 9.4 5 5 9.4.6 5z" fill="none" stroke="currentColor" stroke-width="1.4"/>`,
  cross: html`<path d="m1.8 1.8 6.4 6.4m0-6.4L1.8 8.2" stroke="currentColor" stroke-width="1.8" fill="none"/>`,
  bars: html`<path d="M2.8 1.5v7M7.2 1.5v7" stroke="currentColor" stroke-width="1.9" fill="none"/>`,
  check: html`<path d="m1.3 5.4 2.6 2.6 4.8-6" stroke="currentColor" stroke-width="1.7" fill="none"/>`,
};
const LOOKS = {
  ready: "dot", busy: "half", starting: "ring", draining: "down", unknown: "diamond", offline: "cross",
  pending: "ring", running: "half", waiting: "bars", paused: "bars", succeeded: "check", failed: "cross",
  cancelled: "cross", dead: "cross", skipped: "down",
  ok: "check", warn: "diamond", bad: "cross",
};

/** A state: its shape, its colour and its word. */
export function State({ state, word }) {
  return html`<span class=${`state s-${state}`}><svg class="glyph" viewBox="0 0 10 10" aria-hidden="true">${SHAPES[LOOKS[state] ?? "ring"]}</svg>${word ?? state}</span>`;
}

/** How full something is. */
export function Load({ active, capacity, label }) {
  const part = capacity > 0 ? Math.min(1, active / capacity) : 0;
  const full = capacity > 0 && active >= capacity;
  return html`<span class="load">
    <span class="track" role="meter" aria-label=${label ?? "tasks"} aria-valuemin="0" aria-valuemax=${capacity} aria-valuenow=${active} aria-valuetext=${`${active} of ${capacity} tasks`}>
      <span class=${full ? "fill full" : "fill"} style=${{ width: `${(part * 100).toFixed(1)}%` }}></span>
    </span>
    <span class="count"><b>${active}</b><span class="muted"> / ${capacity}</span></span>
  </span>`;
}

/** Some of many words, and how many more there are. */
export function Tags({ items, most = 3, of = (item) => item, class: kind = "" }) {
  const rest = items.length - most;
  return html`<span class=${`tags ${kind}`} title=${rest > 0 ? plain(items.map(String).join("\n")) : undefined}>
    ${items.slice(0, most).map((item) => html`<bdi class="tag">${plain(of(item))}</bdi>`)}
    ${rest > 0 && html`<span class="more">+${rest}</span>`}
  </span>`;
}

/** Whether the heading of a page is to be focused: those who hear the page are told where a link has led them. */
export const arrival = { waiting: false };
for (const act of ["keydown", "pointerdown"]) addEventListener(act, () => (arrival.waiting = false), true);

/** The heading of a page. A page that was being read gets another one when it is there: that one takes the focus over. */
export class Heading extends Component {
  heading = createRef();

  componentDidMount() {
    if (arrival.waiting) this.heading.current.focus({ preventScroll: true });
  }

  render({ children }) {
    return html`<h1 tabindex="-1" ref=${this.heading}>${children}</h1>`;
  }
}

/** What to do where there is nothing to see. */
export function Empty({ title, children }) {
  return html`<div class="empty" role="status"><h2>${title}</h2>${children}</div>`;
}

export function Notice({ kind = "warn", children }) {
  return html`<div class=${`notice n-${kind}`} role=${kind === "bad" ? "alert" : "status"}>${children}</div>`;
}

/** A command to type, with a button that copies it. */
export function Command({ text }) {
  return html`<div class="command"><code>${text}</code><${Copy} text=${text} /></div>`;
}

export class Copy extends Component {
  copy = async () => {
    try {
      await navigator.clipboard.writeText(this.props.text);
      this.setState({ said: "Copied" });
    } catch {
      this.setState({ said: "Select and copy" });
    }
    setTimeout(() => this.setState({ said: null }), 1500);
  };

  render({ what = "" }, { said }) {
    return html`<button type="button" class="quiet" onClick=${this.copy} aria-label=${said ?? `Copy ${what}`.trim()}>${said ?? "Copy"}</button>`;
  }
}

export const words = (error) =>
  error instanceof Problem ? plain(error.message) : "The gateway does not answer. Is it still running?";

/**
 * A button that asks before it acts. `ask` is `{title, text, confirm, field}`; `field` asks for words that `act` is given.
 */
export class Act extends Component {
  dialog = createRef();

  open = () => {
    this.setState({ opened: true, failure: null, text: "" }, () => this.dialog.current.showModal());
  };

  close = () => this.dialog.current?.close();

  confirm = async (event) => {
    event.preventDefault();
    this.setState({ acting: true, failure: null });
    try {
      await this.props.act(this.state.text ?? "");
      this.close();
    } catch (error) {
      this.setState({ failure: words(error) });
    } finally {
      this.setState({ acting: false });
    }
  };

  render({ ask, kind = "", children }, { opened, acting, failure, text }) {
    return html`<button type="button" class=${kind} onClick=${this.open}>${children}</button>
      <dialog ref=${this.dialog} aria-label=${ask.title} class="ask" onClose=${() => this.setState({ opened: false })}>
        ${opened && html`<form onSubmit=${this.confirm}>
          <h2>${ask.title}</h2>
          <p>${ask.text}</p>
          ${ask.field && html`<label class="field">${ask.field}<input type="text" maxlength="2000" value=${text ?? ""} onInput=${(event) => this.setState({ text: event.target.value })} /></label>`}
          ${failure && html`<${Notice} kind="bad">${failure}<//>`}
          <div class="buttons">
            <button type="button" class="quiet" onClick=${this.close}>Back</button>
            <button type="submit" class=${kind.includes("danger") ? "danger solid" : "solid"} disabled=${acting}>${ask.confirm}</button>
          </div>
        </form>`}
      </dialog>`;
  }
}

/** A component that is drawn anew when the store tells of a change. */
export class Live extends Component {
  componentDidMount() {
    this.unsubscribe = store.subscribe(() => this.onStore());
  }

  componentWillUnmount() {
    this.unsubscribe();
  }

  onStore() {
    this.setState({ seen: store.version });
  }
}

/** Ask again and again as long as the page is looked at: `load()` says after how many ms (null: not any more). */
export class Asking extends Component {
  componentDidMount() {
    this.gone = false;
    this.again();
  }

  componentWillUnmount() {
    this.gone = true;
    clearTimeout(this.timer);
  }

  again = async () => {
    clearTimeout(this.timer);
    const turn = (this.turn = (this.turn ?? 0) + 1);
    let wait = 2000;
    if (!document.hidden) {
      try {
        wait = await this.load();
        if (this.state.failure && !this.gone) this.setState({ failure: null });
      } catch (error) {
        if (!this.gone && turn === this.turn) this.setState({ failure: error });
        wait = 5000;
      }
    }
    if (!this.gone && turn === this.turn && wait !== null) this.timer = setTimeout(this.again, wait);
  };
}

/** The first of many things, and a button for the others. `children` is a function of what is to be shown. */
export class Some extends Component {
  render({ items, most = 8, children }, { all }) {
    const draw = Array.isArray(children) ? children[0] : children;
    return html`${draw(all ? items : items.slice(0, most))}
      ${!all && items.length > most && html`<button type="button" class="quiet" onClick=${() => this.setState({ all: true })}>Show all ${items.length}</button>`}`;
  }
}

/** A short table as it stands. `columns` are `[title, row => content, class]`. */
export function Plain({ caption, columns, rows }) {
  return html`<div class="scroll"><table class="plain">
    <caption class="unseen">${caption}</caption>
    <thead><tr>${columns.map(([title, , kind]) => html`<th scope="col" class=${kind}>${title}</th>`)}</tr></thead>
    <tbody>${rows.map((row) => html`<tr>${columns.map(([, of, kind]) => html`<td class=${kind}>${of(row)}</td>`)}</tr>`)}</tbody>
  </table></div>`;
}
