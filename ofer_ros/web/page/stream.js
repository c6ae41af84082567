// The websocket: packets as view_packets.py makes them, and a connection that comes back by itself.

const ARRAYS = { int16: Int16Array, uint16: Uint16Array, uint32: Uint32Array, float32: Float32Array, uint8: Uint8Array };
const RETRY = 1000; // ms

/** The head of a packet, with its arrays as {data, shape} by name. */
export function unpack(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const packet = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  for (const [name, { type, shape, offset }] of Object.entries(packet.arrays)) {
    const count = shape.reduce((product, size) => product * size, 1);
    packet.arrays[name] = { data: new ARRAYS[type](buffer, 4 + length + offset, count), shape };
  }
  return packet;
}

export class Stream {
  /** receive: a function for each kind of packet; changed(connected) tells of the connection itself. */
  constructor(receive, changed) {
    this.receive = receive;
    this.changed = changed;
    this.watched = "";
    this.connect();
  }

  connect() {
    this.socket = new WebSocket(`ws://${location.host}/stream`);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => { this.changed(true); this.watch(this.watched); };
    this.socket.onmessage = ({ data }) => { const packet = unpack(data); this.receive[packet.kind]?.(packet); };
    this.socket.onclose = () => { this.changed(false); setTimeout(() => this.connect(), RETRY); };
  }

  /** Ask for the meshes of the face with this id; "": the first. */
  watch(id) {
    this.watched = id;
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify({ watch: id }));
  }
}
