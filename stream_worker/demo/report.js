"use strict";
// A browser keeps about 16 WebGL contexts alive in a page. Views that are in sight get one; the others give theirs back.
const MOST_LIVE = 10;
const LOOK = { x: 0.32, y: -0.9, z: 0.3 }; // from the photo's side, a little to the right and from above
const live = new Map(); // view -> true, the one that was in sight longest ago first
const inSight = new Set();
const cameras = new WeakMap();
const dark = matchMedia("(prefers-color-scheme: dark)");

function bytes(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

// Plotly turns a scene about its z axis only: our y (up) becomes its z, our z (to the viewer) its -y.
function upright(x, y, z) {
  return { x, y: z.map((value) => (value === null ? null : -value)), z: y };
}

function traces(data) {
  const xyz = new Float32Array(bytes(data.xyz).buffer);
  const rgb = bytes(data.rgb);
  const count = xyz.length / 3;
  const points = [0, 1, 2].map((axis) => Float32Array.from({ length: count }, (_, k) => xyz[3 * k + axis]));
  const color = Array.from({ length: count }, (_, k) => `rgb(${rgb[3 * k]},${rgb[3 * k + 1]},${rgb[3 * k + 2]})`);
  const edges = [0, 1, 2].map((axis) => data.box.flatMap(([a, b]) => [a[axis], b[axis], null]));
  const places = [0, 1, 2].map((axis) => data.sizes.map((size) => size.at[axis]));
  const ink = dark.matches ? "#aab6cc" : "#4a5568";
  const quiet = { type: "scatter3d", hoverinfo: "skip", showlegend: false };
  const size = Math.max(2.2, Math.min(6, 200 / Math.sqrt(count)));
  return [
    { ...quiet, mode: "markers", ...upright(...points), marker: { size, color, opacity: 1, line: { width: 0 } } },
    { ...quiet, mode: "lines", ...upright(...edges), line: { color: ink, width: 2 } },
    {
      ...quiet, mode: "text", ...upright(...places), text: data.sizes.map((label) => label.text),
      textposition: ["bottom center", "bottom right", "middle right"], textfont: { size: 11, color: ink },
    },
  ];
}

// The camera at a distance from which the whole box is seen. Plotly scales a scene to a volume of 1.
function camera(data) {
  const side = (axis) => {
    const values = data.box.flat().map((corner) => corner[axis]);
    return Math.max(...values) - Math.min(...values) || 1e-6;
  };
  const [width, height, depth] = [0, 1, 2].map(side);
  const distance = (1.35 * Math.hypot(width / 1.2, height, depth)) / Math.cbrt(width * height * depth);
  const eye = Object.fromEntries(Object.entries(LOOK).map(([axis, part]) => [axis, part * distance]));
  return { eye, up: { x: 0, y: 0, z: 1 }, center: { x: 0, y: 0, z: -0.02 } };
}

async function show(view) {
  if (live.has(view)) return;
  live.set(view, true);
  for (const other of [...live.keys()]) {
    if (live.size <= MOST_LIVE) break;
    if (!inSight.has(other)) hide(other);
  }
  const data = JSON.parse(document.querySelector(`script[data-for="${view.dataset.view}"]`).textContent);
  const axis = { visible: false, showspikes: false };
  await Plotly.newPlot(view, traces(data), {
    margin: { l: 0, r: 0, t: 0, b: 0 },
    paper_bgcolor: "rgba(0,0,0,0)",
    scene: {
      aspectmode: "data", dragmode: "turntable", camera: cameras.get(view) || camera(data),
      xaxis: axis, yaxis: axis, zaxis: axis, bgcolor: "rgba(0,0,0,0)",
    },
  }, { displayModeBar: false, responsive: true, scrollZoom: false });
  if (!live.has(view)) return; // scrolled away meanwhile
  view.classList.add("live");
  view.dispatchEvent(new CustomEvent("view-live", { bubbles: true }));
}

function hide(view) {
  live.delete(view);
  view.classList.remove("live");
  const scene = view._fullLayout && view._fullLayout.scene && view._fullLayout.scene._scene;
  if (scene && scene.glplot) cameras.set(view, scene.getCamera());
  const contexts = [...view.querySelectorAll("canvas")].map((canvas) => canvas.getContext("webgl"));
  Plotly.purge(view);
  // Without this a context lives on until the garbage collector comes by.
  for (const context of contexts) context?.getExtension("WEBGL_lose_context")?.loseContext();
}

// One after the other: drawing many at once would freeze the page.
let queue = Promise.resolve();
function enqueue(view) {
  queue = queue.then(() => (inSight.has(view) ? show(view) : null)).catch((error) => {
    live.delete(view);
    view.textContent = "This browser can't show 3D views (no WebGL).";
    console.warn(error);
  });
}

const watcher = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (isIntersecting) {
      inSight.add(target);
      if (live.delete(target)) live.set(target, true);
      else enqueue(target);
    } else {
      inSight.delete(target);
    }
  }
  for (const view of [...live.keys()]) {
    if (live.size > MOST_LIVE && !inSight.has(view)) hide(view);
  }
}, { rootMargin: "80px" });

function drawGantt() {
  const { traces: bars, rows, ticks } = JSON.parse(document.getElementById("gantt-data").textContent);
  const style = getComputedStyle(document.documentElement);
  const [ink, line] = ["--soft", "--line"].map((name) => style.getPropertyValue(name).trim());
  const narrow = innerWidth < 640;
  Plotly.newPlot("gantt", bars, {
    barmode: "overlay", height: Math.max(220, 17 * rows + 110),
    margin: { l: narrow ? 92 : 170, r: 12, t: 8, b: 40 },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: ink, size: narrow ? 10 : 12, family: "system-ui, sans-serif" },
    xaxis: { ticksuffix: " s", gridcolor: line, zeroline: false, rangemode: "tozero" },
    yaxis: { tickvals: ticks.map((_, row) => row), ticktext: ticks, range: [rows - 0.4, -0.6], showgrid: false,
      zeroline: false, fixedrange: true },
    legend: { orientation: "h", y: 1, yanchor: "bottom", x: 0 },
    hoverlabel: { align: "left" }, dragmode: "pan",
  }, { displayModeBar: false, responsive: true });
}

function pick(anchor, on) {
  const parts = document.querySelectorAll(`[data-object="${anchor}"], #${anchor}`);
  parts.forEach((part) => part.classList.toggle("picked", on));
  const figure = document.querySelector(`.mask[data-object="${anchor}"]`)?.closest(".photo");
  figure?.classList.toggle("picking", on);
}

for (const part of document.querySelectorAll(".tag, .object")) {
  const anchor = part.dataset.object || part.id;
  part.addEventListener("pointerenter", () => pick(anchor, true));
  part.addEventListener("pointerleave", () => pick(anchor, false));
}
dark.addEventListener("change", () => {
  for (const view of [...live.keys()]) { hide(view); enqueue(view); }
  drawGantt();
});
drawGantt();
document.querySelectorAll(".view[data-view]").forEach((view) => watcher.observe(view));
document.documentElement.dataset.ready = "true";
