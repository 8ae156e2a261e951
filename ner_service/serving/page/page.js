// The page: asks the service of a text or a page, and shows its answer drawn, as JSON and as a curl command.

import { drawHighlights, light } from "./highlight.js";
import { drawPage } from "./layout.js";

const EXAMPLES = {
  "English": "Marta Oliveira left the University of Porto Hospital in May to lead the Lisbon office of Northwind Robotics, " +
    "a company founded by her brother Tomás.",
  "中文": "去年秋天，陈晓岚离开浙江大学医学院附属医院，到杭州云帆科技有限公司担任首席科学家，并出版了《河流的记忆》。",
  "Mixed": "On 3 March 李雨桐 flew from 成都 to Zürich 🏔️ to speak at the Swiss Museum of Transport about her book 《星轨》.",
};

const FORM = {
  words: ["Delivery", "note", "4711", "Recipient", "Carrier", "Marta", "Oliveira", "Northwind", "Robotics,", "Lisbon"],
  boxes: [
    [60, 40, 190, 66], [200, 40, 262, 66], [272, 40, 344, 66], [60, 110, 170, 130], [420, 110, 500, 130],
    [60, 140, 120, 160], [128, 140, 214, 160], [420, 140, 532, 160], [540, 140, 640, 160], [420, 170, 490, 190],
  ],
  page: [720, 240],
};

const $ = (id) => document.getElementById(id);
const tabs = [["write", "page"], ["text", "json", "curl"]];
const EITHER = "Words and boxes of your own may have an image to lie under them.";
let readsImages = false;
let hues = new Map();
let latest = 0;
let request = new AbortController();

function hueOf(label) {
  if (!hues.has(label)) hues.set(label, (35 + hues.size * 137.508) % 360);
  return hues.get(label);
}

function headers() {
  const key = $("key").value;
  return key ? { "Content-Type": "application/json", Authorization: `Bearer ${key}` } : { "Content-Type": "application/json" };
}

// Null where there is nothing to ask about yet.
async function requestBody() {
  const isPage = !$("view-page").hidden;
  const inputs = isPage ? await pageInput() : $("text").value;
  if (!inputs) return null;
  const body = isPage ? { inputs } : { inputs, offset_unit: "utf16" };
  if (!$("own").checked) body.threshold = Number($("threshold").value);
  if ($("overlap").value !== "all") body.overlap = $("overlap").value;
  return body;
}

async function pageInput() {
  const [file] = $("image").files;
  if ($("words").value.trim()) return pageOf(JSON.parse($("words").value));
  if (!file) return null;
  if (!readsImages) throw new Error("This service reads no images. Give the words and boxes, too.");
  return { image: await base64Of(file) };
}

function pageOf(value) {
  if (value?.words) return value;
  throw new Error("Give one page: an object with words, boxes and page.");
}

function base64Of(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
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
    readsImages = card.inputs.includes("image");
    $("image-hint").textContent = readsImages ? `An image alone is read by the service. ${EITHER}` : EITHER;
    if (!card.heads.spans) showProblem(`This model finds no entities. It has: ${Object.keys(card.heads).join(", ")}.`);
  } catch (error) {
    showProblem(error.message);
  }
}

async function run() {
  latest += 1;
  const mine = latest;
  request.abort();
  request = new AbortController();
  const { signal } = request;
  try {
    const body = await requestBody();
    if (!body || mine !== latest) return;
    $("run").disabled = true;
    const reply = await ask("/v1/extract", { method: "POST", body: JSON.stringify(body), signal });
    if (mine !== latest) return;
    showProblem(reply.results[0].error?.detail ?? "");
    await showAnswer(body, reply);
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

async function showAnswer(body, reply) {
  const [result] = reply.results;
  const entities = result.entities ?? [];
  $("answer").hidden = false;
  $("view-json").firstChild.textContent = JSON.stringify(reply, null, 2);
  $("view-curl").firstChild.textContent = curlCommand(body);
  const windows = reply.usage.windows === 1 ? "" : ` · ${reply.usage.windows} windows`;
  const count = entities.length === 1 ? "1 entity" : `${entities.length} entities`;
  $("summary").textContent = `${count}${windows} · ${reply.timing_ms.total.toFixed(0)} ms`;
  const isPage = typeof body.inputs !== "string";
  $("highlights").hidden = isPage;
  $("sheet").hidden = !isPage || result.status === "error";
  $("tab-text").textContent = isPage ? "Page" : "Text";
  listEntities(entities);
  if (!isPage) drawHighlights($("highlights"), body.inputs, entities, hueOf);
  else if (result.status === "ok") drawPage($("sheet"), { ...body.inputs, ...result }, entities, hueOf, await chosenImage());
}

// What cannot be shown as an image is not; what is asked of it is another matter.
async function chosenImage() {
  const [file] = $("image").files;
  return file ? createImageBitmap(file).catch(() => null) : null;
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
  const start = `curl -s ${location.origin}/v1/extract -H 'Content-Type: application/json'${key} -d`;
  if (!body.inputs.image) return `${start} ${quote(JSON.stringify(body))}`;
  // An image is too long for a command line.
  const [before, after] = JSON.stringify({ ...body, inputs: { image: "%s" } }).split("%s");
  const parts = `printf '%s' ${quote(before)}; base64 -w 0 ${quote($("image").files[0].name)}; printf '%s' ${quote(after)}`;
  return `{ ${parts}; } | ${start} @-`;
}

async function copyCurl() {
  showTab("curl");
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

function showTab(name) {
  for (const other of tabs.find((group) => group.includes(name))) {
    const selected = other === name;
    $(`view-${other}`).hidden = !selected;
    $(`tab-${other}`).setAttribute("aria-selected", selected);
    $(`tab-${other}`).tabIndex = selected ? 0 : -1;
  }
}

function moveTab(event) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  const current = event.target.id.replace("tab-", "");
  const group = tabs.find((names) => names.includes(current));
  const next = group[(group.indexOf(current) + step + group.length) % group.length];
  showTab(next);
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

function addExample(name, show) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = name;
  button.addEventListener("click", () => { show(); run(); });
  $("examples").append(button);
}

for (const [name, text] of Object.entries(EXAMPLES)) {
  addExample(name, () => { showTab("write"); $("text").value = text; });
}
addExample("Page", () => { showTab("page"); $("image").value = ""; $("words").value = JSON.stringify(FORM); });

$("form").addEventListener("submit", (event) => { event.preventDefault(); run(); });
for (const field of [$("text"), $("words")]) {
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); run(); }
  });
}
$("image").addEventListener("change", run);
$("threshold").addEventListener("input", () => { $("own").checked = false; showThreshold(); run(); });
$("own").addEventListener("change", () => { showThreshold(); run(); });
$("overlap").addEventListener("change", run);
$("key").addEventListener("change", () => { sessionStorage.setItem("key", $("key").value); showProblem(""); showModel(); run(); });
$("copy").addEventListener("click", copyCurl);
for (const name of tabs.flat()) {
  $(`tab-${name}`).addEventListener("click", () => showTab(name));
  $(`tab-${name}`).addEventListener("keydown", moveTab);
}
for (const [on, off] of [["mouseover", "mouseout"], ["focusin", "focusout"]]) {
  $("answer").addEventListener(on, (event) => lightFrom(event, true));
  $("answer").addEventListener(off, (event) => lightFrom(event, false));
}

$("key").value = sessionStorage.getItem("key") ?? "";
showThreshold();
showModel();
