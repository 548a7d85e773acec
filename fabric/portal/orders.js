// Orders: dialogs that check what can be checked, send it, and say what came of it or what to do about it.
import { dig, el, find, list, words } from "./dom.js";
import { call } from "./host.js";
import { RUNS } from "./report.js";

let page; // {vm(), vms(), state(), told(), wanted(), say(text), choose(name)}
let catalogue = null;
let submits = {};

export function begin(given) {
  page = given;
  for (const dialog of document.querySelectorAll("dialog")) {
    const form = dialog.querySelector("form");
    form.addEventListener("submit", event => { event.preventDefault(); send(dialog, form); });
    dialog.addEventListener("click", event => { if (event.target.closest("[data-close]")) dialog.close(); });
  }
  document.addEventListener("click", event => {
    const button = event.target.closest("[data-order]");
    if (button) Promise.resolve(ORDERS[button.dataset.order]?.(button.dataset.name, button)).catch(error => page.say(error.message, true));
  });
  const fault = find("fault").querySelector("form");
  fault.elements.endpoint.addEventListener("change", fitFaults);
  fault.elements.fault.addEventListener("change", explainFault);
  fault.elements.value.addEventListener("input", sayMeaning);
  find("want").querySelector("form").elements.component.addEventListener("input", fitVersions);
  const known = find("new-vm").querySelector("form");
  known.addEventListener("change", () => { known.elements.address.disabled = known.elements.known.value === "ports"; });
  dropping();
}

const vmQuery = () => ({ vm: page.vm() });
const post = (path, body) => call("POST", path, body, vmQuery());

function open(id, submit, prepare) {
  const dialog = find(id), form = dialog.querySelector("form");
  for (const old of document.querySelectorAll("dialog[open]")) old.close();
  form.reset();
  for (const one of form.querySelectorAll("details")) one.open = false;
  wrong(form, {});
  submits[id] = submit;
  prepare?.(form);
  dialog.showModal();
  dialog.scrollTop = 0;
}

/** Show what is wrong beside the fields it is wrong in; put the reader there. */
function wrong(form, reasons) {
  let first = null;
  for (const place of form.querySelectorAll("[data-error]")) {
    const name = place.dataset.error, field = name ? form.elements[name] : null;
    place.textContent = reasons[name] ?? "";
    if (!field) continue;
    if (reasons[name]) { field.setAttribute("aria-invalid", "true"); first ??= field; } else field.removeAttribute("aria-invalid");
  }
  first?.focus();
}

class Wrong extends Error { constructor(field, text) { super(text); this.field = field; } }

async function send(dialog, form) {
  const button = form.querySelector("[type=submit]");
  if (button.disabled) return;
  wrong(form, {});
  button.disabled = true;
  dialog.setAttribute("aria-busy", "true");
  try {
    const said = await submits[dialog.id](form.elements);
    dialog.close();
    page.say(said);
  } catch (error) {
    const field = error instanceof Wrong && form.querySelector(`[data-error="${error.field}"]`) ? error.field : "";
    wrong(form, { [field]: error.message });
  } finally {
    button.disabled = false;
    dialog.removeAttribute("aria-busy");
  }
}

/** A JSON object from a text field; null if the field is empty. */
function object(elements, name) {
  const text = elements[name].value;
  if (!text.trim()) return null;
  let value;
  try { value = JSON.parse(text); } catch (error) {
    const at = /position (\d+)/.exec(error.message)?.[1], before = at ? text.slice(0, Number(at)) : "";
    const where = at ? `, line ${before.split("\n").length}` : "";
    throw new Wrong(name, `This is no JSON${where}: ${error.message.replace(/ in JSON at position.*| \(line.*/, "")}`);
  }
  if (value === null || typeof value !== "object" || Array.isArray(value)) throw new Wrong(name, "This must be a JSON object: {\"name\": \"value\"}.");
  return value;
}

/** What is said of an order by FastTrack to a VM that never looked there. */
const unread = fast => fast && page.told() && !page.told().requests.vmsettings
  ? " But this VM has never asked for vmSettings, so its agent seems to have no FastTrack: it learns of this with the next goal state of the fabric; without one, never." : "";

const number = (elements, name) => elements[name].value === "" ? undefined : Number(elements[name].value);

// -- extensions ---------------------------------------------------------------------------------------------------

function add(name, file) {
  const wanted = name ? list(page.wanted()).find(one => one.name === name) : null;
  open("add", elements => addExtension(elements, wanted), form => {
    find("add-title").textContent = wanted ? "Update the extension" : "Add an extension";
    form.querySelector("[type=submit]").textContent = wanted ? "Update" : "Add";
    find("add-hint").textContent = wanted ? `${name} ${wanted.version} is wanted now. Choose a zip for another version; without one, only the settings change. `
      + "Protected settings are replaced too: empty takes them away." : `For ${page.vm()}.`;
    if (wanted?.has_settings && wanted.public !== null) form.elements.settings.value = JSON.stringify(wanted.public, null, 2);
    if (file) {
      const given = new DataTransfer();
      given.items.add(file);
      form.elements.package.files = given.files;
    }
  });
}

async function addExtension(elements, wanted) {
  const settings = object(elements, "settings"), secret = object(elements, "protected"), file = elements.package.files[0];
  if (!file && !wanted) throw new Wrong("package", "Choose a package: a zip with HandlerManifest.json.");
  let named = wanted ? { name: wanted.name, version: wanted.version } : null;
  if (file) {
    const called = { file_name: file.name, name: elements.name.value.trim(), version: elements.version.value.trim() };
    try { named = await call("PUT", "/api/packages", file, called); } catch (error) {
      if (/name|version/i.test(error.message)) find("add-more").open = true;
      throw new Wrong("package", error.message);
    }
    if (wanted && named.name !== wanted.name) throw new Wrong("package", `This package is ${named.name}, not ${wanted.name}: add it as an extension of its own.`);
  }
  const added = await post("/api/extensions", { name: named.name, version: named.version, settings, protected: secret, fast_track: elements.fast_track.checked });
  return `${added.name} ${added.version} is wanted, sequence number ${added.sequence_number}.${unread(elements.fast_track.checked)}`;
}

function removing(now) {
  return name => confirm({
    title: now ? "Remove without a word" : "Uninstall",
    text: now ? `${name} vanishes from the goal state, and the VM is not asked to uninstall it: as when the host forgets it.` : `The VM is asked to uninstall ${name}.`,
    word: now ? "Remove" : "Uninstall", option: "Deliver by FastTrack (vmSettings)",
    run: async fast => {
      await call("DELETE", `/api/extensions/${encodeURIComponent(name)}`, undefined, { ...vmQuery(), now, fast_track: fast });
      return (now ? `${name} vanished from the goal state.` : `${name} is to be uninstalled.`) + unread(fast);
    },
  });
}

function dropping() {
  const dragged = event => [...event.dataTransfer?.types ?? []].includes("Files");
  let depth = 0;
  const mark = on => document.body.classList.toggle("dropping", on);
  addEventListener("dragenter", event => { if (dragged(event)) { depth += 1; mark(true); } });
  addEventListener("dragleave", event => { if (dragged(event)) { depth -= 1; if (depth <= 0) mark(false); } });
  addEventListener("dragover", event => { if (dragged(event)) event.preventDefault(); });
  addEventListener("drop", event => {
    if (!dragged(event)) return;
    event.preventDefault();
    depth = 0;
    mark(false);
    const file = event.dataTransfer.files[0];
    if (!file) return;
    if (!page.vm()) { page.say("Choose a VM first.", true); return; }
    const dialog = find("add");
    if (dialog.open) dialog.querySelector("[name=package]").files = event.dataTransfer.files;
    else add("", file);
  });
}

// -- runs ---------------------------------------------------------------------------------------------------------

function parameters(text) {
  return text.split("\n").filter(line => line.trim()).map(line => {
    const at = line.indexOf("=");
    return at > 0 ? { name: line.slice(0, at).trim(), value: line.slice(at + 1) } : { value: line };
  });
}

const instance = name => list(list(page.wanted()).find(one => one.name === RUNS)?.instances).find(one => one.name === name);

function run(name) {
  open("run", runScript, form => {
    const before = name ? instance(name) : null;
    if (before) {
      form.elements.name.value = name;
      form.elements.script.value = words(dig(before.public, "source", "script"), 1e6);
      form.elements.timeout.value = Number(dig(before.public, "timeoutInSeconds")) || 0;
      form.elements.parameters.value = list(dig(before.public, "parameters")).map(one => one?.name ? `${one.name}=${one.value}` : `${one?.value ?? ""}`).join("\n");
    }
  });
}

async function runScript(elements) {
  if (!elements.script.value.trim()) throw new Wrong("script", "Write a script; its first line may say what runs it, as #!/bin/sh does.");
  const ordered = await post("/api/runs", {
    script: elements.script.value.replaceAll("\r\n", "\n"), name: elements.name.value.trim(), timeout: Number(elements.timeout.value) || 0,
    user: elements.user.value.trim(), parameters: parameters(elements.parameters.value),
    // A file of its own each: that is what makes the output visible while the script runs.
    protected_parameters: parameters(elements.protected_parameters.value), output_blobs: true, fast_track: elements.fast_track.checked });
  return `Run ${ordered.name} is wanted, sequence number ${ordered.sequence_number}.${unread(elements.fast_track.checked)}`;
}

const endRun = name => confirm({ title: "Remove the run", text: `The VM ends ${name} if it still runs, and forgets it.`, word: "Remove", run: async () => {
  await call("DELETE", `/api/runs/${encodeURIComponent(name)}`, undefined, vmQuery());
  return `${name} is to be ended and forgotten.`;
} });

// -- versions -----------------------------------------------------------------------------------------------------

let families = [];

async function want() {
  families = await call("GET", "/api/families");
  open("want", askFor, form => {
    const newest = families.find(one => one.name === "Prod") ?? families[0];
    find("want-hint").textContent = newest ? `For ${page.vm()}. The host says so in a new goal state; whether and when the VM runs it is the VM's business.`
      : `For ${page.vm()}. No package is published yet: give one below, or use azfabric family publish.`;
    find("want-publish").open = !newest;
    find("want-families").replaceChildren(...families.map(one => el("option", { value: one.name })));
    form.elements.component.value = newest?.name ?? "";
    fitVersions();
  });
}

function fitVersions() {
  const { component, version } = find("want").querySelector("form").elements;
  const versions = families.find(one => one.name === component.value.trim())?.versions ?? [];
  find("want-versions").replaceChildren(...versions.toReversed().map(value => el("option", { value })));
  version.value = versions.at(-1) ?? "";
}

async function askFor(elements) {
  const [component, version, file] = [elements.component.value.trim(), elements.version.value.trim(), elements.package.files[0]];
  if (!component) throw new Wrong("component", "Name a component, as Prod or rdagent.");
  if (!version && !file) throw new Wrong("version", "Name a version.");
  let named = version;
  if (file) {
    try { named = (await call("PUT", `/api/families/${encodeURIComponent(component)}`, file, { file_name: file.name, version })).version; } catch (error) { throw new Wrong("package", error.message); }
  }
  const fast = elements.fast_track.checked;
  const asked = await post("/api/components", { component, version: named, from_version: elements.from_version.value.trim(), fast_track: fast });
  return `${asked.component} ${asked.version} is asked for, ${fast ? `by FastTrack (${asked.incarnation})` : `in incarnation ${asked.incarnation}`}.${unread(fast)}`;
}

async function askNoMore(name) {
  await call("DELETE", `/api/components/${encodeURIComponent(name)}`, undefined, vmQuery());
  page.say(`No version of ${name} is asked for any more.`);
}

async function askNothing() {
  await call("DELETE", "/api/components", undefined, vmQuery());
  page.say("No version is asked for any more.");
}

// -- faults -------------------------------------------------------------------------------------------------------

async function fault() {
  catalogue ??= await call("GET", "/api/fault-catalogue");
  open("fault", injectFault, form => {
    const before = form.elements.endpoint.value, option = (value, text = value) => el("option", { value }, text);
    form.elements.endpoint.replaceChildren(el("optgroup", { label: "Groups" }, Object.keys(catalogue.groups).map(one => option(one))),
      el("optgroup", { label: "Single endpoints" }, catalogue.endpoints.map(one => option(one))));
    form.elements.endpoint.value = before || "artifacts";
    form.elements.vm.replaceChildren(option(page.vm(), `${page.vm()} only`), option("", "every VM"));
    fitFaults();
  });
}

function fitFaults() {
  const { endpoint, fault: chosen } = find("fault").querySelector("form").elements;
  const covered = catalogue.groups[endpoint.value] ?? [endpoint.value], before = chosen.value;
  const fitting = catalogue.faults.filter(one => !one.endpoints || one.endpoints.some(each => covered.includes(each)));
  chosen.replaceChildren(...fitting.map(one => el("option", { value: one.name }, one.name)));
  if (fitting.some(one => one.name === before)) chosen.value = before;
  explainFault();
}

function explainFault() {
  const elements = find("fault").querySelector("form").elements;
  const found = catalogue.faults.find(one => one.name === elements.fault.value);
  find("fault-value").hidden = !found?.value;
  elements.value.value = "";
  if (!found?.value) { sayMeaning(); return; }
  const [low, high] = found.value;
  elements.value.min = low;
  elements.value.max = high;
  find("fault-range").textContent = `${low} to ${high}`;
  elements.value.value = { status: 503, throttle: 5, slow: 5, drip: 100 }[found.name] ?? low;
  sayMeaning();
}

function sayMeaning() {
  const { fault: chosen, value } = find("fault").querySelector("form").elements;
  const found = catalogue.faults.find(one => one.name === chosen.value);
  const meaning = (found?.meaning ?? "").replace("VALUE", value.value || "VALUE").replace(/^(a|the|no) /, "give $1 ").replace(/^40\d/, "answer $&");
  find("fault-meaning").textContent = meaning ? `The host will ${meaning}.` : "";
}

async function injectFault(elements) {
  const order = { endpoint: elements.endpoint.value, fault: elements.fault.value, vm: elements.vm.value };
  for (const name of ["value", "count", "wait", "last", "skip", "probability", "seed"]) {
    if (name === "value" && find("fault-value").hidden) continue;
    const value = number(elements, name);
    if (value !== undefined) order[name] = value;
  }
  const rule = await call("POST", "/api/faults", order);
  return `Fault ${rule.id} is in force: ${rule.fault} at ${rule.endpoint}.`;
}

async function lift(id) {
  await call("DELETE", `/api/faults/${encodeURIComponent(id)}`);
  page.say(`Fault ${id} is lifted.`);
}

// -- the VM itself ------------------------------------------------------------------------------------------------

function confirm({ title, text, word, option, run: go }) {
  open("confirm", elements => go(elements.option.checked), form => {
    find("confirm-title").textContent = title;
    find("confirm-text").textContent = text;
    find("confirm-option").hidden = !option;
    find("confirm-option").querySelector("span").textContent = option ?? "";
    form.querySelector("[type=submit]").textContent = word;
  });
}

async function hold(_, button) {
  const on = button.getAttribute("aria-pressed") !== "true";
  await post("/api/hold", { on });
  page.say(on ? "Extensions are on hold; the VM reads it with its next goal state." : "Extensions are no longer on hold; the VM reads it with its next goal state.");
}

const rotate = () => confirm({ title: "Rotate the certificate", word: "Rotate", option: "Elliptic curve instead of RSA",
  text: "The tenant certificate is replaced, as hibernation does; the incarnation stays. Protected settings that were encrypted for the old one can be read only by a VM that kept it.",
  run: async ec => `The certificate is now ${(await post("/api/certificates/rotate", { ec })).thumbprint}.` });

const move = () => confirm({ title: "Move to another container", word: "Move", text: "The VM gets another container id without a word; requests with the old one are answered with 410 until it asks again.",
  run: async () => `The container is now ${(await post("/api/move", {})).container_id}.` });

const forget = () => confirm({ title: "Forget the VM", word: "Forget", text: `${page.vm()} and all it told are forgotten. This cannot be undone.`
  + (page.state()?.catch_all ? " It has every address that is nobody else's: who asks from there is refused until another VM takes them." : ""), run: async () => {
  const name = page.vm();
  await call("DELETE", `/api/vms/${encodeURIComponent(name)}`);
  return `${name} is forgotten.`;
} });

const newVm = () => open("new-vm", async elements => {
  const order = { name: elements.name.value.trim(), tenant: elements.tenant.value.trim() };
  if (elements.known.value === "ports") order.own_ports = true; else order.address = elements.address.value.trim();
  const made = await call("POST", "/api/vms", order);
  page.choose(made.name);
  return `${made.name} finds its host at ${made.wireserver}.`;
}, form => { form.elements.address.disabled = true; });

const ORDERS = { add: () => add(""), update: name => add(name), uninstall: removing(false), vanish: removing(true), run: () => run(""), again: run, "end-run": endRun,
  want, "want-no-more": askNoMore, "want-nothing": askNothing, fault, lift, hold, rotate, move, "forget-vm": forget, "new-vm": newVm };
