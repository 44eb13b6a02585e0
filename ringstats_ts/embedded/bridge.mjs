/**
 * The embedded TimescaleDB as a PostgreSQL server on a Unix socket.
 *
 *     node bridge.mjs --socket DIR --modules NODE_MODULES --held DESCRIPTORS [--create]
 *
 * Runs in the data directory, of which its caller holds the lock: the descriptors are those of the directory and of
 * `pgdata` in it. Everything is opened from there and not by a full path, so that a directory which is moved keeps
 * its database, and one that is put in its place is not touched.
 *
 * Prints one line of JSON when it accepts connections, or has created the database; ends on SIGTERM, SIGINT, or when
 * its stdin closes, which is how it learns that its parent has gone. Ends with 0 after a clean stop, else with 1:
 * whatever was acknowledged is then in the WAL, and the next start recovers it.
 */

import fs from "node:fs";
import net from "node:net";
import path from "node:path";
import { parseArgs } from "node:util";
import { enableChecksums } from "./checksums.mjs";
import { Engine } from "./engine.mjs";
import { closeStatement, copyFail, identifier, query, rowsOf } from "./protocol.mjs";
import { REPORTED, SUPERUSER, Session } from "./session.mjs";

const DATABASE = "postgres";
const DIRECTORY = "pgdata";
const CHECKPOINT_BYTES = 64 * 1024 * 1024;
const EXPECTED_STARTS = 1000;
const REFUSE_MILLISECONDS = 250;
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
  // A statement without an end would fill the disk, for which nobody takes a post.
  temp_file_limit: "2GB",
  TimeZone: "UTC",
};

// The engine knows no user to reset to: RESET SESSION AUTHORIZATION does nothing.
const BECOME_SUPERUSER = `SET SESSION AUTHORIZATION ${SUPERUSER}`;

const literal = (text) => `E'${text.replaceAll("\\", "\\\\").replaceAll("'", "''")}'`;
const limit = (name, otherwise) => Number(process.env[name] ?? otherwise);

class Bridge {
  limits = {
    checkpointIdleSeconds: limit("TSSTATS_EMBEDDED_CHECKPOINT_IDLE_SECONDS", 120),
    freeBytes: limit("TSSTATS_EMBEDDED_FREE_BYTES", 300_000_000),
    goneSeconds: limit("TSSTATS_EMBEDDED_GONE_SECONDS", 5),
    idleSeconds: limit("TSSTATS_EMBEDDED_IDLE_SECONDS", 30),
    readerSeconds: limit("TSSTATS_EMBEDDED_READER_SECONDS", 60),
    statementSeconds: limit("TSSTATS_EMBEDDED_STATEMENT_SECONDS", 900),
    waitSeconds: limit("TSSTATS_EMBEDDED_WAIT_SECONDS", 60),
  };
  engine;
  full = "";
  versions = {};
  #sessions = new Set();
  #waiting = new Set();
  #owner = null;
  #stopping = false;
  #builtIn = {};
  #reported = {};
  #expected = new Map();
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
    this.#reported = await this.valuesOf(REPORTED);
    await this.#lookAtDisk();
    const [[redo]] = await this.rows("SELECT redo_lsn - '0/0' FROM pg_control_checkpoint()");
    this.#checkpointed = BigInt(redo);
  }

  /** Start a session: its user, database and settings. Returns [code, message] if it is refused. */
  async admit(session, { user, database, settings }) {
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

  /** What a client that starts so will be told of its parameters, as far as that is known without the engine. */
  expected(start) {
    const known = this.#expected.get(JSON.stringify(start));
    if (known) return known;
    const asked = Object.fromEntries(Object.entries(start.settings).map(([name, value]) => [name.toLowerCase(), value]));
    const isSuperuser = start.user === SUPERUSER ? "on" : "off";
    const values = { ...this.#reported, session_authorization: start.user, is_superuser: isSuperuser };
    for (const name of REPORTED) values[name] = asked[name.toLowerCase()] ?? values[name];
    return values;
  }

  remember(start, values) {
    if (this.#expected.size >= EXPECTED_STARTS) this.#expected.clear();
    this.#expected.set(JSON.stringify(start), values);
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

  /** Once a second: end a statement that never ends or that nobody waits for, keep the WAL short. */
  upkeep() {
    const { busySince } = this.engine;
    const { goneSeconds, statementSeconds } = this.limits;
    const longAgo = (moment, bound) => moment && Date.now() - moment > bound * 1000;
    if (longAgo(busySince, statementSeconds)) die(`a statement ran for more than ${statementSeconds} s`);
    // Nothing else stops it, and everybody waits for it. What it did is not committed, or as good as a lost answer.
    const gone = longAgo(this.#owner?.closedAt, goneSeconds);
    if (busySince && gone) die(`a statement went on for ${goneSeconds} s after its client had gone`);
    this.#owner?.listen?.();
    this.#lookAtDisk();
    if (this.#unchecked && !this.#stopping) this.exclusive(() => this.#checkpointIfDue());
  }

  /** Refuse what has waited too long for the engine. */
  refuseLate() {
    for (const session of this.#waiting) session.giveUpIfDue?.(this.limits.waitSeconds);
  }

  /** Clients are told while there still is room to checkpoint, to vacuum and to drop what is old. */
  async #lookAtDisk() {
    const { bavail, bsize } = await fs.promises.statfs(".");
    const [free, wanted] = [bavail * bsize, this.limits.freeBytes].map((bytes) => Math.floor(bytes / 1e6));
    this.full = free < wanted ? `${free} MB are free of the ${wanted} MB that are kept` : "";
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
async function create(modules) {
  const [fresh, final] = [`${DIRECTORY}.new`, DIRECTORY];
  fs.rmSync(fresh, { recursive: true, force: true });
  fs.mkdirSync(fresh);
  process.chdir(fresh);
  const initdb = new Engine({ modules, database: "template1", durable: false }, die);
  await initdb.start();
  await initdb.stop();
  enableChecksums(".");
  await syncTree(".");
  process.chdir("..");
  fs.renameSync(fresh, final);
  await syncFile(".");
}

/** What a server removes when it starts, which this one does not: the spilled rows of statements that were cut off. */
function removeTemporaryFiles() {
  const spaces = fs.readdirSync("pg_tblspc").filter((name) => fs.lstatSync(`pg_tblspc/${name}`).isDirectory());
  const versions = spaces.flatMap((space) => fs.readdirSync(`pg_tblspc/${space}`).map((name) => `pg_tblspc/${space}/${name}`));
  for (const parent of ["base", ...versions]) fs.rmSync(`${parent}/pgsql_tmp`, { recursive: true, force: true });
}

/** The directory that we are in must be the one that is locked, not another that has its name by now. */
function checkHeld(descriptor) {
  const [here, held] = [fs.statSync("."), fs.fstatSync(descriptor)];
  if (here.ino !== held.ino || here.dev !== held.dev) die("the data directory is not the one that is locked");
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
  const text = { type: "string" };
  const { values } = parseArgs({ options: { socket: text, modules: text, held: text, create: { type: "boolean" } } });
  const [directory, database] = values.held.split(",").map(Number);
  process.umask(0o077);
  let bridge = null;
  process.stdin.on("end", () => (bridge ? bridge.stop() : die("it was not wanted any longer"))).resume();
  checkHeld(directory);
  if (values.create) {
    await create(values.modules);
    return console.log("{}");
  }
  process.chdir(DIRECTORY);
  checkHeld(database);
  removeTemporaryFiles();
  const durable = process.env.TSSTATS_EMBEDDED_SYNC !== "off";
  const engine = new Engine({ modules: values.modules, database: DATABASE, durable }, die);
  await engine.start();
  const opened = new Bridge(engine);
  await opened.open();
  bridge = opened;
  for (const signal of ["SIGTERM", "SIGINT"]) process.on(signal, () => bridge.stop());
  setInterval(() => bridge.upkeep(), UPKEEP_SECONDS * 1000);
  setInterval(() => bridge.refuseLate(), REFUSE_MILLISECONDS);
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
