// The page: asks the service and shows its answer as text, as JSON and as a curl command.

import { drawHighlights, light } from "./highlight.js";

const EXAMPLES = {
  "English": "Marta Oliveira left the University of Porto Hospital in May to lead the Lisbon office of Northwind Robotics, " +
    "a company founded by her brother Tomás.",
  "中文": "去年秋天，陈晓岚离开浙江大学医学院附属医院，到杭州云帆科技有限公司担任首席科学家，并出版了《河流的记忆》。",
  "Mixed": "On 3 March 李雨桐 flew from 成都 to Zürich 🏔️ to speak at the Swiss Museum of Transport about her book 《星轨》.",
};

const $ = (id) => document.getElementById(id);
const views = ["text", "json", "curl"];
let hues = new Map();
let latest = 0;

function hueOf(label) {
  if (!hues.has(label)) hues.set(label, (35 + hues.size * 137.508) % 360);
  return hues.get(label);
}

function headers() {
  const key = $("key").value;
  return key ? { "Content-Type": "application/json", Authorization: `Bearer ${key}` } : { "Content-Type": "application/json" };
}

function requestBody() {
  const body = { inputs: $("text").value, offset_unit: "utf16" };
  if (!$("own").checked) body.threshold = Number($("threshold").value);
  if ($("overlap").value !== "all") body.overlap = $("overlap").value;
  return body;
}

async function ask(path, options) {
  const response = await fetch(path, { ...options, headers: headers() });
  const reply = await response.json();
  $("key-field").hidden = response.status !== 401 && !$("key").value;
  if (response.ok) return reply;
  throw new Error(reply.detail);
}

async function showModel() {
  try {
    const { models } = await ask("/v1/models", {});
    const { name } = models.find((model) => model.default);
    const card = await ask(`/v1/models/${encodeURIComponent(name)}`, {});
    $("model").textContent = `${card.name} ${card.version}`;
    hues = new Map();
    card.labels.forEach(hueOf);
    if (!card.heads.spans) showProblem(`This model finds no entities. It has: ${Object.keys(card.heads).join(", ")}.`);
  } catch (error) {
    showProblem(error.message);
  }
}

async function run() {
  if (!$("text").value) return;
  latest += 1;
  const mine = latest;
  const body = requestBody();
  $("run").disabled = true;
  try {
    const reply = await ask("/v1/extract", { method: "POST", body: JSON.stringify(body) });
    if (mine !== latest) return;
    showProblem(reply.results[0].error?.detail ?? "");
    showAnswer(body, reply);
  } catch (error) {
    if (mine === latest) showProblem(error.message);
  } finally {
    if (mine === latest) $("run").disabled = false;
  }
}

function showProblem(detail) {
  $("problem").textContent = detail;
  $("problem").hidden = !detail;
}

function showAnswer(body, reply) {
  const [result] = reply.results;
  const entities = result.entities ?? [];
  $("answer").hidden = false;
  $("view-json").firstChild.textContent = JSON.stringify(reply, null, 2);
  $("view-curl").firstChild.textContent = curlCommand(body);
  const windows = reply.usage.windows === 1 ? "" : ` · ${reply.usage.windows} windows`;
  const count = entities.length === 1 ? "1 entity" : `${entities.length} entities`;
  $("summary").textContent = `${count}${windows} · ${reply.timing_ms.total.toFixed(0)} ms`;
  drawHighlights($("highlights"), body.inputs, entities, hueOf);
  listEntities(entities);
}

function listEntities(entities) {
  const rows = entities.map((entity, index) => {
    const row = document.createElement("tr");
    row.tabIndex = 0;
    row.dataset.index = index;
    row.style.setProperty("--hue", hueOf(entity.label));
    row.style.setProperty("--depth", entity.depth);
    const meter = document.createElement("meter");
    meter.value = entity.score;
    meter.setAttribute("aria-hidden", "true");
    const cells = [
      [`entity${entity.depth ? " nested" : ""}`, entity.text],
      ["label", entity.label],
      ["score", entity.score.toFixed(3)],
      ["number", `${entity.start}–${entity.end}`],
    ].map(([kind, content]) => {
      const cell = document.createElement("td");
      cell.className = kind;
      cell.textContent = content;
      return cell;
    });
    cells[2].append(meter);
    row.append(...cells);
    return row;
  });
  $("entities").hidden = !rows.length;
  $("entities").tBodies[0].replaceChildren(...rows);
}

function curlCommand(body) {
  const quote = (value) => `'${value.replaceAll("'", "'\\''")}'`;
  const key = $("key").value ? ` -H "Authorization: Bearer $NER_API_KEY"` : "";
  return `curl -s ${location.origin}/v1/extract -H 'Content-Type: application/json'${key} -d ${quote(JSON.stringify(body))}`;
}

async function copyCurl() {
  showView("curl");
  const text = $("view-curl").firstChild.textContent;
  try {
    await navigator.clipboard.writeText(text);
    $("copy").textContent = "Copied";
  } catch {
    // Browsers give the clipboard to secure pages only; elsewhere the command is selected, ready for Ctrl + C.
    getSelection().selectAllChildren($("view-curl").firstChild);
    $("copy").textContent = "Selected";
  }
  setTimeout(() => { $("copy").textContent = "Copy as curl"; }, 1600);
}

function showView(name) {
  for (const view of views) {
    const selected = view === name;
    $(`view-${view}`).hidden = !selected;
    $(`tab-${view}`).setAttribute("aria-selected", selected);
    $(`tab-${view}`).tabIndex = selected ? 0 : -1;
  }
}

function moveTab(event) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  const current = views.findIndex((view) => `tab-${view}` === event.target.id);
  const next = views[(current + step + views.length) % views.length];
  showView(next);
  $(`tab-${next}`).focus();
}

function showThreshold() {
  $("threshold-value").textContent = $("own").checked ? "–" : Number($("threshold").value).toFixed(2);
  $("threshold").parentElement.classList.toggle("own", $("own").checked);
}

function lightFrom(event, isLit) {
  const part = event.target.closest("[data-index]");
  if (part) light($("answer"), part.dataset.index, isLit);
}

for (const [name, text] of Object.entries(EXAMPLES)) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = name;
  button.addEventListener("click", () => { $("text").value = text; run(); });
  $("examples").append(button);
}

$("form").addEventListener("submit", (event) => { event.preventDefault(); run(); });
$("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); run(); }
});
$("threshold").addEventListener("input", () => { $("own").checked = false; showThreshold(); run(); });
$("own").addEventListener("change", () => { showThreshold(); run(); });
$("overlap").addEventListener("change", run);
$("key").addEventListener("change", () => { sessionStorage.setItem("key", $("key").value); showProblem(""); showModel(); run(); });
$("copy").addEventListener("click", copyCurl);
for (const view of views) {
  $(`tab-${view}`).addEventListener("click", () => showView(view));
  $(`tab-${view}`).addEventListener("keydown", moveTab);
}
for (const [on, off] of [["mouseover", "mouseout"], ["focusin", "focusout"]]) {
  $("answer").addEventListener(on, (event) => lightFrom(event, true));
  $("answer").addEventListener(off, (event) => lightFrom(event, false));
}

$("key").value = sessionStorage.getItem("key") ?? "";
showThreshold();
showModel();
