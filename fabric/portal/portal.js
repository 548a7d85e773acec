// The page: follows the host's news, asks for what the chosen VM told, and keeps what is shown like it.
import { clock, dig, duration, el, find, list, morph, table } from "./dom.js";
import { call, follow } from "./host.js";
import * as orders from "./orders.js";
import { draw, legend, sentence, stretches, things, whole } from "./timeline.js";
import * as views from "./views.js";

const GAP = 500, LINES_GAP = 2000, OUTPUT_GAP = 1000; // ms between two questions of a kind
const SHOWN = 200; // VMs in the list

const vms = new Map(), outputs = new Map();
let faults = [], told = null, wanted = [], lines = [], skew = 0, toldOf = "";
let range = "latest", drawn = [], at = -1, filter = "", stretchOpen = false, seenOutputs = 0;

const now = () => Date.now() / 1000 + skew;
const fromAddress = () => { try { return decodeURIComponent(/^#vm\/(.+)$/.exec(location.hash)?.[1] ?? ""); } catch { return ""; } };
const chosen = () => { const name = fromAddress(); return vms.has(name) ? name : name ? "" : [...vms.keys()][0] ?? ""; };

// -- asking -------------------------------------------------------------------------------------------------------

/** `ask()` soon, never twice at a time, with a pause after each. */
function asker(ask, gap) {
  let busy = false, again = false;
  return async function run() {
    if (busy) { again = true; return; }
    busy = true;
    const began = performance.now();
    try { await ask(); } catch (error) { trouble(error.message); }
    // A VM that tells very much is asked less often.
    setTimeout(() => { busy = false; if (again) { again = false; run(); } }, Math.max(gap, 3 * (performance.now() - began)));
  };
}

const askDetails = asker(async () => {
  const vm = chosen();
  if (!vm) return;
  const [newTold, newWanted] = await Promise.all([call("GET", "/api/told", undefined, { vm, events: 500 }), call("GET", "/api/extensions", undefined, { vm })]);
  if (vm !== chosen()) return;
  [told, wanted, toldOf] = [newTold, newWanted, vm];
  show();
  askOutputs();
}, GAP);

const askLines = asker(async () => {
  const vm = chosen();
  if (!vm) return;
  const found = await call("GET", "/api/transcript", undefined, { vm, limit: 2000 });
  if (vm !== chosen()) return;
  lines = found;
  show();
}, LINES_GAP);

const askOutputs = asker(async () => {
  const vm = chosen();
  if (!vm || vm !== toldOf) return;
  const runs = views.runsOf(wanted, told?.status).filter(one => one.blobs && !one.going);
  // What has ended is asked for once more, for its last words.
  const open = runs.filter(one => !one.ended || outputs.get(one.name)?.sequence_number !== one.sequence || !outputs.get(one.name).last);
  await Promise.all(open.map(async one => {
    const found = await call("GET", `/api/runs/${encodeURIComponent(one.name)}/output`, undefined, { vm }).catch(() => null);
    if (found) outputs.set(one.name, { ...found, last: one.ended });
  }));
  if (open.length) { seenOutputs += 1; show(); }
  if (open.some(one => !one.ended)) setTimeout(askOutputs, OUTPUT_GAP);
}, OUTPUT_GAP / 2);

function forget() {
  [told, wanted, lines, toldOf] = [null, [], [], ""];
  for (const id of ["asked", "extensions", "runs", "chart", "steps", "components", "requests", "events"]) find(id).replaceChildren();
  shownOf.clear();
  outputs.clear();
  range = "latest";
}

// -- news ---------------------------------------------------------------------------------------------------------

function news(document_) {
  const before = chosen();
  skew = document_.at - Date.now() / 1000;
  if (document_.all) vms.clear();
  for (const one of document_.vms) vms.set(one.name, one);
  for (const name of document_.gone) vms.delete(name);
  if (document_.faults) faults = document_.faults;
  trouble(document_.trouble);
  const vm = chosen();
  if (vm !== before || document_.all) { if (vm !== toldOf) forget(); }
  if (document_.all || document_.vms.some(one => one.name === vm)) askDetails();
  if (document_.all || document_.lines) askLines();
  show();
}

let connected = null;
function line(open) {
  // Said again, it would be read out again.
  if (open === connected) return;
  connected = open;
  find("offline").hidden = open;
  find("line").textContent = open ? "Live" : "Not connected";
  find("line").className = open ? "line on" : "line off";
  document.body.classList.toggle("stale", !open);
}

function trouble(text) {
  find("trouble").textContent = text;
  find("trouble").hidden = !text;
}

let saidTimer = 0;
function say(text, bad = false) {
  const said = find("said");
  said.textContent = text;
  said.className = bad ? "said shown bad" : "said shown";
  clearTimeout(saidTimer);
  saidTimer = setTimeout(() => { said.className = "said"; }, bad ? 12000 : 6000);
}

// -- showing ------------------------------------------------------------------------------------------------------

const shownOf = new Map();
/** Whether any of these is another than when it was asked last. */
function changed(name, ...inputs) {
  const before = shownOf.get(name);
  shownOf.set(name, inputs);
  return !before || inputs.some((one, index) => one !== before[index]);
}

let asked = 0;
function show() {
  asked ||= requestAnimationFrame(() => { asked = 0; showNow(); });
}

function showNow() {
  const vm = chosen(), state = vms.get(vm), time = now();
  const all = [...vms.values()], text = filter.toLowerCase();
  const matching = text ? all.filter(one => [one.name, one.tenant, one.address].some(each => each.toLowerCase().includes(text))) : all;
  find("filter").hidden = all.length < 8;
  morph(find("vms"), [...views.sideList(matching.slice(0, SHOWN), vm, faults, time),
    matching.length > SHOWN ? el("li", { class: "quiet" }, `${matching.length - SHOWN} more: use the filter`) : null,
    matching.length ? null : el("li", { class: "quiet" }, all.length ? "No VM matches." : "There is no VM.")]);
  document.title = state ? `${vm}: ${state.ready === null ? "nothing told" : state.ready ? "Ready" : "Not Ready"}` : "azvmagent fabric";
  find("vm").hidden = !state;
  find("empty").hidden = Boolean(state);
  find("empty").textContent = fromAddress() && vms.size ? "There is no VM of this name. Choose one from the list." : vms.size ? "" : "There is no VM yet. Make one with New VM.";
  if (!state) return;
  morph(find("head"), views.head(state, told, time));
  find("hold").setAttribute("aria-pressed", String(Boolean(state.on_hold)));
  const here = views.faultList(faults, vm, time);
  find("faults-section").hidden = !here.length;
  morph(find("faults"), here);
  if (!told) return;
  find("asked-section").hidden = !told.components.length;
  if (changed("asked", told)) morph(find("asked"), views.askedCards(told.components));
  if (changed("extensions", told, wanted)) morph(find("extensions"), views.extensionCards(wanted, told.status));
  if (changed("runs", told, wanted, seenOutputs)) showRuns();
  if (changed("tables", told, lines)) views.tables(told, lines, time);
  const tick = stretchOpen ? Math.floor(time) : 0;
  if (changed("timeline", told, lines, range, state.wanted_at, find("chart").clientWidth, find("timeline-table").open, tick)) showTimeline(state, time);
}

function showRuns() {
  const runs = views.runsOf(wanted, told.status);
  find("runs-section").hidden = !runs.length;
  // Who reads the end of the output goes on reading the end.
  const atEnd = [...document.querySelectorAll("pre.output")].filter(one => one.scrollTop + one.clientHeight >= one.scrollHeight - 4);
  morph(find("runs"), views.runCards(runs, outputs));
  for (const one of atEnd) one.scrollTop = one.scrollHeight;
}

function showTimeline(state, time) {
  const all = things(told, lines, state), found = stretches(all, time);
  const option = (value, text) => el("option", { value, "data-key": value }, text);
  const select = find("range");
  morph(select, [option("latest", "the latest goal state"), found.slice(1, 30).map(one => option(String(one.begin), `${clock(one.begin)} ${one.goal ?? "goal state"}`)),
    option("600", "the last 10 minutes"), option("all", "everything that is known")]);
  select.value = range;
  const stretch = range === "latest" ? found[0] : range === "600" ? whole(all, time - 600, time) : range === "all" ? whole(all, all[0]?.begin ?? time, time)
    : found.find(one => String(one.begin) === range) ?? found[0];
  const chart = find("chart");
  stretchOpen = Boolean(stretch?.open) || range === "600";
  if (!stretch) { morph(chart, [el("p", { class: "quiet" }, "Nothing happened yet.")]); return; }
  const held = drawn[at];
  drawn = draw(chart, stretch, chart.clientWidth);
  at = held ? drawn.findIndex(one => one.lane === held.lane && one.begin === held.begin && one.what === held.what) : -1;
  point(at, false);
  if (find("timeline-table").open) {
    morph(find("steps"), table(["When", "After", "Took", "Of", "What", "Detail"], stretch.things.map(one => ({ shade: one.ok ? "" : "spoilt", cells:
      [clock(one.begin, 3), duration(one.begin - stretch.begin), one.end > one.begin ? duration(one.end - one.begin) : "", one.lane, `${one.what}${one.ok ? "" : " (failed)"}`, one.note] })), "Nothing happened."));
  }
}

/** Mark one thing of the timeline and say what it is. */
function point(index, read = true) {
  at = index;
  for (const one of find("chart").querySelectorAll(".mark")) one.classList.toggle("at", Number(one.dataset.index) === index);
  if (read || index < 0) find("reading").textContent = drawn[index] ? sentence(drawn[index]) : "Point at something, or go through it with the arrow keys.";
}

function timelineHands() {
  const chart = find("chart"), under = event => event.target.closest(".mark");
  chart.addEventListener("pointerover", event => { const mark = under(event); if (mark) point(Number(mark.dataset.index)); });
  chart.addEventListener("click", event => { const mark = under(event); if (mark) point(Number(mark.dataset.index)); });
  chart.addEventListener("keydown", event => {
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: drawn.length - 1 }[event.key];
    if (to === undefined || !drawn.length) return;
    event.preventDefault();
    point(Math.min(drawn.length - 1, Math.max(0, to)));
  });
  find("range").addEventListener("change", event => { range = event.target.value; show(); });
  find("timeline-table").addEventListener("toggle", show);
  new ResizeObserver(show).observe(chart);
  morph(find("legend"), legend());
}

find("filter").addEventListener("input", event => { filter = event.target.value; show(); });
addEventListener("hashchange", () => { if (/^#vm\//.test(location.hash)) { forget(); askDetails(); askLines(); show(); } });
setInterval(() => {
  if (stretchOpen) show();
  for (const one of document.querySelectorAll("[data-at]")) one.textContent = views.age(now() - Number(one.dataset.at));
}, 1000);
timelineHands();
orders.begin({ vm: chosen, vms: () => [...vms.keys()], state: () => vms.get(chosen()), told: () => told, wanted: () => wanted, say, choose: name => { location.hash = `#vm/${encodeURIComponent(name)}`; } });
follow(news, line);
