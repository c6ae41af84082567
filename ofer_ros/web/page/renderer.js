// Shaded triangle meshes of one topology with a colour ramp over a value per vertex, in WebGL2.
// One MeshRenderer a canvas; it holds several meshes and draws each into a rectangle of its own.

/** Colours of the ramp, for values from 0 to 1 and above, RGB in 0..1. */
export const RAMP = [[0.56, 0.68, 0.82], [0.93, 0.87, 0.62], [0.95, 0.58, 0.27], [0.80, 0.17, 0.27]];

/** The value whose colour, grey, says that there is none. */
export const UNKNOWN = -1;

const FIELD_OF_VIEW = 0.36; // rad
const DISTANCE = 0.83; // metres from the middle of the head

const VERTEX = `#version 300 es
layout(location = 0) in vec3 position;
layout(location = 1) in vec3 normal;
layout(location = 2) in float value;
uniform mat3 turn;
uniform float distance;
uniform vec2 lens;
out vec3 direction;
out vec3 eye;
out float level;
void main() {
  vec3 place = turn * position - vec3(0.0, 0.0, distance);
  direction = turn * normal;
  eye = place;
  level = value;
  float near = 0.05, far = 3.0;
  gl_Position = vec4(place.xy * lens, (place.z * (far + near) + 2.0 * far * near) / (near - far), -place.z);
}`;

const FRAGMENT = `#version 300 es
precision highp float;
in vec3 direction;
in vec3 eye;
in float level;
uniform vec3 ramp[${RAMP.length}];
uniform float coloured;
out vec4 colour;
void main() {
  vec3 n = normalize(direction);
  vec3 v = normalize(-eye);
  if (!gl_FrontFacing) n = -n;
  float t = clamp(level, 0.0, 1.0) * coloured * ${(RAMP.length - 1).toFixed(1)};
  vec3 base = mix(ramp[0], ramp[1], clamp(t, 0.0, 1.0));
  for (int i = 1; i < ${RAMP.length - 1}; i++) base = mix(base, ramp[i + 1], clamp(t - float(i), 0.0, 1.0));
  if (coloured * level < 0.0) base = vec3(0.6);
  base = pow(base, vec3(2.2));
  vec3 key = normalize(vec3(-0.45, 0.55, 0.75)), fill = normalize(vec3(0.8, 0.1, 0.35));
  float sky = 0.5 + 0.5 * n.y;
  float light = 0.13 + 0.14 * sky + 0.72 * max(dot(n, key), 0.0) + 0.16 * max(dot(n, fill), 0.0);
  float shine = 0.09 * pow(max(dot(n, normalize(key + v)), 0.0), 26.0);
  float rim = 0.10 * pow(1.0 - max(dot(n, v), 0.0), 3.0);
  vec3 lit = base * light + shine + rim * vec3(0.6, 0.8, 1.0);
  if (!gl_FrontFacing) lit = 0.22 * base;
  colour = vec4(pow(lit, vec3(1.0 / 2.2)), 1.0);
}`;

export class MeshRenderer {
  /** Raises Error with a sentence for the user where the browser has no WebGL2. */
  constructor(canvas) {
    this.canvas = canvas;
    const gl = this.gl = canvas.getContext("webgl2", { antialias: true, alpha: true, preserveDrawingBuffer: true });
    if (!gl) throw new Error("this browser shows no WebGL2: the meshes need it");
    canvas.addEventListener("webglcontextlost", () => setTimeout(() => location.reload(), 1000)); // after a sleep, say
    this.program = link(gl);
    this.places = Object.fromEntries(["turn", "distance", "lens", "ramp", "coloured"].map((name) => [name, gl.getUniformLocation(this.program, name)]));
    gl.useProgram(this.program);
    gl.uniform3fv(this.places.ramp, RAMP.flat());
    gl.enable(gl.DEPTH_TEST);
    gl.enable(gl.SCISSOR_TEST);
    this.indices = gl.createBuffer();
    this.meshes = [];
  }

  /** Triangles (3 F uint32) of all meshes to come. */
  setTriangles(triangles) {
    const gl = this.gl;
    for (const mesh of this.meshes) { mesh.buffers.forEach((buffer) => gl.deleteBuffer(buffer)); gl.deleteVertexArray(mesh.array); }
    this.meshes = [];
    this.triangles = triangles;
    gl.bindVertexArray(null);
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, this.indices);
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, triangles, gl.STATIC_DRAW);
  }

  /** Positions (3 V) in metres and values (V), 1 at the ramp's end, or UNKNOWN, of mesh number `slot`. */
  setMesh(slot, positions, values) {
    const gl = this.gl;
    const mesh = this.meshes[slot] ??= this.#allocate();
    mesh.normals = normals(positions, this.triangles, mesh.normals);
    [positions, mesh.normals, values].forEach((data, index) => {
      gl.bindBuffer(gl.ARRAY_BUFFER, mesh.buffers[index]);
      gl.bufferData(gl.ARRAY_BUFFER, data, gl.DYNAMIC_DRAW);
    });
  }

  /** Fit the drawing buffer to the canvas and empty it. */
  clear() {
    const gl = this.gl, ratio = window.devicePixelRatio || 1;
    const width = Math.max(1, Math.round(this.canvas.clientWidth * ratio)), height = Math.max(1, Math.round(this.canvas.clientHeight * ratio));
    if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, { width, height });
    gl.viewport(0, 0, width, height);
    gl.scissor(0, 0, width, height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
  }

  /** Draw a mesh into the rectangle {x, y, width, height} of CSS pixels from the top left; turn: 3 x 3, by rows. */
  draw(slot, box, turn, zoom, coloured) {
    const gl = this.gl, ratio = this.canvas.width / Math.max(this.canvas.clientWidth, 1), mesh = this.meshes[slot];
    if (!mesh || box.width < 1 || box.height < 1) return;
    const rectangle = [box.x, this.canvas.clientHeight - box.y - box.height, box.width, box.height].map((value) => Math.round(value * ratio));
    gl.viewport(...rectangle);
    gl.scissor(...rectangle);
    const lens = 1 / Math.tan(FIELD_OF_VIEW / 2), aspect = box.width / box.height;
    gl.uniformMatrix3fv(this.places.turn, true, turn);
    gl.uniform1f(this.places.distance, DISTANCE / zoom);
    gl.uniform2f(this.places.lens, aspect > 1 ? lens / aspect : lens, aspect > 1 ? lens : lens * aspect);
    gl.uniform1f(this.places.coloured, coloured ? 1 : 0);
    gl.bindVertexArray(mesh.array);
    gl.drawElements(gl.TRIANGLES, this.triangles.length, gl.UNSIGNED_INT, 0);
  }

  #allocate() {
    const gl = this.gl, array = gl.createVertexArray();
    gl.bindVertexArray(array);
    const buffers = [3, 3, 1].map((size, index) => {
      const buffer = gl.createBuffer();
      gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
      gl.enableVertexAttribArray(index);
      gl.vertexAttribPointer(index, size, gl.FLOAT, false, 0, 0);
      return buffer;
    });
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, this.indices);
    return { array, buffers, normals: null };
  }
}

/** Normals (3 V) of positions (3 V), each the sum over its triangles weighted by their area; not of unit length. */
export function normals(positions, triangles, into) {
  const sums = into?.length === positions.length ? into.fill(0) : new Float32Array(positions.length);
  for (let i = 0; i < triangles.length; i += 3) {
    const a = 3 * triangles[i], b = 3 * triangles[i + 1], c = 3 * triangles[i + 2];
    const ux = positions[b] - positions[a], uy = positions[b + 1] - positions[a + 1], uz = positions[b + 2] - positions[a + 2];
    const vx = positions[c] - positions[a], vy = positions[c + 1] - positions[a + 1], vz = positions[c + 2] - positions[a + 2];
    const x = uy * vz - uz * vy, y = uz * vx - ux * vz, z = ux * vy - uy * vx;
    for (const corner of [a, b, c]) { sums[corner] += x; sums[corner + 1] += y; sums[corner + 2] += z; }
  }
  return sums;
}

/** Product of two 3 x 3 matrices by rows. */
export function product(a, b) {
  return Array.from({ length: 9 }, (_, i) => [0, 1, 2].reduce((sum, k) => sum + a[3 * Math.floor(i / 3) + k] * b[3 * k + (i % 3)], 0));
}

/** Turn by `yaw` about the vertical, then by `pitch` about the horizontal axis, rad. */
export function orbit(yaw, pitch) {
  const [c, s, d, t] = [Math.cos(yaw), Math.sin(yaw), Math.cos(pitch), Math.sin(pitch)];
  return product([1, 0, 0, 0, d, -t, 0, t, d], [c, 0, s, 0, 1, 0, -s, 0, c]);
}

function link(gl) {
  const program = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(`shader: ${gl.getShaderInfoLog(shader)}`);
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  return program;
}
