// The parts of the page that are text, bars and a curve: facts of a face, expressions, timings.

const EXPRESSIONS_SHOWN = 8;
const CHANGE_EVERY = 1500; // ms; the list of the strongest expressions is chosen anew no more often than that
const WORTH_A_BAR = 0.1; // ms
const HISTORY = 120; // latencies kept, one a second

export const element = (id) => document.getElementById(id);
const degrees = (rad) => (180 / Math.PI) * rad;
const number = (value, digits = 1) => (value === null || value === undefined ? "–" : value.toFixed(digits).replace(/^-(0\.?0*)$/, "$1"));

/** Children of `parent`, exactly `count` of them, made by `make` where there are too few. */
function children(parent, count, make) {
  while (parent.children.length > count) parent.lastChild.remove();
  while (parent.children.length < count) parent.append(make());
  return parent.children;
}

function fragment(html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  return template.content.firstChild;
}

/** Facts of a face as rows of the definition list. */
export function showFacts(face, hypotheses) {
  // Head to camera, by rows: its last column is where the face looks.
  const look = [2, 5, 8].map((index) => face.rotation[index]);
  const yaw = degrees(Math.atan2(look[0], -look[2])), pitch = degrees(Math.atan2(-look[1], Math.hypot(look[0], look[2])));
  const roll = degrees(Math.atan2(face.rotation[3], face.rotation[0]));
  const rows = {
    "distance": `${number(Math.hypot(...face.translation), 2)} m${face.metric ? "" : " (view angle assumed)"}`,
    "yaw / pitch / roll": `${[yaw, pitch, roll].map((angle) => number(angle, 0)).join(" / ")} °`,
    "hidden": `${number(100 * face.occlusion, 0)} %`,
    "landmarks off by": `${number(face.landmark_error === null ? null : 100 * face.landmark_error)} % of eye distance`,
    "identity": `${face.identity_state || "–"}, revision ${face.identity_revision}`,
    "mouth, eyes, brows": `± ${face.spread_mm.map((value) => number(value)).join(" / ")} mm`,
    "hypotheses": `${hypotheses}, no. ${face.selected + 1} selected`,
  };
  const lines = children(element("facts"), Object.keys(rows).length, () => fragment("<div><dt></dt><dd></dd></div>"));
  Object.entries(rows).forEach(([name, text], index) => {
    const [label, value] = lines[index].children;
    if (label.textContent !== name) label.textContent = name;
    if (value.textContent !== text) value.textContent = text;
  });
}

/** Bars of the strongest coefficients that are shown, with a tick for every hypothesis. */
export class Expressions {
  constructor() { this.strength = new Map(); this.shown = []; this.chosen = 0; }

  /** values (1 + H, E) and jaws (1 + H, 3): what is shown, then the hypotheses. */
  show(names, values, jaws) {
    const [count, size] = values.shape, column = (array, width, index) => Array.from({ length: count }, (_, row) => array.data[row * width + index]);
    names.forEach((name, index) => {
      const now = Math.abs(values.data[index]);
      this.strength.set(name, 0.9 * (this.strength.get(name) ?? now) + 0.1 * now);
    });
    if (performance.now() - this.chosen > CHANGE_EVERY) {
      this.chosen = performance.now();
      const strongest = [...names.keys()].sort((a, b) => this.strength.get(names[b]) - this.strength.get(names[a]));
      this.shown = strongest.slice(0, EXPRESSIONS_SHOWN - 1).sort((a, b) => a - b);
    }
    const rows = this.shown.map((index) => ({ name: names[index], all: column(values, size, index), unit: "", digits: 2, scale: 1 }));
    rows.unshift({ name: "jaw, degrees", all: column(jaws, 3, 0).map(degrees), unit: "°", digits: 0, scale: 30 });
    const lines = children(element("expressions"), rows.length, () => fragment('<div class="coefficient"><span></span><div class="track"></div><span></span></div>'));
    rows.forEach(({ name, all, unit, digits, scale }, index) => {
      const [label, track, value] = lines[index].children;
      const percent = (x) => `${100 * Math.min(Math.max(x / scale, 0), 1)}%`;
      label.textContent = name.replace(/Left$/, " L").replace(/Right$/, " R");
      label.title = name;
      value.textContent = number(all[0], digits) + unit;
      const marks = children(track, count, () => document.createElement(track.children.length ? "i" : "b"));
      marks[0].style.width = percent(all[0]);
      all.slice(1).forEach((x, row) => { marks[row + 1].style.left = percent(x); });
    });
  }
}

/** Rate, latency and stage times out of /diagnostics. */
export class Timings {
  constructor() { this.history = []; }

  show({ values }) {
    const read = (key) => (key in values && values[key] !== "" ? Number(values[key]) : null);
    const p50 = read("latency_p50_ms"), p95 = read("latency_p95_ms");
    const lost = read("frames_in") ? (100 * read("frames_dropped")) / read("frames_in") : null;
    const figures = [[number(read("fps")), "frames / s"], [number(p50, 0), "ms median"], [number(p95, 0), "ms 95th"], [number(lost, 0), "% dropped"]];
    const boxes = children(element("figures"), figures.length, () => fragment('<div class="figure"><b></b><span></span></div>'));
    figures.forEach(([value, label], index) => {
      boxes[index].children[0].textContent = value;
      boxes[index].children[1].textContent = label;
    });
    const memory = read("memory_mb");
    element("timings-title").textContent = read("tier_level") ? `to save time: ${values.tier}` : `image to faces · ${number(memory, 0)} MB`;
    if (p50 !== null) this.history = [...this.history, [p50, p95]].slice(-HISTORY);
    this.draw();
    this.stages(values);
  }

  stages(values) {
    const times = Object.entries(values).filter(([key]) => key.startsWith("stage/"))
      .map(([key, value]) => [key.slice(6, -3), Number(value)]);
    // A sum of others is named without a slash, as pipeline is of pipeline/...
    const sums = new Set(times.map(([name]) => name.split("/")[0]).filter((name) => times.some(([other]) => other.startsWith(`${name}/`))));
    const leaves = times.filter(([name, value]) => !sums.has(name) && !name.endsWith("total") && value >= WORTH_A_BAR).sort((a, b) => b[1] - a[1]);
    const most = Math.max(1, ...leaves.map(([, value]) => value));
    const rows = children(element("stages"), leaves.length, () => fragment('<div class="stage-row"><span></span><div class="track"><b></b></div><span></span></div>'));
    leaves.forEach(([name, value], index) => {
      const [label, track, text] = rows[index].children;
      label.textContent = label.title = name.replace("pipeline/", "");
      track.firstChild.style.width = `${(100 * value) / most}%`;
      text.textContent = `${value.toFixed(1)} ms`;
    });
  }

  draw() {
    const canvas = element("history"), ratio = window.devicePixelRatio || 1;
    const width = canvas.clientWidth, height = canvas.clientHeight;
    Object.assign(canvas, { width: width * ratio, height: height * ratio });
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const style = getComputedStyle(document.documentElement), muted = style.getPropertyValue("--muted");
    const top = [20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4].find((limit) => limit >= Math.max(1, ...this.history.flat())) ?? 5e4;
    const left = 42, y = (ms) => height - 4 - ((height - 12) * ms) / top;
    const x = (index) => left + ((width - left - 2) * (index + HISTORY - this.history.length)) / (HISTORY - 1);
    pen.font = "11px system-ui, sans-serif";
    pen.fillStyle = muted;
    for (const ms of [0, top / 2, top]) {
      pen.strokeStyle = style.getPropertyValue("--line");
      pen.beginPath(); pen.moveTo(left, y(ms)); pen.lineTo(width, y(ms)); pen.stroke();
      if (ms) pen.fillText(`${ms} ms`, 0, y(ms) + 4);
    }
    for (const [column, colour] of [[1, "#4a86bd"], [0, style.getPropertyValue("--accent")]]) {
      pen.strokeStyle = colour; pen.lineWidth = 1.6; pen.beginPath();
      this.history.forEach((pair, index) => pen.lineTo(x(index), y(pair[column])));
      pen.stroke();
    }
  }
}
