// What was wanted beside what was reported. Pure: documents in, plain values out; a VM may report anything.
import { dig, list, record, words } from "./dom.js";

export const RUNS = "Microsoft.CPlat.Core.RunCommandHandlerLinux";
const FINAL = new Set(["Succeeded", "Failed", "TimedOut", "Canceled", "Unknown"]);

const SHADES = new Map(Object.entries({ ready: "good", success: "good", succeeded: "good", ok: "good", true: "good",
  notready: "bad", error: "bad", failed: "bad", unresponsive: "bad", timedout: "bad", false: "bad", canceled: "bad", stopped: "bad",
  transitioning: "wait", warning: "wait", installing: "wait", running: "wait", pending: "wait", starting: "wait" }));
/** The class of a word: one of ours or none, never the word itself. */
export const shade = word => SHADES.get(words(word, 40).toLowerCase()) ?? "";

function message(formatted) {
  const found = dig(formatted, "message");
  return found === undefined && typeof formatted === "string" ? formatted : found;
}

/** One entry for each handler, or each extension of one, that the last status blob names. */
export function reported(status) {
  return list(dig(status, "aggregateStatus", "handlerAggregateStatus")).map(record).map(one => {
    const runtime = record(one.runtimeSettingsStatus), inner = record(dig(runtime, "settingsStatus", "status"));
    return {
      name: words(one.handlerName, 200), extension: words(runtime.extensionName, 100),
      version: words(one.handlerVersion, 80), handler: one.status, code: one.code, handlerMessage: message(one.formattedMessage),
      sequence: runtime.sequenceNumber, status: inner.status, statusCode: inner.code, operation: inner.operation,
      message: message(inner.formattedMessage),
      parts: list(inner.substatus, 50).map(record).map(part =>
        ({ name: part.name, status: part.status, code: part.code, message: message(part.formattedMessage) })),
    };
  });
}

/** Of each extension: `wanted` and `told` (either may be missing), `differs`: in which words they do. */
export function extensions(handlers, status) {
  const left = new Map(), found = [];
  for (const one of reported(status)) left.set(JSON.stringify([one.name, one.extension]), one);
  const pair = (wanted, extension) => {
    const key = JSON.stringify([wanted.name, extension]);
    const told = left.get(key) ?? (extension ? left.get(JSON.stringify([wanted.name, ""])) : undefined);
    left.delete(key);
    found.push({ key, name: wanted.name, extension, wanted, told, differs: differences(wanted, told) });
  };
  for (const one of list(handlers)) {
    const instances = list(one.instances);
    for (const each of instances) pair({ ...one, ...each, name: one.name, has_settings: true }, each.name);
    if (!instances.length) pair(one, "");
    else left.delete(JSON.stringify([one.name, ""]));
  }
  for (const [key, told] of left) {
    found.push({ key, name: told.name, extension: told.extension, told, differs: ["reported, but not in the goal state"] });
  }
  return found;
}

function differences(wanted, told) {
  const going = wanted.state === "uninstall" ? "to be uninstalled" : wanted.state === "disabled" ? "to be disabled" : "";
  if (!told) return [going || "not reported yet"];
  const found = going ? [going] : [];
  if (!going && told.version !== words(wanted.version, 80)) found.push(`version ${words(wanted.version, 80)} is wanted`);
  if (!going && wanted.has_settings && told.sequence !== wanted.sequence_number) found.push(`sequence number ${words(wanted.sequence_number, 20)} is wanted`);
  return found;
}

/** What a managed run command says of itself in its status message. */
export function runView(told, sequence) {
  if (!told || told.sequence !== sequence) return { state: "Pending", ended: false, message: "", output: "", error: "" };
  let view;
  try { view = record(JSON.parse(told.message)); } catch { view = null; }
  if (!view) return { state: words(told.status, 40) || "Pending", ended: shade(told.status) === "bad", message: told.message, output: "", error: "" };
  const state = words(view.executionState, 40);
  return { state, ended: FINAL.has(state), message: view.executionMessage, output: view.output, error: view.error, code: view.exitCode,
    began: view.startTime, end: view.endTime };
}

/** The agent itself, and what it says of each of its processes. */
export function components(told) {
  const agent = record(dig(told, "status", "aggregateStatus", "guestAgentStatus"));
  const rows = [];
  if (Object.keys(agent).length) rows.push({ name: "Guest agent (status blob)", version: agent.version, state: agent.status, text: message(agent.formattedMessage) });
  for (const one of Object.values(record(told.observations)).slice(0, 100).map(record)) {
    const name = words(one.ObservationName, 80);
    rows.push({ name: name.startsWith("azvmagent.") ? name.slice("azvmagent.".length) : name, version: one.Value,
      state: one.IsHealthy === true ? "ok" : one.IsHealthy === false ? "false" : one.IsHealthy, text: one.Description, at: one.at });
  }
  return rows;
}
