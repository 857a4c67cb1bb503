// Words for times, and ages that tick by themselves: one timer changes their texts, and nothing else is drawn anew.
import { now } from "./api.js";
import { Component, createRef, html } from "./html.js";

/** Seconds in words: `now`, `12 s`, `3 min`, `2 h`, `5 d`. */
export function span(seconds) {
  if (!(seconds >= 0)) return "0 s";
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 48 * 3600) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} d`;
}

/** Seconds of work, exactly enough: `0.35 s`, `12.4 s`, `3 min 20 s`. */
export function duration(seconds) {
  if (!(seconds >= 0)) return "";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}

/** The same for an axis: `90 ms`, `4.7 s`, `1m 30s`. */
export function brief(seconds) {
  if (seconds < 60) return duration(seconds);
  if (seconds < 3600) return `${Math.floor(seconds / 60)}m ${Math.floor(seconds % 60)}s`;
  return `${Math.floor(seconds / 3600)}h ${Math.floor((seconds % 3600) / 60)}m`;
}

export function ago(at) {
  const seconds = (now() - at) / 1000;
  return seconds < 2 ? "now" : `${span(seconds)} ago`;
}

export function clock(at) {
  return new Date(at).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
}

const shown = new Set();

setInterval(() => {
  if (!document.hidden) for (const age of shown) age.tick();
}, 1000);
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) for (const age of shown) age.tick();
});

class Ticking extends Component {
  text = createRef();

  componentDidMount() {
    shown.add(this);
  }

  componentWillUnmount() {
    shown.delete(this);
  }

  componentDidUpdate() {
    this.tick();
  }

  tick() {
    const words = this.words();
    const text = this.text.current?.firstChild;
    if (text && text.data !== words) text.data = words;
  }
}

/** How long ago something was: `at` is RFC 3339, or null. */
export class Age extends Ticking {
  shouldComponentUpdate(next) {
    return next.at !== this.props.at;
  }

  words() {
    return this.props.at ? ago(Date.parse(this.props.at)) : "never";
  }

  render({ at }) {
    return at
      ? html`<time ref=${this.text} datetime=${at} title=${clock(Date.parse(at))}>${this.words()}</time>`
      : html`<span ref=${this.text} class="muted">${this.words()}</span>`;
  }
}

/** How long something takes, or took: from `from` to `to`, or to now. */
export class Lasting extends Ticking {
  words() {
    const { from, to } = this.props;
    return from ? duration(((to ? Date.parse(to) : now()) - Date.parse(from)) / 1000) : "";
  }

  render() {
    return html`<span ref=${this.text}>${this.words()}</span>`;
  }
}
