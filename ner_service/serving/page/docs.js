// Shows openapi.json: every operation with its parameters, its body and what it may answer.

const HUES = { get: 160, post: 260 };

function element(kind, content, className = "") {
  const made = document.createElement(kind);
  made.className = className;
  if (Array.isArray(content)) made.append(...content);
  else made.textContent = content;
  return made;
}

// Words between backticks are code.
function prose(text) {
  return text.split("`").map((piece, index) => (index % 2 ? element("code", piece) : piece));
}

function table(titles, rows) {
  const head = element("tr", titles.map((title) => element("th", title)));
  const body = rows.map((cells) => element("tr", cells.map((cell) => element("td", [cell].flat()))));
  return element("div", [element("table", [element("thead", [head]), element("tbody", body)])], "scroll");
}

function lookUp(api, schema) {
  return schema?.$ref ? api.components.schemas[schema.$ref.split("/").pop()] : schema;
}

function typeName(schema) {
  if (schema === true) return "any";
  if (schema.$ref) return schema.$ref.split("/").pop();
  const options = schema.anyOf ?? schema.oneOf;
  if (options) return options.map(typeName).join(" | ");
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if ("const" in schema) return JSON.stringify(schema.const);
  if (schema.type === "array") return `[${typeName(schema.items ?? {})}, …]`;
  if (schema.type === "object" && schema.additionalProperties) return `{name: ${typeName(schema.additionalProperties)}}`;
  const range = "maximum" in schema ? ` ${schema.minimum} to ${schema.maximum}` : "minimum" in schema ? ` from ${schema.minimum}` : "";
  return `${schema.type ?? "any"}${range}`;
}

// The schema's fields, and those of every schema that it names.
function schemaTables(api, schema, seen = new Set()) {
  const name = schema.$ref?.split("/").pop();
  const known = lookUp(api, schema);
  if (!known?.properties || seen.has(name)) return [];
  seen.add(name);
  const required = new Set(known.required ?? []);
  const rows = Object.entries(known.properties).map(([field, value]) => [
    element("code", field),
    element("code", typeName(value)),
    required.has(field) ? "required" : "default" in value ? element("code", JSON.stringify(value.default)) : "",
    prose(value.description ?? ""),
  ]);
  const named = JSON.stringify(known.properties).match(/#\/components\/schemas\/\w+/g) ?? [];
  return [
    element("h3", known.title ?? name),
    element("p", prose(known.description ?? ""), "quiet"),
    table(["Field", "Type", "Default", "Meaning"], rows),
    ...named.flatMap(($ref) => schemaTables(api, { $ref }, seen)),
  ];
}

function operationCard(api, path, method, operation) {
  const verb = element("span", method.toUpperCase(), "method");
  verb.style.setProperty("--hue", HUES[method] ?? 60);
  const body = operation.requestBody?.content["application/json"].schema;
  const reply = operation.responses["200"]?.content?.["application/json"]?.schema;
  const parameters = (operation.parameters ?? []).map((parameter) => [
    element("code", parameter.name),
    parameter.in,
    parameter.required ? "required" : "",
    parameter.description ?? "",
  ]);
  const answers = Object.entries(operation.responses).map(([status, { description }]) => [element("code", status), prose(description)]);
  return element("section", [
    element("h2", [verb, path]),
    element("p", operation.description ?? operation.summary),
    ...(parameters.length ? [element("h3", "Parameters"), table(["Name", "In", "", "Meaning"], parameters)] : []),
    ...(body ? [element("details", [element("summary", "Request"), ...schemaTables(api, body)])] : []),
    ...(reply ? [element("details", [element("summary", "Reply"), ...schemaTables(api, reply)])] : []),
    element("details", [element("summary", "Status codes"), table(["Status", "Meaning"], answers)]),
  ], "card operation");
}

const api = await (await fetch("/openapi.json")).json();
document.getElementById("version").textContent = api.info.version;
document.getElementById("description").textContent = api.info.description;
document.getElementById("operations").append(
  ...Object.entries(api.paths).flatMap(([path, operations]) =>
    Object.entries(operations).map(([method, operation]) => operationCard(api, path, method, operation))),
);
