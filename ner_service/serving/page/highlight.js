// Draws entities under a text: one line each, inner ones nearer to the words, a label with its score below its start.
// The text stays one text node, so that it is selected and copied as it is; nothing of it is ever read as HTML.
// Offsets are UTF-16 code units, as the DOM counts.

const LANE = 18; // pixels of one line with its label
const GAP = 6; // least pixels between neighbours in a lane

export function drawHighlights(container, text, entities, hueOf) {
  const words = document.createElement("span");
  words.className = "words";
  words.textContent = text;
  container.replaceChildren(words);
  if (!text) return;
  const marks = entities.map((entity, index) => makeMark(container, words.firstChild, entity, index, hueOf));
  let width = 0;
  new ResizeObserver((_, observer) => {
    if (!words.isConnected) observer.disconnect();
    else if (container.clientWidth !== width) layOut(container, words, marks, (width = container.clientWidth));
  }).observe(container);
}

export function light(container, index, isLit) {
  for (const part of container.querySelectorAll(`[data-index="${index}"]`)) part.classList.toggle("lit", isLit);
}

function makeMark(container, node, entity, index, hueOf) {
  const range = document.createRange();
  range.setStart(node, entity.start);
  range.setEnd(node, entity.end);
  const label = document.createElement("b");
  label.textContent = entity.label;
  const score = document.createElement("i");
  score.textContent = entity.score.toFixed(2);
  const tag = part(container, "tag", index, hueOf(entity.label));
  tag.append(label, score);
  return { entity, index, range, tag, hue: hueOf(entity.label) };
}

// Everything drawn is for the eye; the table under the text says the same.
function part(container, kind, index, hue) {
  const made = document.createElement("span");
  made.className = kind;
  made.dataset.index = index;
  made.style.setProperty("--hue", hue);
  made.setAttribute("aria-hidden", "true");
  container.append(made);
  return made;
}

function layOut(container, words, marks, width) {
  for (const old of container.querySelectorAll(".line, .wash")) old.remove();
  words.style.margin = 0;
  const glyphs = parseFloat(getComputedStyle(container).fontSize) * 1.35;
  const numLanes = assignLanes(piecesOf(container, words, marks), width);
  const rowHeight = glyphs + 8 + numLanes * LANE;
  container.style.lineHeight = `${rowHeight}px`;
  // Half of the leading lies above the first row, where nothing is drawn.
  words.style.marginTop = `${(glyphs - rowHeight) / 2}px`;
  const pieces = piecesOf(container, words, marks);
  assignLanes(pieces, width);
  const bottoms = pieces.map((piece) => place(container, piece, width));
  const bottom = Math.max(words.getBoundingClientRect().bottom - container.getBoundingClientRect().top - (rowHeight - glyphs) / 2, ...bottoms);
  words.style.marginBottom = `${bottom + 14 - container.clientHeight}px`;
}

// Every entity has a piece in each row (visual line) that it reaches; places in pixels of the container.
function piecesOf(container, words, marks) {
  const origin = container.getBoundingClientRect();
  const first = words.getBoundingClientRect().top;
  const rowHeight = parseFloat(getComputedStyle(words).lineHeight);
  return marks.flatMap((mark) => {
    const rows = new Map();
    for (const rect of mark.range.getClientRects()) {
      if (!rect.width) continue;
      const row = Math.floor((rect.top + rect.height / 2 - first) / rowHeight);
      const piece = rows.get(row) ?? { mark, row, isFirst: rows.size === 0, left: Infinity, right: -Infinity };
      piece.left = Math.min(piece.left, rect.left - origin.left);
      piece.right = Math.max(piece.right, rect.right - origin.left);
      piece.top = rect.top - origin.top;
      piece.bottom = rect.bottom - origin.top;
      rows.set(row, piece);
    }
    return [...rows.values()];
  });
}

// Shortest entities first: each piece takes the highest lane where its line and its label are free, and which lies below
// those of the entities that it contains. Returns the number of lanes.
function assignLanes(pieces, width) {
  const length = ({ mark }) => mark.entity.end - mark.entity.start;
  const placed = [];
  for (const piece of [...pieces].sort((a, b) => length(a) - length(b))) {
    const [left, right] = extent(piece, width);
    const { start, end } = piece.mark.entity;
    const near = placed.filter((other) => other.row === piece.row);
    const inside = near.filter(({ mark }) => start <= mark.entity.start && mark.entity.end <= end);
    piece.lane = 1 + Math.max(-1, ...inside.map(({ lane }) => lane));
    while (near.some((other) => other.lane === piece.lane && left < other.to + GAP && other.from < right + GAP)) piece.lane += 1;
    placed.push(Object.assign(piece, { from: left, to: right }));
  }
  return 1 + Math.max(-1, ...placed.map(({ lane }) => lane));
}

// From where to where a piece's line and label reach; a label keeps clear of the right edge.
function extent(piece, width) {
  if (!piece.isFirst) return [piece.left, piece.right];
  const label = piece.mark.tag.offsetWidth;
  piece.labelLeft = Math.max(0, Math.min(piece.left, width - label - 4));
  return [Math.min(piece.left, piece.labelLeft), Math.max(piece.right, piece.labelLeft + label)];
}

// Draws a piece; returns how far down it reaches.
function place(container, piece, width) {
  const { mark } = piece;
  const y = piece.bottom + 2 + piece.lane * LANE;
  const wash = part(container, "wash", mark.index, mark.hue);
  const line = part(container, "line", mark.index, mark.hue);
  wash.style.height = `${piece.bottom - piece.top}px`;
  wash.style.transform = `translate(${piece.left}px, ${piece.top}px)`;
  line.style.transform = `translate(${piece.left}px, ${y}px)`;
  for (const drawn of [wash, line]) drawn.style.width = `${Math.min(piece.right, width) - piece.left}px`;
  if (!piece.isFirst) return y + 3;
  mark.tag.style.transform = `translate(${piece.labelLeft}px, ${y + 4}px)`;
  return y + LANE;
}
