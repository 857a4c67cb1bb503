// The page's one state: who one is, the nodes kept fresh by the watch, and how fresh they are.
import { Problem, get, hasToken, now, setToken, stream } from "./api.js";
import { entryOf } from "./filter.js";

const AGAIN = [500, 1000, 2000, 5000, 10_000];
const LOOK = 15_000;
const CALM = 100; // under a storm of events the lists are drawn ten times a second, not sixty

class Store {
  constructor() {
    this.nodes = new Map(); // key -> entry, see filter.js
    this.version = 0; // grows with each change of `nodes`
    this.loaded = false;
    this.connection = "connecting"; // then "live", "lost" or "locked"
    this.lostAt = null; // when the stream broke off
    this.failure = null; // why
    this.who = null; // {authenticated, name, role, tokens}
    this.staleness = 0; // of the gateway's own copy, seconds
    this.listeners = new Set();
    this.pending = new Map();
    this.resetting = false;
    this.place = null;
    this.scheduled = false;
    this.flushed = 0;
    this.waking = null;
  }

  /** Be told of each change; returns how to stop. */
  subscribe(listener) {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  tell() {
    for (const listener of [...this.listeners]) listener();
  }

  /** Whether buttons that change something are of use. */
  get mayChange() {
    return this.who?.role === "operator";
  }

  start() {
    this.follow();
    this.watchFreshness();
  }

  // -- who one is ------------------------------------------------------------------------------------

  async identify() {
    this.who = await get("/api/v1/session");
    if (!this.who.authenticated) {
      // A token that was known and is not any more must not be sent on and on: wrong tokens are counted.
      this.refused = hasToken();
      setToken(null);
      this.connection = "locked";
    }
    this.tell();
    return this.who.authenticated;
  }

  /** Try a token; throws if it is not known. */
  async enter(token) {
    setToken(token);
    try {
      const who = await get("/api/v1/session");
      if (!who.authenticated) throw new Problem(401, "unauthorized", "This token is not known here, or not in force any more.");
    } catch (error) {
      setToken(null);
      throw error;
    }
    this.connection = "connecting";
    this.waking?.();
  }

  /** Forget the token and everything that it showed. */
  leave() {
    setToken(null);
    window.location.reload();
  }

  // -- nodes -----------------------------------------------------------------------------------------

  async follow() {
    let failures = 0;
    for (;;) {
      try {
        if (this.who === null || !this.who.authenticated || failures > 0) {
          if (!(await this.identify())) {
            await new Promise((wake) => (this.waking = wake));
            continue;
          }
        }
        if (this.place === null) await this.list();
        await stream("/api/v1/watch", () => {
          failures = 0;
          this.connection = "live";
          this.lostAt = null;
          this.failure = null;
          this.tell();
        }, (name, data, id) => this.onEvent(name, data, id), this.place);
        this.lost("the gateway closed the stream");
      } catch (error) {
        if (error instanceof Problem && error.status === 401) this.who = null;
        this.lost(error instanceof Problem ? error.message : "the gateway does not answer");
      }
      const wait = AGAIN[Math.min(failures, AGAIN.length - 1)];
      failures += 1;
      await new Promise((wake) => setTimeout(wake, wait * (0.75 + Math.random() / 2)));
    }
  }

  lost(why) {
    if (this.lostAt === null) this.lostAt = now();
    this.connection = "lost";
    this.failure = why;
    this.tell();
  }

  async list() {
    const found = new Map();
    let page = null, place = null;
    do {
      const query = new URLSearchParams({ limit: "1000", ...(page ? { page } : {}) });
      const answer = await get(`/api/v1/nodes?${query}`);
      for (const node of answer.items) found.set(node.key, entryOf(node));
      place ??= answer.resume; // of the first page: the watch tells what the later ones missed
      page = answer.next;
      this.staleness = answer.staleness;
    } while (page !== null);
    this.nodes = found;
    this.place = place;
    this.loaded = true;
    this.version += 1;
    this.tell();
  }

  onEvent(name, data, id) {
    if (name === "node") {
      const event = JSON.parse(data);
      this.pending.set(event.key, event.type === "removed" ? null : event.node);
    } else if (name === "reset") {
      // Until `synced` everything comes anew: the old list stays on the screen until then.
      this.resetting = true;
      this.pending.clear();
    } else if (name === "synced" && this.resetting) {
      for (const key of this.nodes.keys()) if (!this.pending.has(key)) this.pending.set(key, null);
      this.resetting = false;
    }
    // Without a number an interruption begins anew from the place before.
    if (id !== null) this.place = id;
    if (this.pending.size && !this.resetting) this.schedule();
  }

  schedule() {
    if (this.scheduled) return;
    this.scheduled = true;
    const wait = CALM - (performance.now() - this.flushed);
    const draw = () => requestAnimationFrame(() => this.flush());
    if (wait > 0) setTimeout(draw, wait);
    else draw();
  }

  flush() {
    this.scheduled = false;
    if (this.resetting) return;
    for (const [key, node] of this.pending) {
      if (node === null) this.nodes.delete(key);
      else this.nodes.set(key, entryOf(node));
    }
    this.pending.clear();
    this.flushed = performance.now();
    this.version += 1;
    this.tell();
  }

  // -- how fresh -------------------------------------------------------------------------------------

  async watchFreshness() {
    for (;;) {
      await new Promise((wake) => setTimeout(wake, LOOK));
      if (document.hidden || this.connection !== "live") continue;
      try {
        const { staleness } = await get("/readyz");
        const before = this.staleness;
        this.staleness = staleness ?? 0;
        if (before > LOOK / 1000 || this.staleness > LOOK / 1000) this.tell();
      } catch {
        // The stream notices for itself when the gateway is gone.
      }
    }
  }
}

export const store = new Store();
