"use strict";
// The circuit and what of it is shown: the first nodes in the circuit's order, the strongest edges among them, both only
// if they are stable enough, and of these only what has a path to the metric; groups contracted to one node each, whose edges are sums.
const data = JSON.parse(document.getElementById("data").textContent);
const nodeOf = new Map(data.nodes.map((node, index) => [node.name, index]));
const ranked = data.nodes.map((node, index) => index).filter((index) => data.nodes[index].order !== null);
ranked.sort((a, b) => data.nodes[a].order - data.nodes[b].order);
const METRIC = nodeOf.has("metric") ? nodeOf.get("metric") : null;

const state = {
  nodes: ranked.length, edges: data.edges.length, selected: null, chosen: new Set(), pins: [], groups: [], labels: {},
  example: null, stable: 0,
};
const hasStability = data.nodes.some((node) => node.stability !== null);
const stableEnough = (share) => share === null || share === undefined || 100 * share >= state.stable;

function labelOf(name) {
  const index = nodeOf.get(name);
  return state.labels[name] || (index === undefined ? name : data.nodes[index].label);
}

function effectOf(index) {
  const node = data.nodes[index];
  return state.example === null ? node.effect : data.examples.effects[state.example][node.order] ?? 0;
}

// The nodes and edges that the sliders leave, before groups.
function reachable() {
  const allowed = new Set(ranked.slice(0, state.nodes).filter((index) => stableEnough(data.nodes[index].stability)));
  data.nodes.forEach((node, index) => { if (node.order === null) allowed.add(index); });
  const edges = data.edges.slice(0, state.edges).filter(([source, target, , share]) => allowed.has(source) && allowed.has(target) && stableEnough(share));
  if (METRIC === null) return { nodes: [...allowed].filter((index) => data.nodes[index].order !== null), edges };
  const before = new Map();
  for (const edge of edges) (before.get(edge[1]) || before.set(edge[1], []).get(edge[1])).push(edge[0]);
  const found = new Set([METRIC]), todo = [METRIC];
  while (todo.length) for (const source of before.get(todo.pop()) || []) if (!found.has(source)) { found.add(source); todo.push(source); }
  return { nodes: [...found], edges: edges.filter(([source, target]) => found.has(source) && found.has(target)) };
}

// What is drawn: {nodes: [{id, name, label, x, y, effect, kind, members}], edges: [{source, target, weight}]} by id.
function contracted() {
  const kept = reachable(), home = new Map(), items = new Map();
  state.groups.forEach((group, number) => {
    if (group.collapsed) for (const name of group.nodes) if (nodeOf.has(name)) home.set(nodeOf.get(name), `group ${number}`);
  });
  for (const index of kept.nodes) {
    const id = home.get(index) ?? index, node = data.nodes[index];
    if (!items.has(id)) items.set(id, typeof id === "string"
      ? { id, group: Number(id.slice(6)), kind: "group", effect: 0, x: 0, y: 0, members: [] }
      : { id, name: node.name, kind: node.kind, effect: effectOf(index), se: node.se, x: node.x, y: node.y, members: [index] });
    if (typeof id === "string") items.get(id).members.push(index);
  }
  for (const item of items.values()) if (item.kind === "group") {
    item.name = state.groups[item.group].name;
    item.effect = item.members.reduce((sum, index) => sum + effectOf(index), 0);
    for (const axis of ["x", "y"]) item[axis] = d3.mean(item.members, (index) => data.nodes[index][axis]);
  }
  const sums = new Map();
  for (const [source, target, weight] of kept.edges) {
    const a = home.get(source) ?? source, b = home.get(target) ?? target;
    if (a === b) continue;
    const key = `${a}>${b}`, edge = sums.get(key) || { source: a, target: b, weight: 0 };
    edge.weight += weight;
    sums.set(key, edge);
  }
  return { nodes: [...items.values()], items, edges: [...sums.values()].sort((a, b) => Math.abs(a.weight) - Math.abs(b.weight)) };
}

function figure(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "-";
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size >= 1e5 || size < 1e-4 ? value.toExponential(2) : String(Number(value.toPrecision(4)));
}

function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(made.style, value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(Infinity)) if (child !== null && child !== undefined) made.append(child);
  return made;
}

const number = (value, attributes = {}) => el("span", { class: "number " + (value > 0 ? "plus" : value < 0 ? "minus" : ""), "data-value": String(value), ...attributes }, figure(value));
const byId = (id) => document.getElementById(id);
