"use strict";
// Draws /stats once a second. A server with an API key is opened as /#key=KEY: the part after # is never sent.

const INTERVAL_MS = 1000;
const MIB = 1 << 20;
const LEFT = 64, RIGHT = 8, TOP = 8, BOTTOM = 20;
const HBM_USES = [
  ["adapter_blocks", "adapters", "--adapter"],
  ["running_blocks", "running KV", "--running"],
  ["history_blocks", "history KV", "--history"],
  ["in_flight_blocks", "in flight", "--in-flight"],
];
const REQUESTS = [["running", "running", "--running"], ["waiting", "waiting or loading", "--queue"]];
const PARTS = [
  ["queue", "queue", "--queue"],
  ["adapter_load", "adapter load", "--load"],
  ["kv_load", "KV load", "--kv"],
  ["prefill", "prefill", "--prefill"],
];
const TIERS = ["hbm", "loading", "host", "disk"];

const byId = (id) => document.getElementById(id);

function svg(name, attributes = {}, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

function html(name, className = "", text = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}

function drawLegend(id, rows) {
  byId(id).replaceChildren(...rows.map(([, label, colour]) => {
    const item = html("li");
    const swatch = html("i");
    swatch.style.background = `var(${colour})`;
    item.append(swatch, label);
    return item;
  }));
}

// Columns over time: stacked areas, or lines when stacked is false. The axis ends at most. As wide as there is room, so
// that letters have their size on every screen.
function drawOverTime(id, height, times, rows, most, format, stacked) {
  const width = Math.max(byId(id).clientWidth, 240);
  byId(id).setAttribute("viewBox", `0 0 ${width} ${height}`);
  const x = (i) => LEFT + (width - LEFT - RIGHT) * (times.length < 2 ? 1 : i / (times.length - 1));
  const y = (value) => TOP + (height - TOP - BOTTOM) * (1 - Math.min(value / most, 1));
  const shapes = [];
  for (const share of [0, 0.5, 1]) {
    const level = y(share * most);
    shapes.push(svg("line", {class: "axis", x1: LEFT, x2: width - RIGHT, y1: level, y2: level}));
    shapes.push(svg("text", {x: LEFT - 6, y: level + 4, "text-anchor": "end"}, format(share * most)));
  }
  const below = times.map(() => 0);
  for (const [values, colour] of rows) {
    const points = values.map((value, i) => [x(i), y(stacked ? below[i] + value : value)]);
    const line = points.map(([a, b]) => `${a.toFixed(1)},${b.toFixed(1)}`);
    if (stacked) {
      const base = below.map((value, i) => `${x(i).toFixed(1)},${y(value).toFixed(1)}`).reverse();
      shapes.push(svg("polygon", {points: [...line, ...base].join(" "), style: `fill: var(${colour})`}));
      values.forEach((value, i) => { below[i] += value; });
    } else {
      shapes.push(svg("polyline", {points: line.join(" "), style: `fill: none; stroke: var(${colour}); stroke-width: 2`}));
    }
  }
  const span = times[times.length - 1] - times[0];
  shapes.push(svg("text", {x: LEFT, y: height - 5}, `${span.toFixed(0)} s ago`));
  shapes.push(svg("text", {x: width - RIGHT, y: height - 5, "text-anchor": "end"}, "now"));
  byId(id).replaceChildren(...shapes);
}

function drawTtft(tiers) {
  if (tiers.length === 0) {
    byId("ttft").replaceChildren(html("p", "empty", "no request has got its first token yet"));
    return;
  }
  const total = (row) => PARTS.reduce((sum, [name]) => sum + row.parts[name], 0);
  const most = Math.max(...tiers.map(total), 1e-9);
  byId("ttft").replaceChildren(...tiers.map((row) => {
    const bar = html("div", "bar");
    const track = html("div", "track");
    for (const [name, , colour] of PARTS) {
      const part = html("div");
      part.style.width = `${100 * row.parts[name] / most}%`;
      part.style.background = `var(${colour})`;
      part.title = `${name} ${(1000 * row.parts[name]).toFixed(1)} ms`;
      track.append(part);
    }
    bar.append(html("span", "", `${row.tier} (${row.requests})`), track, html("span", "number", `${(1000 * total(row)).toFixed(0)} ms`));
    return bar;
  }));
}

function drawAdapters(adapters, running) {
  const names = Object.keys(adapters);
  if (names.length === 0) {
    byId("adapters").replaceChildren(html("p", "empty", "none are loaded"));
    return;
  }
  byId("adapters").replaceChildren(...TIERS.map((tier) => {
    const inTier = names.filter((name) => adapters[name] === tier).sort();
    const row = html("div", "tier");
    const chips = html("div");
    chips.append(...inTier.slice(0, 60).map((name) => html("span", running.includes(name) ? "chip running" : "chip", name)));
    if (inTier.length > 60) chips.append(` and ${inTier.length - 60} more`);
    row.append(html("b", "", `${tier} ${inTier.length}`), chips);
    return row;
  }));
}

function drawTotals(stats) {
  const counters = stats.counters;
  const mib = (bytes) => `${(bytes / MIB).toFixed(1)} MiB`;
  const useful = counters.prefetch_in_bytes ? `${(100 * counters.prefetch_used_bytes / counters.prefetch_in_bytes).toFixed(0)} %` : "none";
  const invalid = stats.history.invalid_blocks.at(-1);
  const rows = [
    ["swapped in", mib(counters.swap_in_bytes)],
    ["swapped out", mib(counters.swap_out_bytes)],
    ["adapters loaded from host", counters.adapter_loads_host],
    ["adapters loaded from disk", counters.adapter_loads_disk],
    ["prefetched and used", useful],
    ["invalid KV blocks now", invalid],
    ["preemptions", counters.preemptions],
    ["steps", counters.num_steps],
  ];
  byId("totals").replaceChildren(...rows.flatMap(([name, value]) => [html("dt", "", name), html("dd", "", String(value))]));
}

function draw(stats) {
  const history = stats.history;
  byId("model").textContent = `${stats.model}, policy ${stats.policy}`;
  const toMib = (blocks) => `${(blocks * stats.block_bytes / MIB).toFixed(0)} MiB`;
  drawOverTime("hbm", 220, history.time_s, HBM_USES.map(([name, , colour]) => [history[name], colour]), stats.hbm_blocks, toMib, true);
  const most = Math.max(4, ...history.running, ...history.waiting);
  drawOverTime("requests", 160, history.time_s, REQUESTS.map(([name, , colour]) => [history[name], colour]), most, (n) => n.toFixed(0), false);
  drawTtft(stats.ttft);
  drawAdapters(stats.adapters, stats.running_adapters);
  drawTotals(stats);
  setStatus(stats.failure || `${history.running.at(-1)} running, ${history.waiting.at(-1)} waiting`, Boolean(stats.failure));
}

function setStatus(text, failed) {
  byId("status").textContent = text;
  byId("status").className = failed ? "failed" : "";
}

async function refresh() {
  const key = new URLSearchParams(location.hash.slice(1)).get("key");
  try {
    const response = await fetch("stats", {headers: key ? {Authorization: `Bearer ${key}`} : {}});
    if (response.ok) draw(await response.json());
    else setStatus(response.status === 401 ? "this server has a key: open it as /#key=KEY" : `HTTP ${response.status}`, true);
  } catch (error) {
    setStatus(`the server does not answer (${error.message})`, true);
  }
  setTimeout(refresh, INTERVAL_MS);
}

drawLegend("hbm-legend", HBM_USES);
drawLegend("requests-legend", REQUESTS);
drawLegend("ttft-legend", PARTS);
refresh();
