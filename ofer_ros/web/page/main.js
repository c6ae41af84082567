// The page: packets in, canvases and panels out. Drawn once a screen refresh, and only when something changed.

import { element, Expressions, showFacts, Timings } from "./panels.js";
import { MeshRenderer, orbit, product, RAMP, UNKNOWN } from "./renderer.js";
import { Stream } from "./stream.js";

const CAMERA_TO_VIEW = [1, 0, 0, 0, -1, 0, 0, 0, -1]; // camera: x right, y down, z forward; view: y up, z to the eye
const SILENCE = 2500; // ms without a packet of faces until the page says so
const TILE_ASPECT = 0.82; // width by height of a head
const TILE_ZOOM = 1.18;
const TILE_LABEL = 19; // px

const view = { yaw: 0, pitch: 0, zoom: 1, coloured: true, pose: true };
const counts = { received: 0, shown: 0, drawn: 0 }; // what a test, or a curious user, can look at
let head = null, latest = null, arrived = -Infinity, connected = false, told = { problem: "" }, health = null;
let dirty = false, fresh = false; // to be drawn; with a face that is not on the graphics card yet
let main, tiles;
const expressions = new Expressions(), timings = new Timings();

try {
  main = new MeshRenderer(element("mesh"));
  tiles = new MeshRenderer(element("tiles"));
} catch (error) {
  told.problem = error.message;
}

const stream = new Stream({
  state: (packet) => { told = packet; element("node").textContent = packet.node; showState(); },
  head: (packet) => {
    head = packet;
    latest = null;
    element("bundle").textContent = packet.bundle && `bundle ${packet.bundle}`;
    for (const renderer of [main, tiles]) renderer?.setTriangles(packet.arrays.triangles.data);
    showLegend(packet.full_spread);
  },
  faces: showFrame,
  diagnostics: (packet) => { health = packet; timings.show(packet); showState(); },
}, (now) => { connected = now; showState(); });

function redraw() {
  if (dirty) return;
  dirty = true;
  requestAnimationFrame(() => { dirty = false; draw(); });
}

/** Positions (3 V) in metres of mesh number `row` out of streamed steps. */
function positionsOf(meshes, row) {
  const size = meshes.shape[1] * 3, positions = new Float32Array(meshes.data.subarray(row * size, (row + 1) * size));
  for (let i = 0; i < size; i++) positions[i] *= head.step;
  return positions;
}

/** Distance between the vertices of two meshes (3 V metres), 1 at the ramp's end. */
function distances(a, b) {
  const values = new Float32Array(a.length / 3), scale = 1000 / head.full_spread;
  for (let i = 0; i < a.length; i += 3) {
    const x = a[i] - b[i], y = a[i + 1] - b[i + 1], z = a[i + 2] - b[i + 2];
    values[i / 3] = scale * Math.sqrt(x * x + y * y + z * z);
  }
  return values;
}

/** Bring the meshes of the latest face to the graphics card. */
function upload({ face, arrays: { meshes, spread } }) {
  const level = (step) => (1000 * step * head.step) / head.full_spread;
  main.setMesh(0, positionsOf(meshes, 0), spread ? Float32Array.from(spread.data, level) : new Float32Array(meshes.shape[1]).fill(UNKNOWN));
  const selected = positionsOf(meshes, 1 + face.selected);
  for (let row = 0; row + 1 < meshes.shape[0]; row++) {
    const positions = positionsOf(meshes, row + 1);
    tiles.setMesh(row, positions, distances(positions, selected));
  }
}

/** A packet of faces, together with its picture, which takes a moment to decode. */
async function showFrame(packet) {
  const number = ++counts.received, { jpeg } = packet.arrays;
  const bitmap = jpeg && (await createImageBitmap(new Blob([jpeg.data], { type: "image/jpeg" })).catch(() => null));
  if (number < counts.shown) return; // overtaken
  counts.shown = number;
  arrived = performance.now();
  showPicture(bitmap);
  showFaces(packet);
  showState();
}

function showPicture(bitmap) {
  const canvas = element("picture"), card = element("camera");
  canvas.hidden = !bitmap;
  card.querySelector(".empty").hidden = Boolean(bitmap);
  element("picture-size").textContent = bitmap ? `${bitmap.width} × ${bitmap.height} px` : "";
  if (!bitmap) return;
  if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) {
    Object.assign(canvas, { width: bitmap.width, height: bitmap.height });
    card.style.setProperty("--aspect", `${bitmap.width} / ${bitmap.height}`);
  }
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  bitmap.close();
}

function showFaces(packet) {
  showTracks(packet.faces, packet.face?.id);
  latest = packet.face && head ? packet : null;
  fresh = Boolean(latest);
  for (const id of ["shape", "hypotheses"]) element(id).querySelector(".empty").hidden = Boolean(latest);
  if (latest) {
    const { meshes, spread, scores } = packet.arrays, hypotheses = meshes.shape[0] - 1;
    layTiles(hypotheses, scores.data, packet.face.selected);
    showFacts(packet.face, hypotheses);
    expressions.show(head.expression_names, packet.arrays.expressions, packet.arrays.jaws);
    element("face-id").textContent = packet.face.id;
    const most = spread && (1000 * head.step * spread.data.reduce((a, b) => Math.max(a, b), 0)).toFixed(1);
    element("mesh-title").textContent = spread ? `spread up to ${most} mm` : "spread: not known of one hypothesis";
  } else {
    clearFace();
  }
  redraw();
}

/** Nothing of a face that is gone stays on the page. */
function clearFace() {
  for (const id of ["facts", "expressions", "tile-labels"]) element(id).replaceChildren();
  for (const id of ["face-id", "mesh-title", "hypotheses-title"]) element(id).textContent = "";
}

function showTracks(ids, current) {
  const bar = element("tracks");
  if (bar.dataset.ids !== JSON.stringify([ids, current])) {
    bar.dataset.ids = JSON.stringify([ids, current]);
    bar.replaceChildren(...ids.map((id) => {
      const button = document.createElement("button");
      button.textContent = id;
      button.setAttribute("aria-pressed", id === current);
      button.onclick = () => stream.watch(id);
      return button;
    }));
  }
}

/** Labels of the hypotheses in a grid that suits the room; the canvas below is drawn into their boxes. */
function layTiles(count, scores, selected) {
  const grid = element("tile-labels"), { clientWidth: width, clientHeight: height } = grid;
  let columns = 1, best = 0;
  for (let n = 1; n <= count; n++) {
    const size = Math.min(width / n, (height / Math.ceil(count / n)) * TILE_ASPECT);
    if (size > best + 0.5) [columns, best] = [n, size];
  }
  grid.style.setProperty("--columns", columns);
  while (grid.children.length > count) grid.lastChild.remove();
  while (grid.children.length < count) {
    const tile = document.createElement("div");
    tile.className = "tile";
    tile.append(document.createElement("span"), document.createElement("span"));
    grid.append(tile);
  }
  const total = scores.reduce((a, b) => a + b, 0) || 1, most = Math.max(...scores) || 1;
  [...grid.children].forEach((tile, row) => {
    tile.classList.toggle("selected", row === selected);
    tile.style.setProperty("--weight", `${(100 * scores[row]) / most}%`);
    tile.children[0].textContent = row + 1;
    tile.children[1].textContent = `${((100 * scores[row]) / total).toFixed(1)} %`;
  });
  element("hypotheses-title").textContent = view.coloured
    ? "with their weights; colour: distance from the selected one, mm, as in the legend"
    : "with their weights";
}

function draw() {
  if (!main || !tiles) return;
  main.clear();
  tiles.clear();
  if (!latest) return;
  if (fresh) upload(latest);
  fresh = false;
  const turn = orbit(view.yaw, view.pitch), { canvas } = main;
  const pose = view.pose ? product(CAMERA_TO_VIEW, latest.face.rotation) : [1, 0, 0, 0, 1, 0, 0, 0, 1];
  main.draw(0, { x: 0, y: 0, width: canvas.clientWidth, height: canvas.clientHeight }, product(turn, pose), view.zoom, view.coloured);
  const outer = tiles.canvas.getBoundingClientRect();
  [...element("tile-labels").children].forEach((tile, row) => {
    const box = tile.getBoundingClientRect();
    tiles.draw(row, { x: box.x - outer.x, y: box.y - outer.y, width: box.width, height: box.height - TILE_LABEL }, turn, TILE_ZOOM, view.coloured);
  });
  counts.drawn += 1;
}

/** One dot and one sentence: what is wrong, the worst first, or what the node says. */
function showState() {
  const silent = performance.now() - arrived > SILENCE;
  if (silent && (latest || !element("picture").hidden)) { // an old picture would look like a live one
    showPicture(null);
    showFaces({ faces: [] });
  }
  const [kind, text] = !connected ? ["bad", "view_node is gone: trying again"]
    : told.problem ? ["bad", "cannot show the faces"]
    : silent ? ["warn", "waiting for faces"]
    : health ? [["good", "warn", "bad"][health.level] ?? "bad", health.message]
    : ["good", "receiving"];
  element("state").className = kind;
  element("state").querySelector("b").textContent = text;
  element("problem").hidden = !told.problem;
  element("problem").textContent = told.problem;
}

function showLegend(limit) {
  const colours = RAMP.map((colour) => `rgb(${colour.map((value) => Math.round(255 * value))})`);
  document.querySelector(".ramp").style.background = `linear-gradient(90deg, ${colours})`;
  document.querySelector(".ticks").replaceChildren(...[0, 0.25, 0.5, 0.75, 1].map((share) => {
    const tick = document.createElement("span");
    tick.textContent = (share === 1 ? "≥ " : "") + share * limit;
    return tick;
  }));
}

// Turning and zooming

const stage = element("mesh"), pointers = new Map();
stage.onpointerdown = (event) => { stage.setPointerCapture(event.pointerId); pointers.set(event.pointerId, event); };
stage.onpointerup = stage.onpointercancel = (event) => pointers.delete(event.pointerId);
stage.onpointermove = (event) => {
  const before = pointers.get(event.pointerId);
  if (!before) return;
  if (pointers.size === 1) {
    view.yaw += (event.clientX - before.clientX) / 180;
    view.pitch = Math.min(Math.max(view.pitch + (event.clientY - before.clientY) / 180, -1.5), 1.5);
  } else { // two fingers: the change of their distance
    const other = [...pointers.values()].find((pointer) => pointer.pointerId !== event.pointerId);
    const apart = (pointer) => Math.hypot(pointer.clientX - other.clientX, pointer.clientY - other.clientY);
    zoom(apart(event) / Math.max(apart(before), 1));
  }
  pointers.set(event.pointerId, event);
  redraw();
};
stage.addEventListener("wheel", (event) => { event.preventDefault(); zoom(Math.exp(-event.deltaY / 600)); }, { passive: false });
stage.ondblclick = () => { Object.assign(view, { yaw: 0, pitch: 0, zoom: 1 }); redraw(); };
stage.onkeydown = (event) => {
  const step = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] }[event.key];
  if (!step) return;
  event.preventDefault();
  view.yaw += step[0];
  view.pitch += step[1];
  redraw();
};

function zoom(factor) {
  view.zoom = Math.min(Math.max(view.zoom * factor, 0.5), 3);
  redraw();
}

for (const button of document.querySelectorAll("[data-colour]")) {
  button.onclick = () => {
    view.coloured = button.dataset.colour === "uncertainty";
    for (const other of document.querySelectorAll("[data-colour]")) other.setAttribute("aria-pressed", other === button);
    element("legend").style.visibility = view.coloured ? "visible" : "hidden";
    redraw();
  };
}
element("pose").onclick = ({ target }) => {
  view.pose = !view.pose;
  target.setAttribute("aria-pressed", view.pose);
  redraw();
};

new ResizeObserver(() => { timings.draw(); redraw(); }).observe(document.querySelector("main"));
setInterval(showState, 500);
showState();
window.ofer = { view, counts };
