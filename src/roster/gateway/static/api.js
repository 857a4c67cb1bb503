// Talks to the gateway: requests with the token, problems as errors, server-sent events over fetch.

const TOKEN = "roster-token";
const SILENCE = 45_000; // three bookmarks that did not come

let held = null;
try {
  held = sessionStorage.getItem(TOKEN);
} catch {
  // Storage may be switched off: the token then lives as long as the page.
}

/** Keep the token for this tab (null forgets it). */
export function setToken(token) {
  held = token;
  try {
    if (token === null) sessionStorage.removeItem(TOKEN);
    else sessionStorage.setItem(TOKEN, token);
  } catch {
    // As above.
  }
}

export const hasToken = () => held !== null;

/** What the gateway refused, in its own words. */
export class Problem extends Error {
  constructor(status, type, detail) {
    super(detail);
    this.status = status;
    this.type = type;
  }
}

// The browser's clock may be wrong; ages are counted by the gateway's.
let offset = 0;
export const now = () => Date.now() + offset;

function headersOf(more) {
  // EventSource cannot send a header, and what is in the URL ends in logs: so everything goes by fetch.
  return held === null ? { ...more } : { authorization: `Bearer ${held}`, ...more };
}

function learnClock(answer) {
  const said = Date.parse(answer.headers.get("date") ?? "");
  if (!Number.isNaN(said)) {
    const differs = said - Date.now();
    offset = Math.abs(differs) > 2000 ? differs : 0;
  }
}

async function refusal(answer) {
  let told = {};
  try {
    told = await answer.json();
  } catch {
    // Not the gateway itself but something in front of it.
  }
  const type = String(told.type ?? "").replace("urn:roster:problem:", "");
  return new Problem(answer.status, type, told.detail ?? `the gateway answered ${answer.status} ${answer.statusText}`);
}

/** Ask for JSON (or text, with `accept`). Throws a Problem, or a TypeError where nobody answers. */
export async function get(path, { accept = "application/json", signal } = {}) {
  const answer = await fetch(path, { headers: headersOf({ accept }), signal: signal ?? AbortSignal.timeout(30_000), cache: "no-store" });
  learnClock(answer);
  if (!answer.ok) throw await refusal(answer);
  return accept === "application/json" ? answer.json() : answer.text();
}

/** Change something. */
export async function post(path, body = {}) {
  const answer = await fetch(path, {
    method: "POST",
    headers: headersOf({ "content-type": "application/json", accept: "application/json" }),
    body: JSON.stringify(body),
    signal: AbortSignal.timeout(60_000),
  });
  if (!answer.ok) throw await refusal(answer);
  return answer.json();
}

/** Call `onEvent(name, data, id)` for each server-sent event, until the stream ends or stays silent. */
export async function stream(path, onOpen, onEvent, place) {
  const stop = new AbortController();
  let timer = setTimeout(() => stop.abort(), SILENCE);
  try {
    const answer = await fetch(path, {
      headers: headersOf({ accept: "text/event-stream", ...(place ? { "last-event-id": place } : {}) }),
      signal: stop.signal,
      cache: "no-store",
    });
    learnClock(answer);
    if (!answer.ok) throw await refusal(answer);
    onOpen();
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    const parse = parser(onEvent);
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      clearTimeout(timer);
      timer = setTimeout(() => stop.abort(), SILENCE);
      parse(value);
    }
  } finally {
    clearTimeout(timer);
    stop.abort();
  }
}

/** A parser of server-sent events, fed with pieces of text however they are cut. */
export function parser(onEvent) {
  let rest = "";
  let name = "message", data = [], id = null;
  return (piece) => {
    const lines = (rest + piece).split("\n");
    rest = lines.pop();
    for (const raw of lines) {
      const line = raw.endsWith("\r") ? raw.slice(0, -1) : raw;
      if (line === "") {
        if (data.length) onEvent(name, data.join("\n"), id);
        name = "message";
        data = [];
        id = null;
      } else if (!line.startsWith(":")) {
        const colon = line.indexOf(":");
        const field = colon < 0 ? line : line.slice(0, colon);
        const value = colon < 0 ? "" : line.slice(colon + (line[colon + 1] === " " ? 2 : 1));
        if (field === "event") name = value;
        else if (field === "data") data.push(value);
        else if (field === "id") id = value;
      }
    }
  };
}

/** The path of a node in the API. */
export const nodePath = (key) => {
  const [namespace, name] = key.split("/");
  return `/api/v1/nodes/${encodeURIComponent(namespace)}/${encodeURIComponent(name)}`;
};
