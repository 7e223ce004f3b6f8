"use strict";
// The picture: a canvas with zoom and pan. Positions come from the file and are those of every other export.
const canvas = byId("graph"), brush = canvas.getContext("2d");
const scene = { view: contracted(), at: d3.zoomIdentity, moving: false, tree: null, heaviest: 1, strongest: 1 };
const FEW = 5000; // edges that are drawn while the picture moves
const bands = data.bands, places = data.places;

function colours() {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries(["ground", "ink", "quiet", "line", "plus", "minus", "none", "mark", "panel"].map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}
const toned = (value, palette) => (value > 0 ? palette.plus : value < 0 ? palette.minus : palette.none);
const radius = (item) => item.kind === "metric" ? 13 : item.kind === "input" ? 6 : 3.5 + 16 * Math.sqrt(Math.abs(item.effect) / scene.strongest);
const screen = (item) => scene.at.apply([item.x, -item.y]);
const shrunk = () => Math.min(1.6, Math.max(0.42, scene.at.k * 1.5));

function refresh() {
  scene.view = contracted();
  scene.heaviest = d3.max(scene.view.edges, (edge) => Math.abs(edge.weight)) || 1;
  scene.strongest = d3.max(scene.view.nodes, (item) => Math.abs(item.effect)) || 1;
  scene.tree = d3.quadtree(scene.view.nodes, (item) => item.x, (item) => -item.y);
  scene.buckets = bucketed(scene.view.edges, scene.view.items);
  scene.order = d3.sort(scene.view.nodes, (one) => -Math.abs(one.effect));
  draw();
}

// Edges of like width and sign are one path: thousands of strokes become a few.
function bucketed(edges, items, levels = 7) {
  const found = new Map();
  edges.forEach((edge, rank) => {
    const level = Math.min(levels - 1, Math.floor(levels * Math.sqrt(Math.abs(edge.weight) / scene.heaviest)));
    const key = `${level}${edge.weight >= 0 ? "+" : "-"}`;
    if (!found.has(key)) found.set(key, { level, sign: edge.weight >= 0 ? 1 : -1, edges: [] });
    found.get(key).edges.push({ ...edge, from: items.get(edge.source), to: items.get(edge.target), left: edges.length - rank });
  });
  return [...found.values()].sort((a, b) => a.level - b.level);
}

function strokeEdges(palette, around) {
  const k = scene.at.k, quick = scene.moving && scene.view.edges.length > FEW, { width, height } = scene;
  brush.lineCap = "round";
  for (const bucket of scene.buckets) {
    brush.beginPath();
    let some = false;
    for (const edge of bucket.edges) {
      if ((quick && edge.left > FEW) || (around !== null && edge.source !== around && edge.target !== around)) continue;
      const { sx: x0, sy: y0 } = edge.from, { sx: x1, sy: y1 } = edge.to;
      if ((x0 < 0 && x1 < 0) || (y0 < 0 && y1 < 0) || (x0 > width && x1 > width) || (y0 > height && y1 > height)) continue;
      brush.moveTo(x0, y0);
      brush.lineTo(x1, y1);
      some = true;
    }
    if (!some) continue;
    brush.strokeStyle = toned(bucket.sign, palette);
    brush.globalAlpha = around !== null ? 0.9 : scene.faded ? 0.07 : 0.16 + 0.1 * bucket.level;
    brush.lineWidth = (0.5 + 0.8 * bucket.level) * Math.min(1.4, Math.max(0.5, Math.sqrt(k) * 1.6));
    brush.stroke();
  }
  brush.globalAlpha = 1;
}

function drawNode(item, palette) {
  const { sx: x, sy: y } = item, r = radius(item) * shrunk();
  if (x < -30 || y < -30 || x > scene.width + 30 || y > scene.height + 30) return;
  const tone = toned(item.effect, palette), sure = !(item.se > 0) || Math.abs(item.effect) > 1.96 * item.se;
  brush.beginPath();
  if (item.kind === "input" || item.kind === "metric") brush.rect(x - r, y - r * 0.62, 2 * r, 1.24 * r);
  else if (item.kind === "group") { const s = r * 1.15; brush.roundRect(x - s, y - s, 2 * s, 2 * s, s * 0.35); }
  else brush.arc(x, y, r, 0, 2 * Math.PI);
  brush.fillStyle = item.kind === "error" ? palette.ground : item.kind === "input" || item.kind === "metric" ? palette.quiet : tone;
  brush.fill();
  if (!sure) brush.setLineDash([3, 2.5]);
  brush.lineWidth = item.kind === "error" ? 2 : 1;
  brush.strokeStyle = item.kind === "error" ? tone : sure ? palette.ground : palette.ink;
  brush.stroke();
  if (!sure) brush.setLineDash([]);
  if (state.selected === null && !state.chosen.size && !state.pins.length) return;
  const names = item.members.map((index) => data.nodes[index].name);
  const rings = [state.selected !== null && (item.name === state.selected || item.id === state.selected) && palette.ink,
    names.some((name) => state.chosen.has(name)) && palette.mark, item.kind !== "group" && state.pins.includes(item.name) && palette.quiet].filter(Boolean);
  rings.forEach((tint, turn) => {
    brush.beginPath();
    brush.arc(x, y, r + 3 + 3 * turn, 0, 2 * Math.PI);
    brush.lineWidth = 2;
    brush.strokeStyle = tint;
    brush.stroke();
  });
}

const shortened = (text, most = 30) => (text.length > most ? text.slice(0, most - 1) + "…" : text);

// A second line below the label of a node that was changed: what was predicted, and what came of it.
function outcomeLine(item) {
  const rows = data.outcome && item.kind !== "group" ? data.outcome.changed[item.name] : undefined;
  return rows ? `predicted ${figure(rows[0].predicted.mean)}, measured ${figure(rows[0].measured.mean)}` : "";
}

// Labels where there is room, the strongest node first; more of them the closer one looks.
function drawLabels(palette) {
  const taken = [], free = (box) => taken.every((other) => box[2] < other[0] || box[0] > other[2] || box[3] < other[1] || box[1] > other[3]);
  const first = (item) => item.name === state.selected || item.id === state.selected ? Infinity : item.kind === "group" ? 1e9 : item.kind === "metric" ? 1e8 : state.pins.includes(item.name) || outcomeLine(item) ? 1e7 : Math.abs(item.effect);
  const order = d3.sort(scene.view.nodes.filter((item) => item.kind !== "input" || scene.at.k > 0.35), (item) => -first(item));
  brush.font = "11px system-ui, 'DejaVu Sans', sans-serif";
  brush.textAlign = "center";
  brush.textBaseline = "top";
  const scale = shrunk(), most = scene.moving ? 60 : 400;
  const nodes = scene.order.slice(0, 400).map((item) => { const { sx: x, sy: y } = item, r = radius(item) * scale; return [x - r, y - r, x + r, y + r, item, r]; }).filter((box) => box[5] > 3.4);
  const clear = (box, own) => nodes.every((other) => other[4] === own || box[2] < other[0] || box[0] > other[2] || box[3] < other[1] || box[1] > other[3]);
  let tried = 0;
  for (const item of order) {
    const { sx: x, sy: y } = item;
    if (x < 60 || y < 0 || x > scene.width || y > scene.height - 34) continue;
    if (++tried > most || taken.length > 120) break;
    const text = shortened(item.kind === "group" ? `${item.name} (${item.members.length})` : labelOf(item.name));
    const lines = [text, outcomeLine(item)].filter(Boolean);
    const r = radius(item) * scale, width = d3.max(lines, (line) => brush.measureText(line).width) / 2 + 3;
    const box = [x - width, y + r + 1, x + width, y + r + 2 + 13 * lines.length];
    if (!free(box) || !(first(item) > 1e6 || clear(box, item))) continue;
    taken.push(box);
    brush.lineWidth = 3;
    brush.strokeStyle = palette.ground;
    lines.forEach((line, turn) => {
      brush.strokeText(line, x, y + r + 2 + 13 * turn);
      brush.fillStyle = turn ? palette.quiet : palette.ink;
      brush.fillText(line, x, y + r + 2 + 13 * turn);
    });
  }
}

function drawAxes(palette) {
  brush.font = "11px system-ui, 'DejaVu Sans', sans-serif";
  brush.fillStyle = palette.ground;
  brush.globalAlpha = 0.86;
  brush.fillRect(0, scene.height - 32, scene.width, 32);
  brush.fillRect(0, 0, 54, scene.height);
  brush.globalAlpha = 1;
  brush.fillStyle = palette.quiet;
  brush.textAlign = "left";
  brush.textBaseline = "middle";
  let last = Infinity;
  for (const band of bands) {
    const y = scene.at.applyY(-band.y);
    if (y < 6 || y > scene.height - 34 || last - y < 12) continue;
    brush.fillText(band.site, 5, y);
    last = y;
  }
  brush.textAlign = "center";
  let right = 50;
  for (const place of places) {
    const x = scene.at.applyX(place.x), room = brush.measureText(shortened(place.words || "", 16)).width;
    if (x < 50 || x > scene.width || x - room / 2 < right) continue;
    brush.fillStyle = palette.ink;
    brush.fillText(shortened(place.words || "", 16), x, scene.height - 22);
    brush.fillStyle = palette.quiet;
    brush.fillText(place.name, x, scene.height - 9);
    right = x + room / 2 + 6;
  }
}

// A picture that takes longer than a frame is, while it moves, shown as the last one moved along, and made anew a few
// times a second.
const last = { picture: document.createElement("canvas"), at: d3.zoomIdentity, cost: 0, time: 0 };

function sketch() {
  const k = scene.at.k / last.at.k, ratio = window.devicePixelRatio || 1;
  brush.setTransform(ratio, 0, 0, ratio, 0, 0);
  brush.clearRect(0, 0, scene.width, scene.height);
  brush.drawImage(last.picture, scene.at.x - k * last.at.x, scene.at.y - k * last.at.y, k * scene.width, k * scene.height);
  drawAxes(colours());
}

function draw() {
  const began = performance.now();
  if (scene.moving && last.cost > 14 && began - last.time < Math.max(250, 6 * last.cost)) return sketch();
  drawWhole();
  last.picture.width = canvas.width;
  last.picture.height = canvas.height;
  last.picture.getContext("2d").drawImage(canvas, 0, 0);
  last.at = scene.at;
  last.time = performance.now();
  last.cost = last.time - began;
}

function drawWhole() {
  const palette = colours(), ratio = window.devicePixelRatio || 1, selected = currentItem();
  brush.setTransform(ratio, 0, 0, ratio, 0, 0);
  brush.clearRect(0, 0, scene.width, scene.height);
  for (const item of scene.view.nodes) [item.sx, item.sy] = screen(item);
  scene.faded = selected !== null && scene.view.edges.some((edge) => edge.source === selected.id || edge.target === selected.id);
  strokeEdges(palette, null);
  if (scene.faded) strokeEdges(palette, selected.id);
  for (const item of scene.order) drawNode(item, palette);
  drawAxes(palette);
  drawLabels(palette);
}

function currentItem() {
  return state.selected === null ? null : scene.view.nodes.find((item) => item.id === state.selected || item.name === state.selected) ?? null;
}

let waiting = false;
function soon() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; draw(); });
}

let settling;
const zoom = d3.zoom().scaleExtent([0.02, 8]).on("zoom", (event) => {
  scene.at = event.transform;
  scene.moving = true;
  clearTimeout(settling);
  settling = setTimeout(() => { scene.moving = false; soon(); remember(); }, 160);
  soon();
});

function resized() {
  const box = canvas.parentElement.getBoundingClientRect(), ratio = window.devicePixelRatio || 1;
  scene.width = box.width;
  scene.height = box.height;
  canvas.width = Math.round(box.width * ratio);
  canvas.height = Math.round(box.height * ratio);
}

function fit() {
  const [x0, x1] = d3.extent(data.nodes, (node) => node.x), [y0, y1] = d3.extent(data.nodes, (node) => -node.y);
  const k = Math.min(2, (scene.width - 110) / Math.max(60, x1 - x0), (scene.height - 90) / Math.max(60, y1 - y0));
  const at = d3.zoomIdentity.translate(54 + (scene.width - 54) / 2 - (k * (x0 + x1)) / 2, 18 + (scene.height - 60) / 2 - (k * (y0 + y1)) / 2).scale(k);
  d3.select(canvas).call(zoom.transform, at);
}

// Brings a node into sight without changing the scale.
function reveal(item) {
  const [x, y] = screen(item);
  if (x < 70 || y < 20 || x > scene.width - 20 || y > scene.height - 50) d3.select(canvas).call(zoom.translateTo, item.x, -item.y);
}

function itemAt(x, y) {
  const [gx, gy] = scene.at.invert([x, y]);
  const found = scene.tree.find(gx, gy, 26 / scene.at.k);
  return found || null;
}
