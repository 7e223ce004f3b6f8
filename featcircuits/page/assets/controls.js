"use strict";
// Sliders, search, pins, groups, the saved state, tables and keys.
function select(item) {
  state.selected = item === null ? null : item.kind === "group" ? item.id : item.name;
  if (item !== null) { reveal(item); byId("live").textContent = `${item.kind === "group" ? item.name : labelOf(item.name)}, effect ${figure(item.effect)}`; }
  showPanel();
  soon();
  remember();
}

function relabel(name, text) {
  const own = data.nodes[nodeOf.get(name)].label;
  if (text.trim() && text !== own) state.labels[name] = text.trim(); else delete state.labels[name];
  showPins();
  showPanel();
  soon();
}

function pin(name) {
  state.pins = state.pins.includes(name) ? state.pins.filter((one) => one !== name) : [...state.pins, name];
  showPins();
  showPanel();
  soon();
}

function choose(name) {
  if (!state.chosen.delete(name)) state.chosen.add(name);
  showGroups();
  showPanel();
  soon();
}

function showPins() {
  byId("pins").replaceChildren(...state.pins.map((name) => el("li", {}, el("button", { type: "button", title: name, onclick: () => { const item = scene.view.nodes.find((one) => one.name === name); if (item) select(item); } }, labelOf(name)), el("button", { type: "button", "aria-label": `Unpin ${name}`, onclick: () => pin(name) }, "×"))));
}

function regroup(change) {
  change();
  if (typeof state.selected === "string" && state.selected.startsWith("group ")) state.selected = null;
  refresh();
  showGroups();
  showPanel();
  showCounts();
}

function showGroups() {
  byId("chosen").textContent = state.chosen.size ? `${state.chosen.size} chosen: ${[...state.chosen].slice(0, 6).join(", ")}${state.chosen.size > 6 ? ", …" : ""}` : "Shift-click nodes to choose them.";
  byId("groups").replaceChildren(...state.groups.map((group, turn) => el("li", {},
    el("input", { value: group.name, maxlength: "100", "aria-label": "Name of the group", onchange: (event) => regroup(() => { if (event.target.value.trim()) group.name = event.target.value.trim(); }) }),
    el("div", { class: "quiet" }, `${group.nodes.length} nodes`),
    el("div", { class: "row" }, el("button", { type: "button", class: "toggle", onclick: () => regroup(() => { group.collapsed = !group.collapsed; }) }, group.collapsed ? "Expand" : "Collapse"),
      el("button", { type: "button", onclick: () => regroup(() => { state.groups.splice(turn, 1); }) }, "Dissolve")))));
}

function makeGroup(name) {
  const wanted = [...state.chosen];
  if (!wanted.length || !name.trim()) return;
  regroup(() => {
    for (const group of state.groups) group.nodes = group.nodes.filter((node) => !state.chosen.has(node)); // groups do not overlap
    state.groups = state.groups.filter((group) => group.nodes.length);
    state.groups.push({ name: name.trim(), nodes: wanted, collapsed: true });
    state.chosen.clear();
  });
}

function showCounts() {
  const own = scene.view.nodes.flatMap((item) => item.members).filter((index) => data.nodes[index].order !== null).length;
  byId("nodes-out").textContent = `${state.nodes} of ${ranked.length}`;
  byId("edges-out").textContent = `${state.edges} of ${data.edges.length}`;
  byId("stable-out").textContent = state.stable ? `at least ${state.stable} %` : "any";
  const unstable = ranked.slice(0, state.nodes).filter((index) => !stableEnough(data.nodes[index].stability)).length;
  const dropped = state.nodes - own - unstable;
  const text = `${own} nodes and ${scene.view.edges.length} edges shown${dropped > 0 ? `; ${dropped} left out, without a path to the metric` : ""}${unstable ? `; ${unstable} are chosen from fewer resamples` : ""}`;
  byId("shown").textContent = text;
  showCurve();
}

// The report's own points; the mark stands on the last one whose size the nodes shown reach.
function showCurve() {
  const curve = data.report && data.report.curve, box = byId("curve-box");
  box.hidden = !curve;
  if (!curve) return;
  const sizes = [0, ...curve.sizes], values = [0, ...curve.faithfulness], random = [0, ...(curve.random || [])];
  const x = d3.scaleSqrt([0, sizes.at(-1)], [26, 200]), y = d3.scaleLinear([Math.min(0, d3.min(values)), Math.max(1, d3.max(values))], [94, 8]);
  const line = (rows) => d3.line((row) => x(row[0]), (row) => y(row[1]))(rows.filter((row) => row[1] !== null && row[1] !== undefined));
  const svg = d3.select(byId("curve")).attr("viewBox", "0 0 208 110");
  svg.selectAll("*").remove();
  svg.append("line").attr("class", "one").attr("x1", 26).attr("x2", 200).attr("y1", y(1)).attr("y2", y(1));
  svg.append("path").attr("class", "random").attr("d", line(d3.zip(sizes, random)));
  svg.append("path").attr("class", "curve").attr("d", line(d3.zip(sizes, values)));
  for (const tick of [0, 1]) svg.append("text").attr("x", 20).attr("y", y(tick) + 3).attr("text-anchor", "end").text(tick);
  for (const size of [0, sizes.at(-1)]) svg.append("text").attr("x", x(size)).attr("y", 107).attr("text-anchor", size ? "end" : "start").text(size);
  const reached = state.nodes ? data.nodes[ranked[state.nodes - 1]].rank ?? state.nodes : 0;
  const turn = d3.bisectRight(sizes, reached) - 1;
  svg.append("circle").attr("r", 4.5).attr("cx", x(sizes[turn])).attr("cy", y(values[turn]));
  byId("curve-text").replaceChildren("faithfulness ", el("b", { id: "curve-value", "data-value": String(values[turn]), "data-size": String(sizes[turn]) }, figure(values[turn])), ` with the first ${sizes[turn]} of all nodes`);
}

function changed() {
  refresh();
  showCounts();
  showPanel();
  remember();
}

function found(text) {
  const wanted = text.trim().toLowerCase();
  if (!wanted) return [];
  const tokens = (node) => { const own = data.dossiers[`${node.site}/${node.feature}`]; return own ? own.top_tokens.concat(own.promoted).map((row) => row.token).join(" ") : ""; };
  const texts = (node) => [node.name, labelOf(node.name), node.words, tokens(node)].map((one) => one.toLowerCase());
  return data.nodes.map((node) => [texts(node).findIndex((one) => one.includes(wanted)), node]).filter(([where]) => where >= 0).sort((a, b) => a[0] - b[0] || (a[1].order ?? 1e9) - (b[1].order ?? 1e9)).slice(0, 40).map(([, node]) => node);
}

function goTo(name) {
  byId("results").replaceChildren();
  const index = nodeOf.get(name), node = data.nodes[index];
  if (node.order !== null && node.order >= state.nodes) { state.nodes = node.order + 1; byId("nodes").value = state.nodes; }
  for (const group of state.groups) if (group.collapsed && group.nodes.includes(name)) group.collapsed = false;
  changed();
  showGroups();
  const item = scene.view.nodes.find((one) => one.name === name);
  if (item) select(item);
}

function search(text) {
  byId("results").replaceChildren(...found(text).map((node) => el("li", {}, el("button", { type: "button", "data-name": node.name, onclick: () => goTo(node.name) }, el("b", {}, node.name), ` ${labelOf(node.name) === node.name ? "" : labelOf(node.name)}`))));
}

function saved() {
  const { x, y, k } = scene.at;
  return { format: "featcircuits-view", version: 1, circuit: data.circuit, groups: state.groups.map(({ name, nodes, collapsed }) => ({ name, nodes, collapsed })), labels: state.labels, pins: state.pins, nodes: state.nodes, edges: state.edges, stable: state.stable, selected: state.selected, view: { x, y, k } };
}

function restore(from) {
  state.groups = (from.groups || []).map((group) => ({ name: group.name, nodes: group.nodes.filter((name) => nodeOf.has(name)), collapsed: Boolean(group.collapsed) })).filter((group) => group.nodes.length);
  state.labels = { ...(from.labels || {}) };
  state.pins = (from.pins || []).filter((name) => nodeOf.has(name));
  if (Number.isInteger(from.nodes)) state.nodes = Math.min(ranked.length, Math.max(1, from.nodes));
  if (Number.isInteger(from.edges)) state.edges = Math.min(data.edges.length, Math.max(0, from.edges));
  if (Number.isInteger(from.stable)) state.stable = Math.min(100, Math.max(0, from.stable));
  state.selected = from.selected ?? null;
}

function save() {
  const link = el("a", { href: URL.createObjectURL(new Blob([JSON.stringify(saved(), null, 1)], { type: "application/json" })), download: "view.json" });
  document.body.append(link);
  link.click();
  link.remove();
}

let quiet = true; // while the page starts, the address stays as it is
function remember() {
  if (quiet || location.protocol === "about:") return; // a frame in a notebook has no address of its own
  const { x, y, k } = scene.at, parts = new URLSearchParams({ nodes: state.nodes, edges: state.edges, view: [x, y, k].map((one) => one.toPrecision(5)).join(",") });
  if (state.stable) parts.set("stable", state.stable);
  if (state.selected !== null && nodeOf.has(state.selected)) parts.set("at", state.selected);
  history.replaceState(null, "", `#${parts}`);
}

function fromAddress() {
  const parts = new URLSearchParams(location.hash.slice(1)), whole = (name, most, least) => { const value = Number(parts.get(name)); return parts.has(name) && Number.isInteger(value) ? Math.min(most, Math.max(least, value)) : null; };
  state.nodes = whole("nodes", ranked.length, 1) ?? state.nodes;
  state.edges = whole("edges", data.edges.length, 0) ?? state.edges;
  state.stable = whole("stable", 100, 0) ?? state.stable;
  if (nodeOf.has(parts.get("at"))) state.selected = parts.get("at");
  const view = (parts.get("view") || "").split(",").map(Number);
  return view.length === 3 && view.every(Number.isFinite) && view[2] > 0 ? { x: view[0], y: view[1], k: view[2] } : null;
}

function step(dx, dy) {
  const from = currentItem(), items = scene.view.nodes;
  if (!items.length) return;
  if (from === null) return select(d3.greatest(items, (item) => Math.abs(item.effect)));
  const cost = (item) => { const ahead = (item.x - from.x) * dx + (-item.y + from.y) * dy, aside = Math.abs((item.x - from.x) * dy) + Math.abs((item.y - from.y) * dx); return ahead > 1 ? ahead + 2.5 * aside : Infinity; };
  const next = d3.least(items, cost);
  if (next && cost(next) < Infinity) select(next);
}

const KEYS = {
  ArrowLeft: () => step(-1, 0), ArrowRight: () => step(1, 0), ArrowUp: () => step(0, -1), ArrowDown: () => step(0, 1),
  Enter: () => byId("panel").focus(), Escape: () => select(null), f: fit, p: () => { const item = currentItem(); if (item && item.kind !== "group") pin(item.name); },
  g: () => { const item = currentItem(); if (item && item.kind !== "group") choose(item.name); },
  "+": () => d3.select(canvas).call(zoom.scaleBy, 1.3), "=": () => d3.select(canvas).call(zoom.scaleBy, 1.3), "-": () => d3.select(canvas).call(zoom.scaleBy, 1 / 1.3),
  "/": () => byId("search").focus(),
};

function fillTables() {
  const head = (names) => el("thead", {}, el("tr", {}, names.map((name) => el("th", { scope: "col" }, name))));
  const cell = (value) => el("td", typeof value === "number" ? { "data-value": String(value) } : {}, typeof value === "number" ? figure(value) : value ?? "");
  const rows = (list) => el("tbody", {}, list.map((values) => el("tr", {}, values.map(cell))));
  const stable = (share) => hasStability ? [share] : [], column = hasStability ? ["stability"] : [];
  byId("node-table").replaceChildren(head(["order", "node", "label", "words", "effect", "standard error", "influence", ...column]), rows(ranked.map((index) => { const node = data.nodes[index]; return [String(node.order + 1), node.name, labelOf(node.name), node.words, node.effect, node.se, node.influence, ...stable(node.stability)]; })));
  byId("edge-table").replaceChildren(head(["from", "to", "weight", ...column]), rows(data.edges.map(([source, target, weight, share]) => [data.nodes[source].name, data.nodes[target].name, weight, ...stable(share)])));
}

function showLegend() {
  const mark = (inner) => { const box = document.createElementNS("http://www.w3.org/2000/svg", "svg"); box.setAttribute("width", 20); box.setAttribute("height", 16); const shape = document.createElementNS("http://www.w3.org/2000/svg", "circle"); for (const [name, value] of Object.entries({ cx: 10, cy: 8, r: 6, ...inner })) shape.setAttribute(name, value); box.append(shape); return box; };
  byId("legend").replaceChildren(el("h2", {}, "Legend"),
    el("p", {}, mark({ fill: "var(--plus)" }), "carries the behaviour"), el("p", {}, mark({ fill: "var(--minus)" }), "works against it"),
    el("p", {}, mark({ fill: "none", stroke: "var(--plus)", "stroke-width": 2 }), "error node"), el("p", {}, mark({ fill: "var(--none)", stroke: "var(--ink)", "stroke-dasharray": "3 2" }), "sign is uncertain (95 %)"),
    el("p", {}, "Areas of nodes and widths of edges grow with |effect|."));
}
