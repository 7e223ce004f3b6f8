"use strict";
// Everything is connected and shown for the first time.
function start() {
  byId("title").textContent = data.title;
  byId("summary").textContent = data.summary;
  byId("provenance").textContent = data.provenance;
  const sliders = { nodes: [1, ranked.length], edges: [0, data.edges.length], stable: [0, 100] };
  byId("stable-box").hidden = !hasStability;
  if (data.state) restore(data.state); else if (data.groups) state.groups = data.groups.map((group) => ({ collapsed: false, ...group }));
  const view = fromAddress() || (data.state && data.state.view) || null;
  for (const [name, [least, most]] of Object.entries(sliders)) {
    const slider = byId(name);
    Object.assign(slider, { min: least, max: most, value: state[name] });
    slider.addEventListener("input", () => { state[name] = Number(slider.value); changed(); });
  }
  if (data.examples) {
    byId("examples-box").hidden = false;
    byId("examples").append(el("option", { value: "" }, "all examples, the mean"), ...data.examples.names.map((name, turn) => el("option", { value: turn }, name)));
    byId("examples").addEventListener("change", (event) => { state.example = event.target.value === "" ? null : Number(event.target.value); changed(); });
  }
  byId("fit").addEventListener("click", fit);
  byId("save").addEventListener("click", save);
  byId("print").addEventListener("click", () => window.print());
  byId("theme").addEventListener("click", () => {
    const dark = document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    document.documentElement.dataset.theme = dark ? "light" : "dark";
    soon();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", soon);
  byId("search").addEventListener("input", (event) => search(event.target.value));
  byId("search").addEventListener("keydown", (event) => {
    if (event.key === "Enter") { const [first] = found(event.target.value); if (first) goTo(first.name); }
    if (event.key === "Escape") { event.target.value = ""; search(""); canvas.focus(); }
  });
  byId("group-form").addEventListener("submit", (event) => { event.preventDefault(); makeGroup(byId("group-name").value || `group ${state.groups.length + 1}`); byId("group-name").value = ""; });
  canvas.addEventListener("keydown", (event) => { if (!event.ctrlKey && !event.metaKey && KEYS[event.key]) { event.preventDefault(); KEYS[event.key](); } });
  canvas.addEventListener("click", (event) => {
    const item = itemAt(event.offsetX, event.offsetY);
    if (event.shiftKey && item && item.kind !== "group" && data.nodes[item.id].order !== null) choose(item.name); else select(item);
  });
  canvas.addEventListener("mousemove", (event) => {
    const item = event.buttons ? null : itemAt(event.offsetX, event.offsetY), tip = byId("tip");
    tip.hidden = item === null;
    canvas.style.cursor = item ? "pointer" : "grab";
    if (!item) return;
    tip.textContent = `${item.kind === "group" || labelOf(item.name) === item.name ? item.name : `${item.name}: ${labelOf(item.name)}`}, effect ${figure(item.effect)}`;
    Object.assign(tip.style, { left: `${Math.max(0, Math.min(event.offsetX + 14, scene.width - tip.offsetWidth - 4))}px`, top: `${event.offsetY + 16}px` });
  });
  canvas.addEventListener("mouseleave", () => { byId("tip").hidden = true; });
  byId("tables").addEventListener("toggle", fillTables, { once: true });
  new ResizeObserver(() => { const first = !scene.width; resized(); if (first) fit(); else soon(); }).observe(canvas.parentElement);
  for (const when of ["beforeprint", "afterprint"]) window.addEventListener(when, () => { resized(); fit(); draw(); });
  d3.select(canvas).call(zoom).on("dblclick.zoom", null);
  resized();
  refresh();
  if (view) d3.select(canvas).call(zoom.transform, d3.zoomIdentity.translate(view.x, view.y).scale(view.k)); else fit();
  showLegend();
  showPins();
  showGroups();
  showCounts();
  showPanel();
  draw();
  quiet = false;
}
start();
