/**
 * PostgreSQL wire protocol 3.0: framing, and the few messages that the bridge reads or writes itself.
 * Knows nothing of sockets or of the engine.
 */

export const MAX_MESSAGE_BYTES = 512 * 1024 * 1024;

const STARTUP_VERSION = 196608;
const CANCEL_REQUEST = 80877102;
const SSL_REQUEST = 80877103;
const GSS_REQUEST = 80877104;
const REQUESTS = new Map([
  [STARTUP_VERSION, "startup"],
  [CANCEL_REQUEST, "cancel"],
  [SSL_REQUEST, "encryption"],
  [GSS_REQUEST, "encryption"],
]);

export class ProtocolError extends Error {}

/** Cuts a byte stream into messages. Bytes are joined once per message, however many reads it took. */
export class MessageReader {
  #chunks = [];
  #wanted = 0;
  size = 0;

  push(chunk) {
    this.#chunks.push(chunk);
    this.size += chunk.length;
  }

  /** The next message including its header, or null. `untyped` is for the packets before the session starts. */
  next(untyped = false) {
    const header = untyped ? 4 : 5;
    if (this.size < Math.max(header, this.#wanted)) return null;
    const bytes = this.#joined();
    const length = bytes.readInt32BE(header - 4);
    if (length < 4 || length > MAX_MESSAGE_BYTES) throw new ProtocolError(`invalid message length ${length}`);
    this.#wanted = header - 4 + length;
    if (this.size < this.#wanted) return null;
    const message = bytes.subarray(0, this.#wanted);
    this.#chunks = [bytes.subarray(this.#wanted)];
    this.size -= this.#wanted;
    this.#wanted = 0;
    return message;
  }

  #joined() {
    if (this.#chunks.length > 1) this.#chunks = [Buffer.concat(this.#chunks)];
    return this.#chunks[0];
  }
}

export const typeOf = (message) => String.fromCharCode(message[0]);

export function message(type, ...parts) {
  const body = parts.map((part) => (typeof part === "string" ? Buffer.from(`${part}\0`) : part));
  const header = Buffer.alloc(5);
  header.write(type, "latin1");
  header.writeInt32BE(4 + body.reduce((sum, part) => sum + part.length, 0), 1);
  return Buffer.concat([header, ...body]);
}

export const identifier = (text) => `"${text.replaceAll('"', '""')}"`;
export const query = (sql) => message("Q", sql);
export const sync = () => message("S");
export const copyFail = (reason) => message("f", reason);
export const closeStatement = (name) => message("C", Buffer.from("S"), name);
export const parameterStatus = (name, value) => message("S", name, value);

export function errorResponse(severity, code, text) {
  const field = (type, value) => Buffer.from(`${type}${value}\0`);
  return message("E", field("S", severity), field("V", severity), field("C", code), field("M", text), Buffer.alloc(1));
}

export function authenticationOk(key) {
  return Buffer.concat([message("R", Buffer.alloc(4)), message("K", key)]);
}

/** The NUL-terminated string at `offset` and the offset behind it. */
export function cstring(bytes, offset) {
  const end = bytes.indexOf(0, offset);
  if (end < 0) throw new ProtocolError("a string in the message has no end");
  return { text: bytes.toString("utf8", offset, end), next: end + 1 };
}

/** A packet sent before the session starts: its kind and, for a startup packet, its parameters. */
export function parseRequest(packet) {
  const kind = packet.length < 8 ? undefined : REQUESTS.get(packet.readInt32BE(4));
  const parameters = {};
  if (kind !== "startup") return { kind, parameters };
  for (let offset = 8; offset < packet.length && packet[offset] !== 0; ) {
    const name = cstring(packet, offset);
    const value = cstring(packet, name.next);
    parameters[name.text] = value.text;
    offset = value.next;
  }
  return { kind, parameters };
}

/** `-c name=value` pairs of the startup packet's `options`, backslash quoting a blank. */
export function parseOptions(options) {
  const words = (options.match(/(?:\\.|\S)+/g) ?? []).map((word) => word.replace(/\\(.)/g, "$1"));
  const settings = {};
  for (const word of words) {
    const [, name, value] = /^(?:--|-c)?([\w.][\w.-]*)=(.*)$/s.exec(word) ?? [];
    if (name) settings[name.replaceAll("-", "_")] = value;
  }
  return settings;
}

/** A setting of time such as `4000` or `4s`; 0 where there is none. */
export function parseMilliseconds(text) {
  const units = { us: 0.001, ms: 1, s: 1000, min: 60_000, h: 3_600_000, d: 86_400_000 };
  const [, number, unit = "ms"] = /^\s*(\d+(?:\.\d+)?)\s*(us|ms|s|min|h|d)?\s*$/.exec(text ?? "") ?? [];
  return number ? Number(number) * units[unit] : 0;
}

/** Every message of `bytes`, which must hold whole messages. */
export function* messages(bytes) {
  for (let offset = 0; offset < bytes.length; ) {
    const end = offset + 1 + bytes.readInt32BE(offset + 1);
    yield bytes.subarray(offset, end);
    offset = end;
  }
}

/** The text rows of a simple query's answer; throws what the engine reported. */
export function rowsOf(answer) {
  const rows = [];
  for (const part of messages(answer)) {
    if (typeOf(part) === "E") throw new Error(errorText(part));
    if (typeOf(part) === "D") rows.push(columnsOf(part));
  }
  return rows;
}

function columnsOf(row) {
  let offset = 7;
  return Array.from({ length: row.readInt16BE(5) }, () => {
    const length = row.readInt32BE(offset);
    offset += 4;
    if (length < 0) return null;
    offset += length;
    return row.toString("utf8", offset - length, offset);
  });
}

function errorText(error) {
  const fields = error.toString("utf8", 5).split("\0");
  return fields.find((field) => field.startsWith("M"))?.slice(1) ?? "unknown error";
}
