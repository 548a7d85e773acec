// The timeline: goal state, download, install, enable, report; from telemetry and from the host's own transcript.
import { clock, duration, el, list, morph, record, svg, words } from "./dom.js";

const PHASES = new Map(Object.entries({ download: "download", install: "install", enable: "enable", update: "update",
  disable: "disable", uninstall: "disable", downgrade: "update" }));
const LEGEND = [["goal", "goal state"], ["download", "download"], ["install", "install"], ["enable", "enable"], ["update", "update"],
  ["disable", "disable, uninstall"], ["report", "report"], ["failed", "failed"]];
const READS = new Set(["extensionsconfig", "vmsettings"]), REPORTS = new Set(["status", "statusblob"]);
const FETCHES = new Set(["manifest", "package", "artifact"]);
const HOST = "Goal state", REPORT = "Status reports";
const DAY = 86400, TOGETHER = 2;

/** Everything that can be drawn, oldest first. `begin` and `end` are UTC seconds; a moment has both alike. */
export function things(told, lines, vm) {
  const found = [], names = new Set();
  for (const one of list(told?.events, 2000).map(record)) {
    const end = Date.parse(words(one.OpcodeName, 40)) / 1000;
    if (!Number.isFinite(end)) continue;
    const operation = words(one.Operation, 40), phase = PHASES.get(operation.toLowerCase());
    const ok = String(one.OperationSuccess).toLowerCase() !== "false";
    const long = Math.min(DAY, Math.max(0, Number(one.Duration) / 1000 || 0));
    const note = words(one.Message, 400), name = words(one.Name, 120);
    if (phase) {
      names.add(name);
      found.push({ lane: name, what: operation, kind: ok ? phase : "failed", ok, begin: end - long, end, note });
    } else if (operation === "GoalState") {
      found.push({ lane: HOST, what: "Goal state taken up", kind: ok ? "goal" : "failed", ok, begin: end - long, end, note, starts: true,
        goal: /incarnation_\d+|etag_\w{1,20}/.exec(note)?.[0] });
    } else if (operation === "ReportStatus" && !ok) {
      found.push({ lane: REPORT, what: "Report failed", kind: "failed", ok, begin: end - long, end, note });
    }
  }
  for (const one of list(lines, 20000).map(record)) {
    const at = Number(one.at), ok = one.status >= 200 && one.status < 300, endpoint = words(one.endpoint, 40);
    if (!Number.isFinite(at)) continue;
    const spoilt = one.fault ? `, fault ${words(one.fault, 40)}` : "";
    const note = `${words(one.method, 10)} ${words(one.path, 160)}: ${one.status || "no answer"}${spoilt}`;
    const bad = !ok && one.status !== 304 || Boolean(one.fault);
    const moment = { begin: at, end: at, note, ok: !bad };
    if (READS.has(endpoint) && ok) found.push({ ...moment, lane: HOST, what: "Goal state read", kind: bad ? "failed" : "goal", starts: !bad });
    else if (REPORTS.has(endpoint) && (endpoint === "status" || one.method === "PUT")) {
      found.push({ ...moment, lane: REPORT, what: bad ? "Report failed" : "Status reported", kind: bad ? "failed" : "report", reports: !bad });
    } else if (FETCHES.has(endpoint)) {
      found.push({ ...moment, lane: packageName(words(one.path, 200), names), what: endpoint === "manifest" ? "Manifest asked for" : "Package asked for",
        kind: bad ? "failed" : "download", small: true });
    } else if (bad && one.fault) found.push({ ...moment, lane: HOST, what: `Fault at ${endpoint}`, kind: "failed", small: true });
  }
  if (vm?.wanted_at > 86400) {
    found.push({ lane: HOST, what: "Goal state made by the host", kind: "goal", ok: true, begin: vm.wanted_at, end: vm.wanted_at,
      note: `incarnation ${vm.incarnation}${vm.fast_track ? `, FastTrack ${vm.fast_track}` : ""}`, starts: true, made: true });
  }
  return found.sort((a, b) => a.begin - b.begin || a.end - b.end);
}

function packageName(path, names) {
  const match = /^\/(?:packages|manifests)\/([A-Za-z0-9.-]+)/.exec(path);
  const name = match?.[1].replace(/\.(xml|zip)$/, "") ?? "";
  return name || [...names].at(-1) || HOST;
}

/** Stretches of time worth a look: one for each goal state, newest first. */
export function stretches(all, now) {
  const starts = [];
  for (const one of all.filter(each => each.starts)) {
    const last = starts.at(-1);
    if (last && one.begin - last.last <= TOGETHER) { last.last = one.begin; last.goal = one.goal ?? last.goal; }
    else starts.push({ begin: one.begin, last: one.begin, goal: one.goal });
  }
  return starts.map((one, index) => {
    const next = starts[index + 1]?.begin ?? Infinity;
    const inside = all.filter(each => each.begin >= one.begin - 0.001 && each.begin < next);
    const worked = Math.max(one.last, ...inside.filter(each => !each.reports && !(each.lane === HOST && each.small)).map(each => each.end));
    const report = inside.find(each => each.reports && each.begin >= worked);
    // The newest goes on until its work was reported.
    const end = report?.end ?? (next === Infinity ? Math.min(now, worked + 20) : Math.min(worked + 1, next));
    return { begin: one.begin, end: Math.max(end, one.begin + 0.2), goal: one.goal, things: inside.filter(each => each.begin <= end) };
  }).reverse();
}

export const whole = (all, from, to) => ({ begin: from, end: Math.max(to, from + 1), things: all.filter(one => one.end >= from && one.begin <= to), absolute: true });

const STEPS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21600, 43200, DAY, 7 * DAY, 30 * DAY];
const LANE = 22, ROW = 18, TOP = 22, PAD = 10;

const shortened = (text, most) => text.length > most ? `${text.slice(0, most - 1)}\u2026` : text;

export const sentence = one => {
  const long = one.end - one.begin;
  const when = long > 0.0005 ? `${clock(one.begin, 3)} to ${clock(one.end, 3)}, ${duration(long)}` : clock(one.begin, 3);
  return `${one.what}${one.ok ? "" : " (failed)"}, ${one.lane === HOST || one.lane === REPORT ? "" : `${one.lane}, `}${when}. ${one.note}`;
};

/** Draw a stretch into `box`, `width` pixels wide. Returns what was drawn, in the order of the arrow keys. */
export function draw(box, stretch, width) {
  const wide = Math.max(240, width), scale = (wide - 2 * PAD) / (stretch.end - stretch.begin || 1);
  const place = at => PAD + Math.min(Math.max(0, at - stretch.begin), stretch.end - stretch.begin) * scale;
  const lanes = new Map([[HOST, []]]);
  for (const one of stretch.things.slice(-1500)) {
    if (!lanes.has(one.lane)) lanes.set(one.lane, []);
    lanes.get(one.lane).push(one);
  }
  // As it goes: the goal state, what came of it, the report.
  const reports = lanes.get(REPORT);
  if (lanes.delete(REPORT)) lanes.set(REPORT, reports);
  const marks = [], frame = [], drawn = [];
  let y = TOP;
  for (const [name, all] of [...lanes].slice(0, 40)) {
    frame.push(svg("line", { class: "rule", x1: 0, x2: wide, y1: y + 0.5, y2: y + 0.5 }));
    frame.push(svg("text", { class: "lane", x: PAD, y: y + 15 }, shortened(name, Math.floor((wide - 2 * PAD) / 8.2))));
    y += LANE;
    const rows = [];
    for (const one of all) {
      const x = place(one.begin), w = Math.max(one.end > one.begin ? 4 : 0, place(one.end) - x);
      let row = rows.findIndex(free => free <= x + 0.01 || one.begin === one.end);
      if (row < 0) row = rows.length < 6 ? rows.push(0) - 1 : 5;
      if (one.begin !== one.end) rows[row] = x + w + 1;
      const top = y + row * ROW;
      const shape = w ? svg("rect", { x, y: top, width: w, height: 13, rx: 3 })
        : one.kind === "report" ? svg("path", { d: `M${x} ${top}l6 12h-12z` }) : one.small ? svg("rect", { x: x - 1.5, y: top + 1, width: 3, height: 11, rx: 1 })
          : svg("path", { d: `M${x} ${top - 1}l6 7.5l-6 7.5l-6 -7.5z` });
      const long = one.end - one.begin, text = long ? `${one.what} ${duration(long)}` : one.what;
      const inside = w > one.what.length * 7 + 10, later = all[all.indexOf(one) + 1];
      const free = (later ? place(later.begin) : wide) - x - w - 12, room = size => free > size * 6.8;
      const label = inside ? svg("text", { class: "in", x: x + 5, y: top + 10.5 }, w > text.length * 7 + 10 ? text : one.what)
        : one.small ? null : room(text.length) ? svg("text", { class: "by", x: x + w + (w ? 5 : 9), y: top + 10.5 }, text) : null;
      const index = drawn.push(one) - 1;
      const cross = one.ok ? null : svg("path", { class: "cross", d: `M${x + w / 2 - 3} ${top + 3.5}l6 6m0 -6l-6 6` });
      marks.push(svg("g", { class: `mark ${one.kind}`, "data-index": index }, svg("title", null, sentence(one)), shape, label, cross));
    }
    y += Math.max(1, rows.length) * ROW + 4;
  }
  const grid = [], step = STEPS.find(one => one * scale >= 64) ?? STEPS.at(-1);
  const first = stretch.absolute ? Math.ceil(stretch.begin / step) * step - stretch.begin : 0;
  for (let at = first; at <= stretch.end - stretch.begin + step / 1000; at += step) {
    const x = PAD + at * scale, label = stretch.absolute ? clock(stretch.begin + at) : at === 0 ? "0" : duration(at);
    grid.push(svg("line", { class: "grid", x1: x, x2: x, y1: TOP, y2: y }),
      svg("text", { class: "tick", x, y: 14, "text-anchor": x < 30 ? "start" : x > wide - 34 ? "end" : "middle" }, label));
  }
  morph(box, [svg("svg", { viewBox: `0 0 ${wide} ${y}`, width: wide, height: y, tabindex: "0", role: "application",
    "aria-label": `Timeline with ${drawn.length} things. Left and right arrow keys go through them; a table follows.` }, grid, frame, marks)]);
  return drawn;
}

export const legend = () => LEGEND.map(([kind, text]) => el("span", { class: `key ${kind}` }, text));
