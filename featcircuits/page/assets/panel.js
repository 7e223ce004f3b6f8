"use strict";
// The side panel: what a node is, and its edges. All text from files becomes text nodes, never markup.
function pairs(rows) {
  return el("dl", {}, rows.filter(([, value]) => value !== null && value !== undefined && value !== "").map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}

function effectText(effect, se) {
  if (se === null || se === undefined) return number(effect);
  return el("span", {}, number(effect), el("span", { class: "quiet" }, "  95 % interval "), number(effect - 1.96 * se, { class: "number" }), " to ", number(effect + 1.96 * se, { class: "number" }));
}

function edgeList(item, direction) {
  const other = direction === "in" ? "source" : "target", own = direction === "in" ? "target" : "source";
  const edges = scene.view.edges.filter((edge) => edge[own] === item.id).sort((a, b) => Math.abs(b.weight) - Math.abs(a.weight));
  const total = d3.sum(edges, (edge) => Math.abs(edge.weight)) || 1;
  const part = (sign) => edges.filter((edge) => sign * edge.weight > 0).map((edge) => {
    const end = scene.view.items.get(edge[other]), text = end.kind === "group" ? end.name : labelOf(end.name);
    return el("li", { "data-edge": `${item.name}|${end.name}` }, el("button", { type: "button", title: end.name, onclick: () => select(end) }, text), number(edge.weight), el("span", { class: "quiet number" }, `${Math.round((100 * Math.abs(edge.weight)) / total)} %`));
  });
  const [plus, minus] = [part(1), part(-1)], title = direction === "in" ? "Edges in" : "Edges out";
  return el("section", { class: `edges-${direction}` }, el("h2", {}, `${title} (${edges.length})`),
    plus.length ? [el("h3", {}, "positive"), el("ul", { class: "list" }, plus)] : null,
    minus.length ? [el("h3", {}, "negative"), el("ul", { class: "list" }, minus)] : null,
    edges.length ? null : el("p", { class: "quiet" }, "none shown"));
}

function contextOf(row, largest) {
  const tokens = row.tokens.map((token, index) => {
    const size = row.activations[index], share = size === null ? 0 : Math.min(1, Math.abs(size) / (largest || 1));
    const tone = size < 0 ? "--minus" : "--plus";
    return el("span", { class: index === row.at ? "token best" : "token", title: size === null ? "a sink" : figure(size), style: { background: share ? `color-mix(in srgb, var(${tone}) ${Math.round(55 * share)}%, transparent)` : "" } }, token);
  });
  return el("div", { class: "context" }, el("span", { class: "size", "data-value": String(row.activation) }, figure(row.activation)), tokens);
}

function tokenList(rows, value) {
  return el("ul", { class: "list" }, rows.map((row) => el("li", {}, el("span", { class: "token" }, row.token), number(row[value]))));
}

function histogramOf(rows) {
  const most = d3.max(rows, (row) => row.count) || 1;
  return el("div", { class: "bars", role: "img", "aria-label": "Histogram of activations, quarter octaves" }, rows.map((row) => el("i", { title: `from ${figure(row.from)}: ${row.count}`, style: { height: `${(100 * row.count) / most}%` } })));
}

function dossierOf(node) {
  const found = data.dossiers[node.feature === null || node.feature === undefined || node.feature < 0 ? "" : `${node.site}/${node.feature}`];
  if (!found) return node.kind === "feature" ? el("p", { class: "quiet" }, "No dossier of this feature is in the page; `featcircuits features RUN` makes one.") : null;
  const here = (rows) => rows.map((row) => el("li", {}, el("span", {}, `${row.site}/${row.feature}`), number(row.cosine ?? row.phi)));
  const task = found.task.filter((row) => node.place === "" || row.place === node.place);
  return el("section", { class: "dossier" },
    el("h2", {}, "What it is active on"),
    pairs([["active on", `${figure(100 * found.density)} % of ${found.n_tokens} tokens`], ["mean, largest", `${figure(found.mean)}, ${figure(found.max)}`]]),
    found.histogram.length ? histogramOf(found.histogram) : null,
    found.contexts.length ? [el("h3", {}, "Strongest contexts"), found.contexts.map((row) => contextOf(row, found.max))] : null,
    found.samples.length ? [el("h3", {}, "Contexts at random"), found.samples.map((row) => contextOf(row, found.max))] : null,
    found.top_tokens.length ? [el("h3", {}, "Share of its activation by token"), tokenList(found.top_tokens, "share")] : null,
    el("h2", {}, "What it writes"),
    el("div", { class: "two" }, el("div", {}, el("h3", {}, "Logits up"), tokenList(found.promoted, "logit")), el("div", {}, el("h3", {}, "Logits down"), tokenList(found.suppressed, "logit"))),
    task.length ? [el("h3", {}, "On the task: clean, corrupted"), el("ul", { class: "list" }, task.map((row) => el("li", {}, el("span", {}, row.place || "all places"), number(row.clean), number(row.corrupted))))] : null,
    found.neighbours.length ? [el("h3", {}, "Similar features here"), el("ul", { class: "list" }, here(found.neighbours))] : null,
    found.next_layer.length ? [el("h3", {}, "In the next layer"), el("ul", { class: "list" }, here(found.next_layer))] : null,
    found.coactive.length ? [el("h3", {}, "Active with it"), el("ul", { class: "list" }, here(found.coactive))] : null);
}

const interval = (one) => one.low === null ? "" : ` (${figure(one.low)} to ${figure(one.high)})`;

// What interventions did: the change of F that was predicted beside the measured one.
function outcomeTable(rows, title, id) {
  const cells = (row) => [el("td", {}, el("code", {}, row.what)), el("td", {}, number(row.predicted.mean)), el("td", {}, number(row.measured.mean), el("span", { class: "quiet" }, interval(row.measured))), el("td", {}, row.off ? el("b", { class: "off", title: "The prediction is outside the measured change's interval" }, "off") : "")];
  return [el("h2", {}, title), el("table", { id, class: "outcome" }, el("thead", {}, el("tr", {}, ["", "predicted", "measured", ""].map((name) => el("th", {}, name)))), el("tbody", {}, rows.map((row) => el("tr", {}, cells(row)))))];
}

function outcomeOf(node) {
  if (data.outcome === null) return null;
  const changed = data.outcome.changed[node.name], watched = data.outcome.watched[node.name];
  return el("section", {}, changed ? outcomeTable(changed, "Change of F when it is changed", "changed") : null,
    watched ? [el("h2", {}, "Change of its value downstream"), pairs([["predicted by edges", number(watched.predicted.mean)], ["measured, all else held", number(watched.direct.mean)], ["measured", number(watched.measured.mean)]])] : null);
}

function outcomeSummary() {
  const found = data.outcome;
  if (found === null) return null;
  return el("section", {}, outcomeTable(found.rows, "Interventions: change of F", "interventions"),
    pairs([["F before, after", `${figure(found.before.mean)}, ${figure(found.after.mean)}`], ["KL", `${figure(found.kl.mean)} nats`], ["held", found.held], ["on", `${found.task}, ${found.n_examples} examples`]]));
}

function emptyPanel() {
  const report = data.report;
  byId("panel").replaceChildren(...[el("h2", {}, "No node is selected"), el("p", {}, "Click a node, or move with the arrow keys. Shift-click chooses nodes for a group."),
    report ? el("section", {}, el("h2", {}, "The report"), pairs([
      ["faithfulness", report.faithfulness === null ? report.invalid : number(report.faithfulness, { id: "faithfulness" })],
      ["interval", report.interval ? `${figure(report.interval[0])} to ${figure(report.interval[1])}` : ""],
      ["completeness", report.completeness === null ? "" : number(report.completeness, { id: "completeness" })],
      ["ablation", report.ablation], ["examples", String(report.n_examples)]]), (report.notes || []).map((note) => el("p", { class: "quiet" }, note))) : el("p", { class: "quiet" }, "The run has no report; `featcircuits evaluate RUN` makes one."), outcomeSummary()].filter(Boolean));
}

function showPanel() {
  const item = currentItem();
  if (item === null) return emptyPanel();
  const panel = byId("panel");
  if (item.kind === "group") {
    panel.replaceChildren(el("h2", {}, item.name), pairs([["effect, summed", number(item.effect)], ["nodes", String(item.members.length)]]),
      el("ul", { class: "list" }, item.members.map((index) => el("li", {}, el("span", {}, labelOf(data.nodes[index].name)), number(effectOf(index))))),
      edgeList(item, "in"), edgeList(item, "out"));
    return;
  }
  const node = data.nodes[item.id], feature = node.kind === "feature" || node.kind === "error";
  const label = el("input", { id: "label", value: labelOf(node.name), maxlength: "100", onchange: (event) => relabel(node.name, event.target.value) });
  panel.replaceChildren(...[
    el("h2", { id: "panel-name", "data-name": node.name }, node.name),
    el("label", {}, el("span", { class: "quiet" }, "Label"), label),
    el("div", { class: "row" }, el("button", { type: "button", id: "pin", "aria-pressed": String(state.pins.includes(node.name)), onclick: () => pin(node.name) }, state.pins.includes(node.name) ? "Unpin" : "Pin"),
      el("button", { type: "button", id: "choose", onclick: () => choose(node.name) }, state.chosen.has(node.name) ? "Leave out of group" : "Choose for group"),
      feature ? el("button", { type: "button", id: "copy", title: "For featcircuits intervene RUN --do", onclick: (event) => copy(`${node.name}=0`, event.target) }, "Copy ablation") : null,
      node.kind === "feature" && node.place !== "" ? el("button", { type: "button", id: "why", title: "Why does it fire? For featcircuits trace", onclick: (event) => copy(`--target ${node.name}`, event.target) }, "Copy target") : null),
    pairs([["effect", node.kind === "feature" || node.kind === "error" ? effectText(effectOf(item.id), state.example === null ? node.se : null) : ""],
      ["influence", node.influence === null || !feature ? "" : figure(node.influence)], ["stability", node.stability === null ? "" : `kept from ${figure(100 * node.stability)} % of resampled prompts`],
      ["order", node.order === null ? "" : `${node.order + 1} of ${ranked.length}`], ["site", node.site], ["place", node.place], ["words there", node.words]]),
    outcomeOf(node),
    dossierOf(node), edgeList(item, "in"), edgeList(item, "out")].filter(Boolean));
}

async function copy(text, button) {
  try { await navigator.clipboard.writeText(text); button.textContent = "Copied"; }
  catch { button.replaceWith(el("input", { value: text, readonly: true, "aria-label": "Text of the intervention" })); }
}
