// Elements, made of text and of attributes known to be harmless. What a VM says never becomes markup.

const HARMLESS = new Set(["class", "id", "role", "type", "tabindex", "scope", "colspan", "hidden", "open", "title", "value", "selected",
  "disabled", "datetime", "label", "viewBox", "x", "y", "x1", "y1", "x2", "y2", "width", "height", "rx", "d", "points", "text-anchor"]);
const SVG = "http://www.w3.org/2000/svg";

function fill(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    const local = name === "href" && String(value).startsWith("#");
    if (!local && !HARMLESS.has(name) && !name.startsWith("aria-") && !name.startsWith("data-")) throw new Error(`no attribute ${name} here`);
    made.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat(3)) {
    if (child === null || child === undefined || child === false) continue;
    made.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return made;
}

export const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
export const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
export const find = id => document.getElementById(id);

/** Make the children of `parent` like `wanted`, keeping what is there: focus, scroll places and opened details stay. */
export function morph(parent, wanted) {
  const keyed = new Map();
  for (const child of parent.childNodes) if (child.dataset?.key) keyed.set(child.dataset.key, child);
  let at = parent.firstChild;
  for (const next of wanted.flat(3).filter(one => one instanceof Node)) {
    const key = next.dataset?.key;
    const old = key ? keyed.get(key) : at && !at.dataset?.key ? at : null;
    if (!old || old.nodeName !== next.nodeName) { parent.insertBefore(next, at); continue; }
    if (old === at) at = at.nextSibling; else parent.insertBefore(old, at);
    alike(old, next);
  }
  while (at) { const gone = at; at = at.nextSibling; gone.remove(); }
}

function alike(old, next) {
  if (old.nodeType === Node.TEXT_NODE) { if (old.nodeValue !== next.nodeValue) old.nodeValue = next.nodeValue; return; }
  // Whether something is open is the reader's business.
  const theirs = name => name === "open" && old.nodeName === "DETAILS";
  for (const { name } of [...old.attributes]) if (!next.hasAttribute(name) && !theirs(name)) old.removeAttribute(name);
  for (const { name, value } of next.attributes) if (old.getAttribute(name) !== value && !theirs(name)) old.setAttribute(name, value);
  morph(old, [...next.childNodes]);
}

// Control characters, and those that turn the direction of what stands around them.
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]/g;
const mark = one => one.charCodeAt(0) < 32 ? String.fromCharCode(0x2400 + one.charCodeAt(0)) : "\ufffd";

/** Whatever it is, as text that can be shown: bounded, and nothing unseen in it. */
export function words(value, limit = 300) {
  if (value === null || value === undefined) return "";
  let text = typeof value === "string" ? value : typeof value === "object" ? JSON.stringify(value, null, 1) : String(value);
  const length = text.length;
  if (length > limit) text = `${text.slice(0, limit).toWellFormed?.() ?? text.slice(0, limit)}\u2026 (${length} characters)`;
  return text.replaceAll("\r\n", "\n").replace(UNSEEN, mark);
}

/** What stands at the end of a path, if there is anything. */
export function dig(value, ...path) {
  for (const name of path) {
    if (value === null || typeof value !== "object" || !Object.hasOwn(value, name)) return undefined;
    value = value[name];
  }
  return value;
}

export const list = (value, limit = 500) => Array.isArray(value) ? value.slice(0, limit) : [];
export const record = value => value !== null && typeof value === "object" && !Array.isArray(value) ? value : {};

export function duration(seconds) {
  const s = Math.max(0, seconds);
  if (s < 0.0095) return `${(s * 1000).toFixed(s < 0.001 ? 1 : 0)} ms`;
  if (s < 0.9995) return `${Math.round(s * 1000)} ms`;
  if (s < 100) return `${s < 10 ? s.toFixed(1) : Math.round(s)} s`;
  if (s < 6000) return `${Math.round(s / 60)} min`;
  return s < 172800 ? `${Math.round(s / 3600)} h` : `${Math.round(s / 86400)} days`;
}

const two = number => String(number).padStart(2, "0");
/** Local time of day of UTC seconds. */
export function clock(seconds, parts = 0) {
  const date = new Date(seconds * 1000);
  if (Number.isNaN(date.getTime())) return "";
  const text = `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
  return parts ? `${text}.${String(date.getMilliseconds()).padStart(3, "0")}` : text;
}

export function table(head, rows, empty) {
  if (!rows.length) return [el("caption", { class: "quiet" }, empty)];
  return [el("thead", null, el("tr", null, head.map(name => el("th", { scope: "col" }, name)))),
    el("tbody", null, rows.map(row => el("tr", { class: row.shade || null }, (row.cells ?? row).map(cell => el("td", null, cell)))))];
}
