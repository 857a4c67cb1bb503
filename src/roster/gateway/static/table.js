// A long list of which only the rows in sight, and some around them, are in the page.
import { Component, createRef, html } from "./html.js";

const AROUND = 8;

/**
 * Props: `label`, `columns` (`[{id, title, class, sort, falls}]`, `falls` where the largest comes first), `rows` (each with `key`), `row(entry)` the cells of one,
 * `height` of a row in px, `sort`, `down`, `onSort(id)`. The page itself scrolls.
 */
export class Table extends Component {
  body = createRef();
  state = { first: 0, last: 40 };

  componentDidMount() {
    this.look = () => {
      this.frame ??= requestAnimationFrame(() => {
        this.frame = null;
        this.measure();
      });
    };
    addEventListener("scroll", this.look, { passive: true });
    addEventListener("resize", this.look);
    this.measure();
  }

  componentWillUnmount() {
    removeEventListener("scroll", this.look);
    removeEventListener("resize", this.look);
    cancelAnimationFrame(this.frame);
  }

  componentDidUpdate() {
    this.measure();
    if (this.wanted) {
      const row = this.rowOf(this.wanted);
      if (row) {
        this.wanted = null;
        row.focus();
      }
    }
  }

  measure() {
    const body = this.body.current;
    if (!body) return;
    const { height, rows } = this.props;
    const above = -body.getBoundingClientRect().top;
    const first = Math.max(0, Math.min(Math.floor(above / height), rows.length) - AROUND);
    const last = Math.min(rows.length, Math.ceil((above + innerHeight) / height) + AROUND);
    if (first !== this.state.first || last !== this.state.last) this.setState({ first, last });
  }

  rowOf(key) {
    return this.body.current?.querySelector(`[data-key="${CSS.escape(key)}"] a`);
  }

  /** Arrow keys walk from row to row, also to those that are not in the page yet. */
  onKey = (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -Infinity, End: Infinity }[event.key];
    if (step === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    const { rows, height } = this.props;
    const key = event.target.closest("[data-key]")?.dataset.key;
    const from = rows.findIndex((row) => row.key === key);
    if (from < 0) return;
    event.preventDefault();
    const to = Math.max(0, Math.min(rows.length - 1, from + step));
    const top = this.body.current.getBoundingClientRect().top + scrollY + to * height;
    const head = 96; // what sticks to the top
    if (top < scrollY + head) scrollTo({ top: top - head });
    else if (top + height > scrollY + innerHeight - 8) scrollTo({ top: top + height - innerHeight + 8 });
    const row = this.rowOf(rows[to].key);
    if (row) row.focus({ preventScroll: true });
    else {
      this.wanted = rows[to].key;
      this.measure();
    }
  };

  render({ label, columns, rows, row, height, sort, down, onSort }, { first, last }) {
    const falls = (column) => Boolean(column.falls) !== Boolean(down);
    const shown = [];
    for (let place = first; place < Math.min(last, rows.length); place += 1) {
      const entry = rows[place];
      shown.push(html`<div class="row" role="row" key=${entry.key} data-key=${entry.key} aria-rowindex=${place + 2} style=${{ top: `${place * height}px`, height: `${height}px` }}>
        ${row(entry).map((cell, number) => html`<div role="cell" class=${`cell ${columns[number].class}`}>${cell}</div>`)}
      </div>`);
    }
    return html`<div class="table" role="table" aria-label=${label} aria-rowcount=${rows.length + 1}>
      <div class="head" role="rowgroup"><div class="row" role="row" aria-rowindex="1">
        ${columns.map((column) => html`<div role="columnheader" class=${`cell ${column.class}`} aria-sort=${column.sort && sort === column.id ? (falls(column) ? "descending" : "ascending") : undefined}>
          ${column.sort
            ? html`<button type="button" class="sort" onClick=${() => onSort(column.id)}>${column.title}<span class="way" aria-hidden="true">${sort === column.id ? (falls(column) ? "↓" : "↑") : ""}</span></button>`
            : column.title}
        </div>`)}
      </div></div>
      <div class="body" role="rowgroup" ref=${this.body} style=${{ height: `${rows.length * height}px` }} onKeyDown=${this.onKey}>${shown}</div>
    </div>`;
  }
}
