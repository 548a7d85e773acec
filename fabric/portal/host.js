// The line to the host: orders, questions, and the stream of news.

export const SILENT = "The host does not answer. Is `agentctl up` (or `azfabric serve`) still running?";

/** The answer's JSON. Throws an Error whose message can be shown. */
export async function call(method, path, body, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== "" && value !== undefined);
  const address = given.length ? `${path}?${new URLSearchParams(given)}` : path;
  const options = { method };
  if (body instanceof Blob) options.body = body;
  else if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers = { "Content-Type": "application/json" };
  }
  let answer;
  try { answer = await fetch(address, options); } catch { throw new Error(SILENT); }
  const told = await answer.json().catch(() => null);
  if (!answer.ok) throw new Error(typeof told?.reason === "string" ? told.reason : `The host answered ${answer.status}.`);
  return told;
}

const PATIENCE = 25_000; // ms without a word; the host says something every 10 s
const AGAIN = 1_500; // ms between two tries

/** Calls `news(document)` for all that comes, and `line(open)` when the line comes and goes. Rests while nobody looks. */
export function follow(news, line) {
  let source = null, timer = 0;
  const later = (what, ms) => { clearTimeout(timer); timer = setTimeout(what, ms); };
  const lost = () => { source?.close(); source = null; line(false); later(open, AGAIN); };
  function open() {
    source?.close();
    source = new EventSource("/api/stream");
    source.addEventListener("news", event => { later(lost, PATIENCE); line(true); news(JSON.parse(event.data)); });
    source.addEventListener("still", () => later(lost, PATIENCE));
    source.onerror = lost;
    later(lost, PATIENCE);
  }
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) { if (!source) open(); return; }
    clearTimeout(timer);
    source?.close();
    source = null;
  });
  addEventListener("pagehide", () => source?.close());
  open();
}
