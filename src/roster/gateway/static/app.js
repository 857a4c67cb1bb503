// The page around the pages: where one is, how fresh it is, who one is, and the theme.
import { span } from "./ages.js";
import { now } from "./api.js";
import { Capabilities } from "./capabilities.js";
import { Component, createRef, html, render } from "./html.js";
import { NodePage } from "./node.js";
import { Nodes } from "./nodes.js";
import { RunPage } from "./run.js";
import { Runs } from "./runs.js";
import { store } from "./store.js";
import { Empty, Heading, Live, Notice, State, arrival, plain, words } from "./ui.js";

const PAGES = [["nodes", "Nodes"], ["capabilities", "Capabilities"], ["runs", "Runs"]];
const OLD = 15; // seconds without a word from the store that are worth a word

function readPlace() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  let parts;
  try {
    parts = path.split("/").filter(Boolean).map(decodeURIComponent);
  } catch {
    parts = ["nowhere"]; // a % that is none
  }
  return { page: parts[0] ?? "nodes", id: parts.slice(1).join("/"), query: new URLSearchParams(query) };
}

const nameOf = ({ page, id }) => `${page}/${id}`;

class Theme extends Component {
  state = { theme: document.documentElement.dataset.theme ?? "auto" };

  turn = () => {
    const theme = { auto: "light", light: "dark", dark: "auto" }[this.state.theme];
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    try {
      if (theme === "auto") localStorage.removeItem("roster-theme");
      else localStorage.setItem("roster-theme", theme);
    } catch {
      // Storage may be switched off: the choice then lives as long as the page.
    }
    this.setState({ theme });
  };

  render(_, { theme }) {
    return html`<button type="button" class="quiet theme" onClick=${this.turn} aria-label=${`Theme: ${theme}. Change it.`} title=${`Theme: ${theme}`}>
      <svg viewBox="0 0 16 16" aria-hidden="true"><circle cx="8" cy="8" r="6.2" fill="none" stroke="currentColor" stroke-width="1.4" />
        ${theme === "auto" ? html`<path d="M8 1.8a6.2 6.2 0 0 1 0 12.4z" fill="currentColor" />` : theme === "dark" ? html`<circle cx="8" cy="8" r="6.2" fill="currentColor" />` : html`<circle cx="8" cy="8" r="2.4" fill="currentColor" />`}</svg>
      <span>${theme === "auto" ? "Auto" : theme === "dark" ? "Dark" : "Light"}</span></button>`;
  }
}

class Token extends Component {
  state = { token: "", failure: store.refused ? "The token is not in force any more." : null };

  enter = async (event) => {
    event.preventDefault();
    this.setState({ failure: null, asking: true });
    try {
      await store.enter(this.state.token.trim());
    } catch (error) {
      this.setState({ failure: words(error) });
    }
    this.setState({ asking: false });
  };

  render(_, { token, failure, asking }) {
    return html`<form class="token" onSubmit=${this.enter}>
      <${Heading}>A token is needed<//>
      <p>This gateway has a token file: who wants to look needs a token from it. It stays in this tab alone, until the tab is closed.</p>
      <label class="field">Token<input type="password" autocomplete="off" required maxlength="1000" value=${token} onInput=${(event) => this.setState({ token: event.target.value })} /></label>
      ${failure && html`<${Notice} kind="bad">${failure}<//>`}
      <div class="buttons"><button type="submit" class="solid" disabled=${asking || !token.trim()}>Enter</button></div>
      <p class="muted">No token? Ask whoever runs the gateway. They add one to the file given with <code>--token-file</code>; it is in force within seconds.</p>
    </form>`;
  }
}

const WORDS = { connecting: ["starting", "Connecting"], live: ["ready", "Live"], lost: ["unknown", "Reconnecting"], locked: ["offline", "Locked"] };

class App extends Live {
  main = createRef();
  scrolls = new Map();
  state = { place: readPlace() };

  componentDidMount() {
    super.componentDidMount();
    history.scrollRestoration = "manual";
    let clicked = false, at = nameOf(readPlace());
    document.querySelector(".skip").addEventListener("click", (event) => {
      event.preventDefault(); // the address says which page this is
      this.main.current.focus();
    });
    document.addEventListener("click", (event) => {
      if (event.target.closest?.('a[href^="#/"]')) clicked = true;
    }, true);
    addEventListener("scroll", () => this.scrolls.set(at, scrollY), { passive: true });
    addEventListener("hashchange", () => {
      const place = readPlace();
      at = nameOf(place);
      const back = clicked ? 0 : this.scrolls.get(at) ?? 0;
      clicked = false;
      arrival.waiting = true;
      this.setState({ place }, () => {
        scrollTo({ top: back });
        if (arrival.waiting) this.main.current?.querySelector("h1")?.focus({ preventScroll: true });
      });
    });
    this.timer = setInterval(() => {
      if (store.connection === "lost" || store.staleness > OLD) this.setState({});
    }, 1000);
  }

  page({ page, id, query }) {
    if (page === "nodes") return id.includes("/") ? html`<${NodePage} key=${id} id=${id} />` : html`<${Nodes} query=${query} />`;
    if (page === "capabilities") return html`<${Capabilities} />`;
    if (page === "runs") return id ? html`<${RunPage} key=${id} id=${id} />` : html`<${Runs} />`;
    return html`<${Heading}>Nothing here<//><${Empty} title="There is no such page"><p><a href="#/nodes">Go to the nodes</a>.</p><//>`;
  }

  render(_, { place }) {
    const [look, word] = WORDS[store.connection];
    const title = place.id || (PAGES.find(([page]) => page === place.page)?.[1] ?? "");
    document.title = title ? `${plain(title)} · Roster` : "Roster";
    const locked = store.connection === "locked";
    return html`
      <header class="top"><div class="inner">
        <a class="brand" href="#/nodes"><svg viewBox="0 0 20 20" aria-hidden="true"><g fill="none" stroke="currentColor" stroke-width="1.7" stroke-linecap="round"><path d="M3 5h9M3 10h9M3 15h6" /></g><g class="lights"><circle cx="16.5" cy="5" r="1.7" /><circle cx="16.5" cy="10" r="1.7" /><circle cx="16.5" cy="15" r="1.7" /></g></svg>Roster</a>
        <nav aria-label="Pages">${PAGES.map(([page, name]) => html`<a href=${`#/${page}`} aria-current=${place.page === page ? "page" : undefined}>${name}</a>`)}</nav>
        <span class="grow"></span>
        <span class="connection" role="status" title=${store.failure ? plain(store.failure) : "Changes appear as they happen"}><${State} state=${look} word=${word} /></span>
        ${store.who?.authenticated && html`<span class="role" title=${`You are ${plain(store.who.name ?? "")}, a ${store.who.role}`}>${store.who.role}</span>`}
        ${store.who?.tokens && store.who.authenticated && html`<button type="button" class="quiet" onClick=${() => store.leave()}>Leave</button>`}
        <${Theme} />
      </div></header>
      <main id="main" tabindex="-1" ref=${this.main}>
        ${store.connection === "lost" && html`<${Notice}>${`The gateway is out of reach${store.loaded ? `; what you see is ${span((now() - store.lostAt) / 1000)} old` : ""}. Trying again by itself. (${plain(store.failure ?? "")})`}<//>`}
        ${store.connection === "live" && store.staleness > OLD && html`<${Notice}>${`The gateway has not heard from the registry's store for ${span(store.staleness)}: what you see may be as old. It calls nobody dead for that.`}<//>`}
        ${locked ? html`<${Token} />` : this.page(place)}
      </main>`;
  }
}

document.querySelector("#app").replaceChildren();
render(html`<${App} />`, document.querySelector("#app"));
store.start();
