/**
 * One client: its socket, the messages it has sent, and what it must not share with other clients of the one
 * engine: settings, role and prepared statements. `bridge.mjs` decides when it has the engine.
 */

import { randomBytes } from "node:crypto";
import {
  MessageReader,
  ProtocolError,
  authenticationOk,
  closeStatement,
  copyFail,
  cstring,
  errorResponse,
  identifier,
  message,
  messages,
  parameterStatus,
  parseMilliseconds,
  parseOptions,
  parseRequest,
  query,
  sync,
  typeOf,
} from "./protocol.mjs";

const FRONTEND_TYPES = new Set("QPBDECSHXFdcf");
const COPY_TYPES = new Set("dcf");
// Until then a client whose start-up waits for the engine is let in as it will be, if all is well with it.
const WELCOME_MILLISECONDS = 250;
const QUEUE_LIMIT_BYTES = 8 * 1024 * 1024;
// What a client is told at once when it changes (libpq's ParameterStatus).
const REPORTED = [
  "application_name", "client_encoding", "DateStyle", "default_transaction_read_only", "in_hot_standby",
  "integer_datetimes", "IntervalStyle", "is_superuser", "scram_iterations", "server_encoding", "server_version",
  "session_authorization", "standard_conforming_strings", "TimeZone",
];
// Ours: why nothing more should be stored, empty where there is room.
const FULL = "tsstats_full";
const READY = message("Z", Buffer.from("I"));
const RESET_USER = /\b(?:reset\s+session\s+authorization|set\s+session\s+authorization\s+default)\b/gi;
const OWN_PARAMETERS = new Set(["user", "database", "options", "replication"]);

export { REPORTED };
export const SUPERUSER = "postgres";

export class Session {
  #socket;
  #bridge;
  #reader = new MessageReader();
  #queue = [];
  #queued = 0;
  #wake = null;
  #key = randomBytes(8);
  #reported = {};
  #statements = new Map();
  #changed = false;
  #synced = true;
  #customNames = new Set();
  #parameters = null;
  #welcome = null; // the timer
  #welcomed = false;
  #starting = false;
  #admitted = false;
  #waitsSince = null;
  #skipping = false; // what was sent behind a refused statement, up to its Sync

  status = "I";
  closed = false;
  closedAt = null;
  // `defaults` is what RESET returns to; `set` what the client has SET since.
  settings = { user: SUPERUSER, role: "none", defaults: {}, set: {} };

  constructor(socket, bridge) {
    this.#socket = socket;
    this.#bridge = bridge;
    socket.on("data", (chunk) => this.#receive(chunk));
    socket.on("error", () => {});
    socket.on("close", () => this.#close());
    // Everyone waits for a client that does not read its rows.
    socket.setTimeout(bridge.limits.readerSeconds * 1000, () => socket.writableLength > 0 && socket.destroy());
  }

  get idle() {
    return this.status === "I" && this.#synced;
  }

  get waiting() {
    return this.#starting || this.#queue.length > 0 || (this.closed && this.#statements.size > 0);
  }

  /** Read on, if only a little: of a socket that is not read we would not hear that the client has gone. */
  listen() {
    this.#socket.resume();
  }

  #receive(chunk) {
    this.#reader.push(chunk);
    try {
      for (let next; !this.closed && (next = this.#reader.next(!this.#parameters)); ) this.#accept(next);
    } catch (error) {
      return this.fail("08P01", error.message);
    }
    if (this.#queued > QUEUE_LIMIT_BYTES) this.#socket.pause();
  }

  #accept(next) {
    if (!this.#parameters) return this.#request(next);
    if (!FRONTEND_TYPES.has(typeOf(next))) return this.fail("08P01", `message type ${next[0]} is not supported`);
    this.#enqueue(next);
  }

  #request(packet) {
    const { kind, parameters } = parseRequest(packet);
    if (kind === "encryption") this.#socket.write("N");
    else if (kind === "startup") {
      this.#parameters = parameters;
      this.#starting = true;
      this.#welcome = setTimeout(() => this.#letIn(this.#bridge.expected(this.#start())), WELCOME_MILLISECONDS);
      this.#bridge.wants(this);
    } else if (kind === "cancel") this.#socket.destroy();
    else this.fail("0A000", "only protocol version 3.0 is spoken here");
  }

  #enqueue(next) {
    if (this.#skipping && typeOf(next) !== "X") {
      this.#skipping = typeOf(next) !== "S";
      if (!this.#skipping) this.#socket.write(READY);
      return;
    }
    if (this.#queue.length === 0) this.#waitsSince = Date.now();
    this.#queue.push(next);
    this.#queued += next.length;
    this.#wake?.();
    this.#bridge.wants(this);
  }

  #close() {
    if (this.closed) return;
    this.closed = true;
    clearTimeout(this.#welcome);
    this.closedAt = Date.now();
    this.#wake?.();
    this.#bridge.wants(this);
    this.#bridge.left(this);
  }

  /** Tell the client why, and hang up. */
  fail(code, text) {
    if (!this.#socket.destroyed) this.#socket.end(errorResponse("FATAL", code, text));
    this.#socket.destroySoon();
    this.#close();
  }

  /** False when nothing came within `seconds` or the client has gone. */
  async #arrived(seconds) {
    if (this.#queue.length === 0 && !this.closed) {
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, seconds * 1000);
        this.#wake = () => (clearTimeout(timer), resolve());
      });
      this.#wake = null;
    }
    return this.#queue.length > 0 && !this.closed;
  }

  #shift() {
    const next = this.#queue.shift();
    this.#queued -= next.length;
    if (this.#queued <= QUEUE_LIMIT_BYTES) this.#socket.resume();
    return next;
  }

  /** Queued messages up to and including the first that ends with ReadyForQuery. */
  #batch() {
    const batch = [];
    while (this.#queue.length > 0) {
      const next = this.#shift();
      // What a client still sends of a COPY that has failed.
      if (!COPY_TYPES.has(typeOf(next))) batch.push(next);
      if ("QSFX".includes(typeOf(next))) break;
    }
    return batch;
  }

  /** Use the engine until the transaction is over or the client has gone. */
  async turn() {
    this.#waitsSince = null;
    try {
      if (!this.#admitted) await this.#begin();
      this.#starting = false;
      if (this.#queue.length > 0 || this.closed) await this.#serve();
    } catch (error) {
      this.fail(error instanceof ProtocolError ? "08P01" : "XX000", error.message);
      await this.#cleanUp();
    }
    if (this.#queue.length > 0) this.#waitsSince = Date.now();
  }

  async #serve() {
    if (!this.closed) await this.#bridge.enter(this);
    do {
      if (this.closed || (this.#queue.length === 0 && !(await this.#arrived(this.#bridge.limits.idleSeconds)))) {
        if (!this.closed) this.fail("25P03", "terminating connection due to idle-in-transaction timeout");
        return this.#cleanUp();
      }
      const batch = this.#batch();
      if (batch.length > 0) await this.#execute(batch);
    } while (!this.idle);
  }

  /** Who the client says it is, and the settings that it starts with. */
  #start() {
    const { user, database = user, options = "", ...others } = this.#parameters;
    const own = Object.entries(others).filter(([name]) => !OWN_PARAMETERS.has(name) && !name.startsWith("_pq_"));
    return { user, database, settings: { ...parseOptions(options), ...Object.fromEntries(own) } };
  }

  async #begin() {
    // The start-up of a client that has gone would be waited for for ever, and nobody else would be served.
    if (this.closed) return void (this.#queue = []);
    const start = this.#start();
    const problem = await this.#bridge.admit(this, start);
    // Who was let in already would not hear why it was cut off.
    if (problem) return this.#welcomed ? this.#refuse(...problem) : this.fail(...problem);
    this.#admitted = true;
    const values = await this.#bridge.valuesOf(REPORTED);
    this.#bridge.remember(start, values);
    if (this.#welcomed) this.#tell(values);
    else this.#letIn(values);
  }

  /** Answer the start-up. Role and settings are checked when the first statement has the engine, if not by now. */
  #letIn(values) {
    if (this.closed || this.#welcomed) return;
    clearTimeout(this.#welcome);
    this.#welcomed = true;
    this.#socket.write(authenticationOk(Buffer.concat([Buffer.alloc(4), this.#key.subarray(0, 4)])));
    this.#tell(values);
    this.#socket.write(READY);
  }

  /** Refuse what has waited too long for the engine; the client may try again. */
  giveUpIfDue(waitSeconds) {
    if (this.closed || !this.#waitsSince || Date.now() - this.#waitsSince < this.#patience(waitSeconds)) return;
    const waited = Math.round((Date.now() - this.#waitsSince) / 1000);
    this.#refuse("55P03", `gave up after ${waited} s in the queue`);
  }

  /** Answer what has been sent with an error; the session stays. */
  #refuse(code, text) {
    this.#waitsSince = null;
    for (let batch; (batch = this.#batch()).length > 0; ) {
      const last = typeOf(batch.at(-1));
      if (last === "X") return void this.fail(code, text);
      if (batch.every((next) => typeOf(next) === "H")) continue; // asks for nothing
      this.#socket.write(errorResponse("ERROR", code, text));
      this.#skipping = !"QSF".includes(last);
      if (!this.#skipping) this.#socket.write(READY);
    }
  }

  /** As the client bounds its statements: it must hear of it before it gives up by itself. */
  #patience(waitSeconds) {
    const settings = { ...this.#start().settings, ...this.settings.set };
    const statement = 0.75 * parseMilliseconds(settings.statement_timeout);
    return statement || parseMilliseconds(settings.lock_timeout) || waitSeconds * 1000;
  }

  async #execute(batch) {
    if (typeOf(batch.at(-1)) === "X") {
      batch.pop();
      this.#socket.end();
      this.#close();
    }
    let parts = [];
    for (const next of batch) {
      const { rewritten, before } = this.#translate(next);
      if (before) {
        await this.#run(parts);
        await this.#runHidden(before);
        parts = [];
      }
      parts.push(rewritten);
    }
    await this.#run(parts);
  }

  async #run(parts) {
    if (parts.length === 0) return;
    const endsReady = "QSF".includes(typeOf(parts.at(-1)));
    this.#synced = false;
    const sink = (chunk, taken) => this.#send(chunk, taken);
    const tail = Buffer.from(await this.#bridge.engine.run(parts, sink, () => this.#copyData()));
    if (endsReady) {
      this.#bridge.checkReady(tail);
      this.status = String.fromCharCode(tail[5]);
      this.#synced = true;
      if (this.#changed && this.idle) await this.#recordSettings();
      this.#tell({ ...this.#reported, [FULL]: this.#bridge.full });
    }
    this.#send(tail, () => {});
  }

  /** Messages that the client has not sent and whose success it need not hear of. */
  async #runHidden(parts) {
    const answer = await this.#bridge.collect(parts);
    for (const part of messages(answer)) {
      if (!"13".includes(typeOf(part))) this.#send(part, () => {});
    }
  }

  #send(bytes, taken) {
    if (this.#socket.writable) this.#socket.write(bytes, taken);
    else taken();
  }

  async #copyData() {
    if (!(await this.#arrived(this.#bridge.limits.idleSeconds))) {
      this.fail("57014", "terminating connection: no COPY data came");
      return [copyFail("the client has gone")];
    }
    const parts = [];
    while (this.#queue.length > 0) {
      parts.push(this.#shift());
      if (typeOf(parts.at(-1)) !== "d") break;
    }
    return parts;
  }

  /** Leave nothing behind for the next client: no transaction, no statement. */
  async #cleanUp() {
    this.#queue = [];
    const hidden = [];
    if (!this.#synced) hidden.push(sync());
    if (hidden.length > 0 || this.status !== "I") hidden.push(query("ROLLBACK"));
    const names = [...this.#statements.values()].map(({ name }) => name).filter(Boolean);
    if (names.length > 0) hidden.push(...names.map(closeStatement), sync());
    if (hidden.length > 0) await this.#bridge.collect(hidden);
    this.#statements.clear();
    this.#synced = true;
    this.status = "I";
  }

  async #recordSettings() {
    this.#changed = false;
    this.settings = await this.#bridge.sessionSettings(this.settings, [...this.#customNames]);
    await this.#report();
  }

  async #report() {
    this.#tell(await this.#bridge.valuesOf(REPORTED));
  }

  #tell(values) {
    const changed = Object.entries(values).filter(([name, value]) => (this.#reported[name] ?? "") !== value);
    this.#reported = { ...this.#reported, ...values };
    for (const [name, value] of changed) this.#send(parameterStatus(name, value), () => {});
  }

  /** The message as the engine gets it, and what must be run before it. */
  #translate(next) {
    const type = typeOf(next);
    if (type === "Q") return this.#translateQuery(next);
    if (type === "P") return this.#translateParse(next);
    if (type === "B") return this.#translateBind(next);
    if ((type === "D" || type === "C") && next[5] === "S".charCodeAt(0)) return this.#translateNamed(next, type);
    return { rewritten: next };
  }

  #translateQuery(next) {
    const { text } = cstring(next, 5);
    const rewritten = this.#inspect(text);
    this.#statements.delete("");
    return { rewritten: rewritten === text ? next : query(rewritten) };
  }

  #translateParse(next) {
    const name = cstring(next, 5);
    const sql = cstring(next, name.next);
    const known = this.#statements.get(name.text);
    const engineName = name.text === "" ? "" : (known?.name ?? this.#bridge.statementName());
    const rewritten = message("P", engineName, this.#inspect(sql.text), next.subarray(sql.next));
    if (known && name.text !== "") return { rewritten }; // the engine answers that it exists
    const statement = { name: engineName, parse: rewritten };
    this.#statements.set(name.text, statement);
    this.#bridge.prepared(statement);
    return { rewritten };
  }

  #translateBind(next) {
    const portal = cstring(next, 5);
    const name = cstring(next, portal.next);
    const statement = this.#statements.get(name.text);
    if (!statement) return { rewritten: next };
    const rewritten = message("B", portal.text, statement.name, next.subarray(name.next));
    return { rewritten, before: this.#bridge.missing(statement) };
  }

  #translateNamed(next, type) {
    const { text } = cstring(next, 6);
    const statement = this.#statements.get(text);
    if (!statement) return { rewritten: next };
    if (type === "C") this.#statements.delete(text);
    return {
      rewritten: message(type, Buffer.from("S"), statement.name),
      before: type === "D" ? this.#bridge.missing(statement) : undefined,
    };
  }

  /** Note what a statement does to the session; DEALLOCATE gets the engine's name. */
  #inspect(sql) {
    let afterUpdate = false;
    for (const [word] of sql.matchAll(/\b(?:update|set|reset|discard|set_config|deallocate)\b/gi)) {
      const keyword = word.toLowerCase();
      if (keyword === "deallocate" || keyword === "discard") sql = this.#deallocate(sql);
      if (keyword !== "update" && !(keyword === "set" && afterUpdate)) this.#changed = true;
      afterUpdate = keyword === "update";
    }
    if (!this.#changed) return sql;
    this.#noteCustomNames(sql);
    return sql.replace(RESET_USER, `SET SESSION AUTHORIZATION ${identifier(this.#parameters.user)}`);
  }

  #deallocate(sql) {
    if (/\b(?:deallocate\s+(?:prepare\s+)?all|discard\s+all)\b/i.test(sql)) {
      this.#statements.clear();
      this.#bridge.forgetStatements();
    }
    const [, head, quoted, plain] = /^(\s*deallocate\s+(?:prepare\s+)?)(?:"([^"]+)"|(\w+))\s*;?\s*$/i.exec(sql) ?? [];
    const name = quoted ?? plain?.toLowerCase();
    const statement = this.#statements.get(name);
    if (!statement) return sql;
    this.#statements.delete(name);
    return `${head}${statement.name}`;
  }

  /** pg_settings does not list settings such as `app.user`; their names are taken from the SQL. */
  #noteCustomNames(sql) {
    for (const [, name] of sql.matchAll(/(?:\bset\s+(?:session\s+|local\s+)?|set_config\s*\(\s*')([a-z_]\w*\.[\w.]+)/gi)) {
      this.#customNames.add(name);
    }
  }
}
