// The control API's own description, made readable; the host's files only, so it needs no network.
import { el, find, list, record, words } from "./dom.js";
import { call } from "./host.js";

const METHODS = ["get", "post", "put", "patch", "delete"];
const BODIES = { "text/event-stream": "Server-sent events.", "application/zip": "The bytes of the zip." };

/** A schema as people write types: one line for what is simple. */
function kind(schema) {
  const one = record(schema);
  if (list(one.anyOf).length) return one.anyOf.map(kind).join(" or ");
  if (Array.isArray(one.enum)) return one.enum.map(each => JSON.stringify(each)).join(" | ");
  if (one.const !== undefined) return JSON.stringify(one.const);
  if (one.type === "array") return one.items ? `list of ${kind(one.items)}` : "list";
  if (one.type === "object") return words(one.title, 80) || "object";
  return words(one.type, 40) || "anything";
}

const LIMITS = { minimum: one => `from ${one}`, exclusiveMinimum: one => `above ${one}`, maximum: one => `up to ${one}`, exclusiveMaximum: one => `below ${one}`,
  minLength: one => `${one} characters or more`, maxLength: one => `up to ${one} characters`, maxItems: one => `up to ${one} entries`, pattern: one => `as ${one}` };
const limits = schema => Object.entries(LIMITS).filter(([name]) => schema[name] !== undefined).map(([name, text]) => text(words(schema[name], 200))).join(", ");

/** The objects a schema leads to, by themselves: itself, its entries, its alternatives. */
function objects(schema) {
  const one = record(schema);
  if (one.properties) return [one];
  return [...list(one.anyOf), one.items, one.additionalProperties].filter(each => each && typeof each === "object").flatMap(objects);
}

function fields(schema, depth = 0) {
  return objects(schema).map(one => el("dl", { class: "fields" }, Object.entries(record(one.properties)).map(([name, each]) => {
    const field = record(each), needed = list(one.required).includes(name);
    const more = [needed ? "" : field.default === undefined ? "may be left out" : `by itself ${JSON.stringify(field.default)}`, limits(field)].filter(Boolean).join("; ");
    return [el("dt", null, el("code", null, name), ` ${kind(field)}`, more ? el("span", { class: "quiet" }, ` ${more}`) : null),
      el("dd", null, field.description ?? "", depth < 4 ? fields(field, depth + 1) : null)];
  })));
}

function body(content) {
  const schema = record(content?.["application/json"]).schema;
  if (!schema) return el("p", null, BODIES[Object.keys(record(content))[0]] ?? "Bytes.");
  return [el("p", null, kind(schema), schema.description ? `: ${words(schema.description, 500)}` : ""), ...fields(schema)];
}

function parameters(all) {
  if (!all.length) return null;
  return [el("p", { class: "label" }, "Parameters"), el("dl", { class: "fields" }, all.map(record).map(one => {
    const schema = record(one.schema), about = [one.in, one.required ? "" : schema.default === undefined ? "may be left out" : `by itself ${JSON.stringify(schema.default)}`, limits(schema)];
    return [el("dt", null, el("code", null, one.name), ` ${kind(schema)}`, el("span", { class: "quiet" }, ` ${about.filter(Boolean).join("; ")}`)), el("dd", null, one.description ?? "")];
  }))];
}

function operation(path, method, one) {
  const answers = Object.entries(record(one.responses));
  const [good, refusals] = [answers.filter(([status]) => status < 300), answers.filter(([status]) => status >= 300)];
  const text = `${method.toUpperCase()} ${path}`;
  return el("li", { class: "card", "data-key": text }, el("details", null,
    el("summary", null, el("code", null, text), " ", words(one.description ?? one.summary, 300)),
    parameters(list(one.parameters)),
    one.requestBody ? [el("p", { class: "label" }, "Body"), body(record(one.requestBody.content))] : null,
    good.map(([status, each]) => [el("p", { class: "label" }, `Answer ${status}`)].concat(each.content ? body(each.content) : [])),
    el("p", { class: "label" }, "Refusals, each as {\"reason\": \"...\"}"),
    el("dl", { class: "fields" }, refusals.map(([status, each]) => [el("dt", null, status), el("dd", null, words(each.description, 200))]))));
}

async function begin() {
  const told = await call("GET", "/openapi.json");
  const all = Object.entries(record(told.paths)).flatMap(([path, methods]) => METHODS.filter(method => methods[method]).map(method => [path, method, methods[method]]));
  find("summary").textContent = `${words(told.info?.title, 100)} ${words(told.info?.version, 40)}, ${all.length} operations. Orders are JSON; whatever is refused says why.`;
  const made = all.map(([path, method, one]) => ({ text: `${method} ${path} ${one.description ?? ""}`.toLowerCase(), item: operation(path, method, one) }));
  const show = () => {
    const asked = find("filter").value.toLowerCase(), found = made.filter(one => one.text.includes(asked));
    find("operations").replaceChildren(...(found.length ? found.map(one => one.item) : [el("li", { class: "quiet" }, "No operation matches.")]));
  };
  find("filter").addEventListener("input", show);
  show();
}

begin().catch(error => { find("summary").textContent = error.message; });
