// What is shown: documents in, elements out.
import { clock, dig, duration, el, find, list, morph, record, table, words } from "./dom.js";
import { components, extensions, RUNS, runView, shade } from "./report.js";

export const badge = (text, kind) => el("span", { class: `badge ${kind ?? shade(text)}` }, words(text, 60) || "nothing");
/** How long ago; kept up to date by the clock of the page. */
export const ago = (at, now) => at ? el("span", { "data-at": at }, age(now - at)) : "never";
export const age = seconds => seconds < 1.5 ? "just now" : seconds < 100 ? `${Math.round(seconds)} s ago` : `${duration(seconds)} ago`;
const ownAddress = vm => words(record(vm.places).wireserver, 60).replace("http://", "");
const LATE = 60; // seconds without a heartbeat

export function readiness(vm) {
  return vm.ready === true ? badge("Ready", "good") : vm.ready === false ? badge("Not Ready", "bad") : badge("Told nothing yet", "wait");
}

export function sideList(vms, chosen, faults, now) {
  return vms.map(vm => {
    const at = vm.health?.at, spoilt = faults.filter(one => !one.vm || one.vm === vm.name).length;
    return el("li", { "data-key": vm.name }, el("a", { href: `#vm/${encodeURIComponent(vm.name)}`, "aria-current": vm.name === chosen ? "page" : null },
      el("span", { class: "row" }, el("strong", null, vm.name), readiness(vm)),
      el("span", { class: "row quiet" }, el("span", null, vm.tenant === "default" ? "" : `${vm.tenant} `, vm.address || ownAddress(vm)),
        el("span", { class: at && now - at > LATE ? "late" : null }, at ? ago(at, now) : "")),
      spoilt ? el("span", { class: "row quiet" }, `${spoilt} ${spoilt === 1 ? "fault" : "faults"} in force`) : null));
  });
}

export function head(vm, told, now) {
  const at = vm.health?.at, os = record(dig(told, "status", "guestOSInfo"));
  const facts = [
    ["Heartbeat", [ago(at, now), ` (${vm.heartbeats} so far)`]],
    ["Status", told?.status_at ? [ago(told.status_at, now), ` by ${words(told.status_by, 20)}`] : "none yet"],
    ["Tenant", vm.tenant],
    ["Address", vm.address || ownAddress(vm)],
    ["Goal state", `incarnation ${vm.incarnation}${vm.fast_track ? `, FastTrack ${vm.fast_track}` : ""}`],
    ["System", words([os.osName, os.osVersion].filter(Boolean).map(one => words(one, 40)).join(" ")) || "not told"],
    ["Container", el("code", null, vm.container_id)],
  ];
  const problem = words(vm.health?.description, 600);
  return [el("div", { class: "title" }, el("h2", { class: "vm-name" }, vm.name), readiness(vm), vm.on_hold ? badge("Extensions on hold", "wait") : null),
    el("dl", { class: "facts" }, facts.map(([name, value]) => el("div", null, el("dt", null, name), el("dd", null, value)))),
    problem ? el("p", { class: "note bad" }, el("strong", null, words(vm.health?.substatus, 80) || "Not Ready", ": "), problem) : null];
}

export function faultList(faults, vm, now) {
  return faults.filter(one => !one.vm || one.vm === vm).map(one => el("li", { class: "card slim", "data-key": `fault ${one.id}` },
    el("div", { class: "what" }, badge(one.fault, "bad"), el("span", null, ` at ${one.endpoint}`, one.value === null ? "" : `, value ${one.value}`,
      one.left === null ? "" : `, ${one.left} answers left`, one.vm ? "" : ", for every VM",
      one.last === null ? "" : `, ends ${clock(one.added_at + one.wait + one.last)}`,
      now < one.added_at + one.wait ? `, begins ${clock(one.added_at + one.wait)}` : "")),
    el("button", { type: "button", class: "small", "data-order": "lift", "data-name": one.id, "aria-label": `Lift fault ${one.id}, ${one.fault} at ${one.endpoint}` }, "Lift")));
}

const ASKED = { asked: ["asked for, not yet running", "wait"], running: ["running", "good"], refused: ["refused", "bad"] };

/** Versions the host asks for: whether the VM runs them, and if it refused, why. */
export function askedCards(all) {
  return all.map(one => {
    const [text, kind] = ASKED[one.state] ?? ASKED.asked, title = `${one.component} ${one.version}`;
    const runs = one.state === "running" ? "" : one.reported ? `, it runs ${words(one.reported, 80)}` : ", it has not said what it runs";
    return el("li", { class: "card slim", "data-key": one.component },
      el("div", { class: "what" }, el("strong", null, title), " ", badge(text, kind), el("span", { class: "quiet" }, ` since ${one.fast_track ? "FastTrack" : "incarnation"} ${one.incarnation}`,
        one.from_version ? `, from ${one.from_version} only` : "", runs),
      one.state === "refused" ? el("p", { class: "message" }, words(one.reason, 1000) || "The VM gave no reason.") : null),
      el("button", { type: "button", class: "small", "data-order": "want-no-more", "data-name": one.component, "aria-label": `Clear ${title}` }, "Clear"));
  });
}

const pretty = value => value === null || value === undefined ? "none" : words(value, 20000);

function settingsOf(wanted) {
  return el("details", null, el("summary", null, "Settings"), el("p", { class: "label" }, "Public"),
    el("pre", { tabindex: "0" }, wanted.has_settings ? pretty(wanted.public) : "none"),
    el("p", { class: "label" }, "Protected"),
    el("p", { class: "quiet" }, wanted.protected ? ["Encrypted for the VM", wanted.thumbprint ? [", for certificate ", el("code", null, words(wanted.thumbprint, 64))] : "", "."] : "none"));
}

function partsOf(told) {
  if (!told?.parts.length) return null;
  return el("details", { open: true }, el("summary", null, `Substatus (${told.parts.length})`), el("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "Substatus" },
    el("table", null, table(["Name", "Status", "Code", "Message"], told.parts.map(one => [words(one.name, 100), badge(one.status), words(one.code, 20), words(one.message, 1000)])))));
}

function messageOf(text) {
  const whole = words(text, 20000);
  if (!whole) return null;
  if (whole.length <= 400) return el("p", { class: "message" }, whole);
  return el("div", null, el("p", { class: "message" }, `${whole.slice(0, 300)}\u2026`),
    el("details", null, el("summary", null, "The whole message"), el("pre", { tabindex: "0" }, whole)));
}

function card(one) {
  const { wanted, told, differs } = one, title = one.extension ? `${one.name} / ${one.extension}` : one.name;
  const order = (name, text) => el("button", { type: "button", class: "small", "data-order": name, "data-name": one.name, "aria-label": `${text} ${title}` }, text);
  const shown = (name, is, should) => el("div", null, el("dt", null, name), el("dd", { class: should !== undefined && is !== should ? "differs" : null },
    is === undefined || is === "" ? "\u2014" : words(is, 80), should !== undefined && is !== should ? el("span", { class: "should" }, ` \u2192 ${words(should, 80)}`) : null));
  const builtIn = one.name.startsWith("Microsoft.CPlat.Core.RunCommand");
  return el("li", { class: `card${differs.length ? " apart" : ""}`, "data-key": one.key },
    el("div", { class: "card-top" },
      el("div", { class: "card-head" }, el("h3", null, words(title, 200)), told ? [badge(told.handler), told.status === undefined ? null : badge(told.status)] : badge("Waiting", "wait")),
      wanted && wanted.state !== "uninstall" ? el("div", { class: "card-bar" }, builtIn ? null : order("update", "Update"), order("uninstall", "Uninstall"), order("vanish", "Remove without a word")) : null),
    el("dl", { class: "facts tight" }, shown("Version", told?.version, wanted?.state === "enabled" ? words(wanted.version, 80) : undefined),
      shown("Sequence number", told?.sequence, wanted?.has_settings && wanted.state === "enabled" ? wanted.sequence_number : undefined),
      told?.operation ? shown("Operation", told.operation) : null,
      told?.code ? shown("Handler code", told.code) : null, told?.statusCode ? shown("Status code", told.statusCode) : null),
    differs.length ? el("p", { class: "apart-note" }, el("strong", null, "Wanted and reported differ: "), differs.join("; "), ".") : null,
    messageOf(told?.message), told?.handlerMessage && shade(told.handler) !== "good" ? messageOf(told.handlerMessage) : null, partsOf(told),
    wanted ? settingsOf(wanted) : null);
}

export function extensionCards(handlers, status) {
  const all = extensions(handlers, status).filter(one => one.name !== RUNS || !one.extension);
  const told = dig(status, "aggregateStatus", "handlerAggregateStatus");
  const more = Array.isArray(told) && told.length > 500 ? el("li", { class: "quiet empty" }, `The VM reports ${told.length - 500} more.`) : null;
  return all.length ? [...all.map(card), more] : [el("li", { class: "quiet empty" }, "No extension is wanted or reported. Add one from a zip, or drop the zip anywhere on this page.")];
}

/** Runs that are wanted, with what they say of themselves. */
export function runsOf(handlers, status) {
  return extensions(handlers, status).filter(one => one.name === RUNS && one.wanted && one.extension).map(one => ({
    name: one.extension, sequence: one.wanted.sequence_number, going: one.wanted.state !== "enabled",
    blobs: Boolean(dig(one.wanted.public, "outputBlobUri")), script: dig(one.wanted.public, "source", "script"), ...runView(one.told, one.wanted.sequence_number) }));
}

export function runCards(runs, outputs) {
  return runs.map(run => {
    const blob = outputs.get(run.name), live = blob?.sequence_number === run.sequence ? blob : null;
    const stream = (text, cut, label) => {
      const shown = words(text, 70000);
      return shown ? [el("p", { class: "label" }, label, cut ? " (the end of it)" : ""), el("pre", { tabindex: "0", role: "log", "aria-label": `${label} of ${run.name}`, class: "output", "data-key": label }, shown)] : null;
    };
    const order = (name, text) => el("button", { type: "button", class: "small", "data-order": name, "data-name": run.name, "aria-label": `${text}: ${run.name}` }, text);
    const output = stream(live?.output.size ? live.output.text : run.output, live?.output.cut, "Output");
    const error = stream(live?.error.size ? live.error.text : run.error, live?.error.cut, "Error output");
    return el("li", { class: "card", "data-key": run.name }, el("div", { class: "card-top" }, el("div", { class: "card-head" }, el("h3", null, run.name), badge(run.going ? "Being removed" : run.state, run.going ? "wait" : undefined),
      run.code === undefined || run.code === null ? null : el("span", { class: "quiet" }, `exit code ${words(run.code, 20)}`),
      el("span", { class: "quiet" }, `sequence number ${run.sequence}`)),
      run.going ? null : el("div", { class: "card-bar" }, order("again", "Run again"), order("end-run", run.ended ? "Remove" : "End and remove"))),
      run.state === "Succeeded" ? null : messageOf(run.message), output, error,
      !output && !error ? el("p", { class: "quiet" }, run.ended ? "It wrote nothing." : "No output yet. The VM sends it about every 15 s.") : null,
      el("details", null, el("summary", null, "Script"), el("pre", { tabindex: "0" }, words(run.script, 20000))));
  });
}

export function tables(told, lines, now) {
  morph(find("components"), table(["Component", "State", "Version", "What it says"], components(told).map(one =>
    [one.name, badge(one.state === "false" ? "not well" : one.state, one.state === "false" ? "bad" : undefined), words(one.version, 60), words(one.text, 400)]),
  "Nothing was observed yet. The VM tells it with its first heartbeats."));
  const requests = list(lines, 20000).slice(-60).reverse().map(record).map(one => ({ shade: one.fault || one.status >= 400 || one.status === 0 ? "spoilt" : "",
    cells: [clock(one.at, 3), words(one.endpoint, 40), `${words(one.method, 10)} ${words(one.path, 120)}`, one.status || "no answer", words(one.fault, 40)] }));
  morph(find("requests"), table(["When", "Endpoint", "Request", "Answer", "Fault"], requests, "No request yet."));
  const events = list(told.events, 2000).slice(-60).reverse().map(record).map(one => {
    const ok = String(one.OperationSuccess).toLowerCase();
    return { shade: ok === "false" ? "spoilt" : "", cells: [clock(Date.parse(words(one.OpcodeName, 40)) / 1000, 3) || words(one.OpcodeName, 40), words(one.Name, 100), words(one.Operation, 60),
      ok === "false" ? "failed" : "", words(one.Message, 600)] };
  });
  morph(find("events"), table(["When", "Who", "What", "", "Message"], events, "No event has come in yet; agents send them a little later than they happen."));
}
