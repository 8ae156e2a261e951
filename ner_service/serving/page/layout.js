// Draws a page: its image, or its words where there is none, and over them the boxes of its entities. An outer entity's
// boxes lie around those of the ones within it; words of one line share a box. Nothing of it is ever read as HTML.

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 1000; // of every page, whatever its own unit is
const PAD = 0.1; // of a line's height, around the words of an entity
const STEP = 0.16; // of a line's height, from an inner to an outer entity
const TAG = 11; // height of a label

export function drawPage(container, page, entities, hueOf, image) {
  const scale = WIDTH / page.page[0];
  const boxes = page.boxes.map((box) => scaled(box, scale));
  const svg = shape("svg", { viewBox: `0 0 ${WIDTH} ${page.page[1] * scale}`, role: "img" });
  svg.setAttribute("aria-label", `A page of ${page.words.length} words; the table lists the entities in it`);
  if (!image) svg.append(...page.words.map((word, index) => makeWord(word, boxes[index])));
  const line = median(boxes.map(([, top, , bottom]) => bottom - top)) || 1;
  const levels = levelsOf(entities);
  const tags = [];
  const outerFirst = entities.map((_, index) => index).sort((a, b) => levels[b] - levels[a]);
  for (const index of outerFirst) {
    const pad = (PAD + STEP * levels[index]) * line;
    const runs = runsOf(entities[index].boxes.map((box) => scaled(box, scale)));
    svg.append(makeFound(entities[index], index, runs, pad, hueOf(entities[index].label), tags));
  }
  container.replaceChildren(...(image ? [makeCanvas(image)] : []), svg);
}

function scaled(box, scale) {
  return box.map((value) => value * scale);
}

function median(values) {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)];
}

// How many entities lie within one another below each; of two with the same words the later one is the outer.
function levelsOf(entities) {
  const levels = entities.map(() => 0);
  const latest = new Map();
  const innerFirst = entities.map((_, index) => index).sort((a, b) => entities[b].depth - entities[a].depth);
  for (const index of innerFirst) {
    const { parent, words } = entities[index];
    const same = latest.get(words.join());
    if (same !== undefined) levels[index] = Math.max(levels[index], levels[same] + 1);
    latest.set(words.join(), index);
    if (parent !== null) levels[parent] = Math.max(levels[parent], levels[index] + 1);
  }
  return levels;
}

// Boxes of words in the order of reading -> one box for the words of each line.
function runsOf(boxes) {
  const runs = [];
  for (const [left, top, right, bottom] of boxes) {
    const run = runs.at(-1);
    const shared = run ? Math.min(run[3], bottom) - Math.max(run[1], top) : 0;
    if (run && left >= run[0] && shared >= Math.min(run[3] - run[1], bottom - top) / 2) {
      runs[runs.length - 1] = [run[0], Math.min(run[1], top), Math.max(run[2], right), Math.max(run[3], bottom)];
    } else runs.push([left, top, right, bottom]);
  }
  return runs;
}

function makeWord(word, [left, top, right, bottom]) {
  const height = bottom - top;
  const made = shape("text", { x: left, y: bottom - 0.22 * height, "font-size": 0.8 * height, class: "word" });
  if (right > left) {
    made.setAttribute("textLength", right - left);
    made.setAttribute("lengthAdjust", "spacingAndGlyphs");
  }
  made.textContent = word;
  return made;
}

function makeFound(entity, index, runs, pad, hue, tags) {
  const group = shape("g", { class: "found", "data-index": index });
  group.style.setProperty("--hue", hue);
  for (const [left, top, right, bottom] of runs) {
    const size = { width: right - left + 2 * pad, height: bottom - top + 2 * pad };
    group.append(shape("rect", { x: left - pad, y: top - pad, ...size, rx: pad / 2 }));
  }
  const tag = placeTag(entity.label, Math.max(0, runs[0][0] - pad), Math.max(TAG, runs[0][1] - pad - 2), tags);
  const name = shape("text", { x: tag.left, y: tag.bottom, "font-size": TAG });
  name.textContent = entity.label;
  group.append(name);
  return group;
}

// Above the box, or beside the labels that are there already. Their width is a guess: they are drawn nowhere yet.
function placeTag(label, left, bottom, tags) {
  const tag = { left, bottom, width: TAG * (0.7 * label.length + 0.6) };
  const clashes = (other) => Math.abs(other.bottom - tag.bottom) < TAG && other.left < tag.left + tag.width && tag.left < other.left + other.width;
  for (let other = tags.find(clashes); other; other = tags.find(clashes)) tag.left = other.left + other.width;
  tags.push(tag);
  return tag;
}

function makeCanvas(image) {
  const canvas = document.createElement("canvas");
  canvas.width = image.width;
  canvas.height = image.height;
  canvas.setAttribute("aria-hidden", "true");
  canvas.getContext("2d").drawImage(image, 0, 0);
  return canvas;
}

function shape(kind, attributes) {
  const made = document.createElementNS(SVG, kind);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}
