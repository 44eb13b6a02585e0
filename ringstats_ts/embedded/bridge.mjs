/**
 * The embedded TimescaleDB as a PostgreSQL server on a Unix socket.
 *
 *     node bridge.mjs --data DIR --socket DIR --modules NODE_MODULES
 *
 * Prints one line of JSON when it accepts connections; ends on SIGTERM, SIGINT, or when its stdin closes, which is
 * how it learns that its parent has gone. The caller holds the lock on the data directory. Ends with 0 after a clean
 * stop, else with 1: whatever was acknowledged is then in the WAL, and the next start recovers it.
 */

import fs from "node:fs";
import net from "node:net";
import path from "node:path";
import { parseArgs } from "node:util";
import { Engine } from "./engine.mjs";
import { closeStatement, copyFail, identifier, query, rowsOf } from "./protocol.mjs";
import { SUPERUSER, Session } from "./session.mjs";

const DATABASE = "postgres";
const CHECKPOINT_BYTES = 64 * 1024 * 1024;
const UPKEEP_SECONDS = 1;
const STOP_SECONDS = 20;

// The built-in command line sets these to what initdb needs.
const BASE = {
  allow_system_table_mods: "off",
  client_min_messages: "notice",
  enable_seqscan: "on",
  exit_on_error: "off",
  log_connections: "off",
  log_disconnections: "off",
  log_min_messages: "warning",
  search_path: '"$user", public',
  TimeZone: "UTC",
};

// The engine knows no user to reset to: RESET SESSION AUTHORIZATION does nothing.
const BECOME_SUPERUSER = `SET SESSION AUTHORIZATION ${SUPERUSER}`;

const literal = (text) => `E'${text.replaceAll("\\", "\\\\").replaceAll("'", "''")}'`;
const seconds = (name, otherwise) => Number(process.env[name] ?? otherwise);

class Bridge {
  limits = {
    checkpointIdleSeconds: seconds("TSSTATS_EMBEDDED_CHECKPOINT_IDLE_SECONDS", 120),
    idleSeconds: seconds("TSSTATS_EMBEDDED_IDLE_SECONDS", 30),
    readerSeconds: seconds("TSSTATS_EMBEDDED_READER_SECONDS", 60),
    statementSeconds: seconds("TSSTATS_EMBEDDED_STATEMENT_SECONDS", 900),
  };
  engine;
  versions = {};
  #sessions = new Set();
  #waiting = new Set();
  #owner = null;
  #stopping = false;
  #builtIn = {};
  #defaults = {};
  #inForce = null;
  #statements = 0;
  #prepared = new Set();
  #unnamed = null;
  #checkpointed = 0n;
  #lastUse = 0;
  #unchecked = false; // used since the last look at the WAL

  constructor(engine) {
    this.engine = engine;
  }

  accept(socket) {
    if (this.#stopping) return socket.destroy();
    this.#sessions.add(new Session(socket, this));
  }

  left(session) {
    this.#sessions.delete(session);
  }

  wants(session) {
    if (session === this.#owner) return;
    this.#waiting.add(session);
    this.#next();
  }

  async #next() {
    if (this.#owner || this.#waiting.size === 0) return;
    const [session] = this.#waiting;
    this.#waiting.delete(session);
    this.#owner = session;
    await session.turn();
    this.#owner = null;
    if (session instanceof Session) this.#used();
    if (session.waiting) this.#waiting.add(session);
    this.#next();
  }

  #used() {
    this.#lastUse = Date.now();
    this.#unchecked = true;
  }

  /** Run `work` with the engine, in turn with the clients. */
  exclusive(work) {
    return new Promise((resolve) => this.wants({ turn: async () => resolve(await work()), waiting: false }));
  }

  /** The whole answer to `parts`. */
  async collect(parts) {
    const chunks = [];
    const sink = (chunk, taken) => (chunks.push(chunk), taken());
    const tail = await this.engine.run(parts, sink, async () => [copyFail("no data")]);
    return Buffer.concat([...chunks, Buffer.from(tail)]);
  }

  async rows(sql) {
    return rowsOf(await this.collect([query(sql)]));
  }

  /** An answer that does not end with ReadyForQuery means that we no longer know what the engine is doing. */
  checkReady(tail) {
    if (tail.length !== 6 || tail[0] !== "Z".charCodeAt(0)) die("the engine's answer has no end");
  }

  async open() {
    for (const [name, value] of await this.rows("SELECT name, reset_val FROM pg_settings")) this.#builtIn[name] = value;
    Object.assign(this.#builtIn, BASE);
    await this.engine.setDefaults(BASE);
    await this.rows("RESET ALL");
    // Nothing is preloaded: until a function of it was called, Community features are refused.
    await this.rows("LOAD 'timescaledb'; CREATE EXTENSION IF NOT EXISTS timescaledb");
    await this.rows("SELECT public.time_bucket('1 day', now())");
    const [[timescaledb]] = await this.rows("SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'");
    this.versions = { postgresql: this.#builtIn.server_version, timescaledb };
    this.#inForce = settingsKey({ user: SUPERUSER, role: "none", defaults: {}, set: {} });
    const [[redo]] = await this.rows("SELECT redo_lsn - '0/0' FROM pg_control_checkpoint()");
    this.#checkpointed = BigInt(redo);
  }

  /** Start a session: its user, database and settings. Returns [code, message] if it is refused. */
  async admit(session, user, database, settings) {
    if (database !== DATABASE && database !== user) return ["3D000", `database "${database}" does not exist`];
    const [role] = await this.rows(`SELECT rolcanlogin FROM pg_catalog.pg_roles WHERE rolname = ${literal(user)}`);
    if (!role) return ["28000", `role "${user}" does not exist`];
    if (role[0] !== "t") return ["28000", `role "${user}" is not permitted to log in`];
    const defaults = { ...(await this.#storedSettings(user)), ...settings };
    const refused = await this.#applyDefaults(defaults);
    const unusable = refused.find((name) => name in settings);
    if (unusable) return ["22023", `invalid value for parameter "${unusable}": "${settings[unusable]}"`];
    session.settings = { user, role: "none", defaults, set: {} };
    await this.enter(session);
    return null;
  }

  /** ALTER ROLE SET and ALTER DATABASE SET, the more special last. */
  async #storedSettings(user) {
    const rows = await this.rows(`
      SELECT unnest(setconfig)
      FROM pg_db_role_setting
      WHERE setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
        AND setrole IN (0, (SELECT oid FROM pg_roles WHERE rolname = ${literal(user)}))
      ORDER BY setrole <> 0, setdatabase <> 0`);
    return Object.fromEntries(rows.map(([pair]) => /^(.*?)=(.*)$/s.exec(pair).slice(1)));
  }

  async #applyDefaults(defaults) {
    const dropped = Object.keys(this.#defaults).filter((name) => !(name in defaults) && name in this.#builtIn);
    this.#defaults = defaults;
    this.#inForce = null;
    const restored = Object.fromEntries(dropped.map((name) => [name, this.#builtIn[name]]));
    return this.engine.setDefaults({ ...restored, ...defaults });
  }

  /** Put the session's settings in force, if those of another are. */
  async enter({ settings }) {
    const key = settingsKey(settings);
    if (key === this.#inForce) return;
    await this.rows(BECOME_SUPERUSER);
    await this.#applyDefaults(settings.defaults);
    await this.rows("RESET ALL");
    for (const [name, value] of Object.entries(settings.set)) {
      const set = `SELECT pg_catalog.set_config(${literal(name)}, ${literal(value)}, false)`;
      await this.rows(set).catch(() => {}); // one that cannot be set again, such as a dropped extension's
    }
    // These must not fail in silence: the session would be the superuser's.
    if (settings.user !== SUPERUSER) await this.rows(`SET SESSION AUTHORIZATION ${identifier(settings.user)}`);
    if (settings.role !== "none") await this.rows(`SET ROLE ${identifier(settings.role)}`);
    this.#inForce = key;
  }

  /** What the session that owns the engine has set. */
  async sessionSettings({ defaults }, customNames) {
    const own = await this.rows(`
      SELECT name, setting
      FROM pg_catalog.pg_settings
      WHERE source = 'session'
        AND name NOT IN ('transaction_deferrable', 'transaction_isolation', 'transaction_read_only')`);
    const custom = await this.valuesOf(customNames);
    const [[user, role]] = await this.rows("SELECT session_user, pg_catalog.current_setting('role')");
    const kept = Object.entries(custom).filter(([, value]) => value !== null && value !== "");
    const settings = { user, role, defaults, set: Object.fromEntries([...own, ...kept]) };
    this.#inForce = settingsKey(settings);
    return settings;
  }

  async valuesOf(names) {
    if (names.length === 0) return {};
    const rows = await this.rows(`
      SELECT name, pg_catalog.current_setting(name, true)
      FROM pg_catalog.unnest(ARRAY[${names.map(literal).join(", ")}]) AS name`);
    return Object.fromEntries(rows);
  }

  statementName() {
    return `tsstats_${++this.#statements}`;
  }

  prepared(statement) {
    if (statement.name === "") this.#unnamed = statement;
    else this.#prepared.add(statement.name);
  }

  forgetStatements() {
    this.#prepared.clear();
    this.#unnamed = null;
  }

  /** What brings a statement back that another client's Parse or DISCARD has taken away. */
  missing(statement) {
    const there = statement.name === "" ? this.#unnamed === statement : this.#prepared.has(statement.name);
    if (there) return undefined;
    this.prepared(statement);
    return [closeStatement(statement.name), statement.parse];
  }

  /** Once a second: end a statement that never ends, keep the WAL short. */
  upkeep() {
    const { busySince } = this.engine;
    const limit = this.limits.statementSeconds;
    if (busySince && Date.now() - busySince > limit * 1000) die(`a statement ran for more than ${limit} s`);
    if (this.#unchecked && !this.#stopping) this.exclusive(() => this.#checkpointIfDue());
  }

  async #checkpointIfDue() {
    const idle = Date.now() - this.#lastUse > this.limits.checkpointIdleSeconds * 1000;
    const since = (await this.#walPosition()) - this.#checkpointed;
    if (since > CHECKPOINT_BYTES || (idle && since > 0n)) await this.checkpoint();
    if (idle) this.#unchecked = false;
  }

  async #walPosition() {
    const [[bytes]] = await this.rows("SELECT pg_current_wal_insert_lsn() - '0/0'");
    return BigInt(bytes);
  }

  async checkpoint() {
    await this.rows(BECOME_SUPERUSER);
    this.#inForce = null;
    await this.rows("CHECKPOINT");
    this.#checkpointed = await this.#walPosition();
  }

  async stop() {
    if (this.#stopping) return;
    this.#stopping = true;
    setTimeout(() => die(`a statement did not end within ${STOP_SECONDS} s`), STOP_SECONDS * 1000);
    for (const session of this.#sessions) session.fail("57P01", "terminating connection due to administrator command");
    await this.exclusive(() => this.close());
    process.exit(0);
  }

  async close() {
    await this.checkpoint();
    await this.engine.stop();
  }
}

const settingsKey = (settings) => JSON.stringify(settings);

function die(reason) {
  fs.writeSync(2, `embedded database: ${reason}\n`);
  // Not process.exit, which waits for the worker.
  process.kill(process.pid, "SIGKILL");
}

/** Made beside the final place and synced as a whole: an interrupted initdb is never used. */
async function initialise(directory, modules) {
  const final = path.join(directory, "pgdata");
  if (fs.existsSync(final)) return;
  const fresh = `${final}.new`;
  fs.rmSync(fresh, { recursive: true, force: true });
  const initdb = new Engine({ modules, dataDir: fresh, database: "template1", durable: false }, die);
  await initdb.start();
  await initdb.stop();
  await syncTree(fresh);
  fs.renameSync(fresh, final);
  await syncFile(directory);
}

/** Many at once: the file system then commits its journal once for all of them. */
async function syncTree(directory) {
  const names = fs.readdirSync(directory, { recursive: true });
  const paths = [directory, ...names.map((name) => path.join(directory, name))];
  const syncRest = async () => {
    for (let next; (next = paths.pop()); ) await syncFile(next);
  };
  await Promise.all(Array.from({ length: 64 }, syncRest));
}

async function syncFile(file) {
  const handle = await fs.promises.open(file);
  await handle.sync();
  await handle.close();
}

async function main() {
  const { values } = parseArgs({
    options: { data: { type: "string" }, socket: { type: "string" }, modules: { type: "string" } },
  });
  process.umask(0o077);
  let bridge = null;
  process.stdin.on("end", () => (bridge ? bridge.stop() : process.exit(1))).resume();
  const durable = process.env.TSSTATS_EMBEDDED_SYNC !== "off";
  await initialise(values.data, values.modules);
  const dataDir = path.join(values.data, "pgdata");
  const engine = new Engine({ modules: values.modules, dataDir, database: DATABASE, durable }, die);
  await engine.start();
  const opened = new Bridge(engine);
  await opened.open();
  bridge = opened;
  for (const signal of ["SIGTERM", "SIGINT"]) process.on(signal, () => bridge.stop());
  setInterval(() => bridge.upkeep(), UPKEEP_SECONDS * 1000);
  listen(bridge, path.join(values.socket, ".s.PGSQL.5432"));
}

function listen(bridge, socket) {
  fs.rmSync(socket, { force: true });
  const server = net.createServer({ noDelay: true }, (client) => bridge.accept(client));
  server.listen(socket, () => {
    fs.chmodSync(socket, 0o600);
    console.log(JSON.stringify(bridge.versions));
  });
}

process.on("uncaughtException", (error) => die(error.stack));
process.on("unhandledRejection", (error) => die(error?.stack ?? String(error)));
await main();
