// A client of the biblioteca wire, version 1 (protocol/SPEC.md; section numbers below are its).

import { readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { decode, encode } from "@msgpack/msgpack";
import * as zmq from "zeromq";

const PROTOCOL = Buffer.from("NPC/1");
const TURN_MS = 1000; // without a connection before the next address is tried
const MESSAGE_TYPES = new Set(["accepted", "delta", "done", "error", "welcome", "pong", "notice"]);

/** A request that ended in an `error` message; `code`, `field`, `retryable`, `retryMs` as sent. */
export class Refusal extends Error {
  constructor(body) {
    super(body.message);
    this.name = "Refusal";
    this.code = body.code;
    this.field = body.field ?? null;
    this.retryable = body.retryable ?? false;
    this.retryMs = body.retry_ms ?? null;
  }
}
/** The server sent something that is no message, or out of order. */
export class FrameError extends Error {}
/** Nobody answers. */
export class NoServerError extends Error {}
/** One side doesn't accept the other's key. */
export class KeyRefusedError extends Error {}
/** The two sides share no protocol version. */
export class VersionError extends Error {}

/** Where the connection file is unless told otherwise (section 1.1). */
export function defaultPath() {
  if (process.env.BIBLIOTECA_CONNECTION) return process.env.BIBLIOTECA_CONNECTION;
  const runtime = process.env.XDG_RUNTIME_DIR;
  if (runtime) return join(runtime, "biblioteca", "default.json");
  return join(tmpdir(), `biblioteca-${process.getuid?.() ?? 0}`, "default.json");
}

/** One request and what came back. Iterate over it for its parts; `reply` is a promise. */
export class Call {
  #parts = [];
  #wake = () => {};
  #settle;

  constructor(envelope, cancel) {
    this.id = envelope.id;
    this.type = envelope.t;
    this.envelope = envelope;
    this.text = "";
    this.nextSeq = 0;
    this.begun = false;
    this.ended = false;
    this.error = null;
    this.cancel = cancel;
    this.reply = new Promise((resolve, reject) => (this.#settle = { resolve, reject }));
    this.reply.catch(() => {}); // also reported where the call is iterated over
  }

  /** Yields `{t, body}` for accepted, every delta, and the reply; leaving early cancels. */
  async *[Symbol.asyncIterator]() {
    try {
      for (;;) {
        while (this.#parts.length) yield this.#parts.shift();
        if (this.ended) break;
        await new Promise((resolve) => (this.#wake = resolve));
      }
    } finally {
      if (!this.ended) this.cancel();
    }
    if (this.error) throw this.error;
  }

  take(envelope) {
    const body = envelope.body ?? {};
    if (envelope.t === "error") return this.fail(errorOf(body));
    if (envelope.t === "accepted" && this.begun) return undefined; // seen before a resume
    if (envelope.t !== "accepted" && envelope.seq != null) {
      if (envelope.seq < this.nextSeq) return undefined; // likewise
      if (envelope.seq !== this.nextSeq) {
        return this.fail(new FrameError(`${this.id}: seq is ${envelope.seq}, ${this.nextSeq} was next`));
      }
      this.nextSeq += 1;
    }
    this.begun = true;
    if (envelope.t === "delta") this.text += body.text ?? "";
    this.#parts.push({ t: envelope.t, body });
    if (!["accepted", "delta"].includes(envelope.t)) {
      this.ended = true;
      this.#settle.resolve(body);
    }
    return this.#wake();
  }

  fail(error) {
    if (this.ended) return;
    this.ended = true;
    this.error = error;
    this.#settle.reject(error);
    this.#wake();
  }
}

function errorOf(body) {
  return body.code === "bad_version" ? new VersionError(body.message) : new Refusal(body);
}

/** A session with a server. Make one with `connect`. */
export class Client {
  #work;
  #calls = new Map();
  #unsent = [];
  #greeting = null;
  #numRequests = 0;
  #sending = Promise.resolve();
  #heardAt = Date.now();
  #pingedAt = null;
  #timer;
  #closed = false;
  #wasConnected = false;
  #connected = false;
  #wellAt = Date.now(); // when the server was last known to be there
  #addresses;
  #present = 0;
  #dialled = null;

  /** A connection is what its file holds: `work`, and perhaps `others`, `server_key`, `client_key`. */
  constructor(connection, options = {}) {
    this.connection = connection;
    this.#addresses = [connection, ...(connection.others ?? [])].map((one) => one.work);
    this.options = { name: "", timeoutMs: 5000, heartbeatMs: 1000, resumeMs: 30000, ...options };
    this.welcome = null;
    this.onNotice = () => {}; // called with {kind, message}
    this.onFault = () => {}; // called with errors that belong to no request
    this.#work = new zmq.Dealer({
      linger: 200,
      reconnectInterval: 100,
      reconnectMaxInterval: 2000,
      heartbeatInterval: 5000,
      heartbeatTimeout: 15000,
      immediate: this.#addresses.length > 1, // what is sent meanwhile waits for whichever server comes
    });
    if (connection.server_key) {
      const pair = connection.client_key ?? keyPair();
      this.#work.curveServerKey = connection.server_key;
      this.#work.curvePublicKey = pair.public ?? pair.publicKey;
      this.#work.curveSecretKey = pair.secret ?? pair.secretKey;
    }
    this.#watch();
    this.#dial();
    this.#read();
    this.#timer = setInterval(() => this.#tick(), Math.min(this.options.heartbeatMs, TURN_MS) / 2);
  }

  /** Of the server it now turns to: the first of the list or another one. */
  get address() {
    return this.#addresses[this.#present];
  }

  /** Opens the session; `connect` calls it. */
  async open() {
    const { timeoutMs } = this.options;
    const late = new NoServerError(`nobody answers at ${this.#everyAddress()}; is the server running?`);
    const timer = setTimeout(() => this.#giveUp(late), timeoutMs);
    try {
      await this.#greet().reply;
    } catch (error) {
      await this.close();
      throw error;
    } finally {
      clearTimeout(timer);
    }
    return this;
  }

  /** Sends a request and returns its call at once. `ttlMs` and `idem`: sections 5.1, 5.2. */
  start(t, body = {}, { ttlMs, idem } = {}) {
    this.#numRequests += 1;
    const envelope = { t, id: `j${this.#numRequests}`, body };
    if (ttlMs != null) envelope.ttl_ms = ttlMs;
    if (idem != null) envelope.idem = idem;
    const call = new Call(envelope, () => this.#closed || this.start("cancel", { target: call.id }));
    this.#calls.set(call.id, call);
    this.#post(envelope);
    return call;
  }

  /** Sends a request and waits for its reply. */
  request(t, body, options) {
    return this.start(t, body, options).reply;
  }

  /** Says something to a character: yields its words, piece by piece. */
  async *say(agent, text, fields = {}) {
    for await (const part of this.start("say", { agent, text, ...fields })) {
      if (part.t === "delta") yield part.body.text;
    }
  }

  /** Allows the server more deltas, where the options set a `credit` (section 5.5). */
  grant(deltas) {
    this.#post({ t: "credit", body: { deltas } });
  }

  /** Ends the session. */
  async close() {
    if (this.#closed) return;
    if (this.welcome) this.start("bye");
    this.#closed = true;
    clearInterval(this.#timer);
    this.#giveUp(new NoServerError("the client was closed"));
    await Promise.race([this.#sending, new Promise((resolve) => setTimeout(resolve, 200))]);
    this.#work.close();
  }

  #everyAddress() {
    return this.#addresses.join(" or ");
  }

  #dial() {
    this.#work.connect(this.address);
    this.#dialled = this.address;
  }

  #greet() {
    const { name, credit, resumeMs } = this.options;
    const hello = { versions: [1], client: name, resume_ms: resumeMs };
    if (credit != null) hello.credit = credit;
    if (this.welcome) Object.assign(hello, { session: this.welcome.session, token: this.welcome.token });
    this.#greeting = this.start("hello", hello);
    return this.#greeting;
  }

  #post(envelope) {
    if (this.#closed) return;
    const frames = [PROTOCOL, encode(envelope, { ignoreUndefined: true })];
    this.#sending = this.#sending
      .then(() => this.#work.send(frames))
      .catch((error) => this.#closed || this.onFault(error));
  }

  async #read() {
    try {
      for await (const frames of this.#work) this.#receive(frames);
    } catch (error) {
      if (!this.#closed) this.#giveUp(error);
    }
  }

  #receive(frames) {
    this.#heardAt = Date.now();
    this.#pingedAt = null;
    let envelope;
    try {
      if (frames.length !== 2 || !frames[0].equals(PROTOCOL)) throw new FrameError("not a message of NPC/1");
      envelope = decode(frames[1], { maxStrLength: 1 << 20, maxArrayLength: 65536, maxMapLength: 65536 });
    } catch (error) {
      this.onFault(error);
      return;
    }
    if (!MESSAGE_TYPES.has(envelope?.t)) return; // from a newer server (section 10)
    if (envelope.t === "notice") return this.onNotice(envelope.body ?? {});
    const call = this.#calls.get(envelope.re);
    if (!call) {
      if (envelope.t === "error" && envelope.re == null) this.onFault(errorOf(envelope.body ?? {}));
      return;
    }
    if (envelope.t === "error" && envelope.body?.code === "no_session") return this.#lostSession(call);
    call.take(envelope);
    if (call.ended) this.#calls.delete(call.id);
    if (call === this.#greeting && call.ended) this.#greeted(call);
  }

  /** The server doesn't know us (any more): hello again, then the call again (section 3). */
  #lostSession(call) {
    this.#calls.delete(call.id);
    if (call.type === "ping") call.fail(new NoServerError("the session is gone"));
    else this.#unsent.push(call);
    if (!this.#greeting) this.#greet();
  }

  #greeted(call) {
    this.#greeting = null;
    if (call.error) return this.#giveUp(call.error);
    call.reply.then((welcome) => {
      const first = this.welcome === null;
      this.welcome = welcome;
      const waiting = [...this.#calls.values()];
      for (const again of this.#unsent.splice(0)) this.#sendAgain(again);
      if (!first) for (const open of waiting) this.#takeUp(open, welcome.resumed);
    });
  }

  #sendAgain(call) {
    this.#calls.delete(call.id);
    this.#numRequests += 1;
    call.id = call.envelope.id = `j${this.#numRequests}`; // ids are used once
    this.#calls.set(call.id, call);
    this.#post(call.envelope);
  }

  /** What was under way when the connection was lost (section 5.4). */
  #takeUp(call, resumed) {
    if (["ping", "hello", "resume"].includes(call.type)) return;
    if (!resumed && call.envelope.idem != null && call.nextSeq === 0) return this.#sendAgain(call);
    if (!resumed) {
      this.#calls.delete(call.id);
      call.fail(new Refusal({ code: "no_session", message: "the server was restarted; send it again", retryable: true }));
      return;
    }
    this.start("resume", { target: call.id, seq: call.nextSeq }).reply.catch((error) => call.fail(error));
  }

  #tick() {
    const now = Date.now();
    const silent = this.#pingedAt !== null && now - this.#pingedAt > this.options.timeoutMs;
    if (silent) {
      this.#pingedAt = null;
      this.#heardAt = now;
      const seconds = this.options.timeoutMs / 1000;
      this.#giveUp(new NoServerError(`${this.#everyAddress()} has not answered for ${seconds} s`));
    } else if (this.#pingedAt === null && now - this.#heardAt > this.options.heartbeatMs) {
      if (this.#calls.size && this.welcome) {
        this.start("ping");
        this.#pingedAt = now;
      }
    }
    if (this.#addresses.length > 1) this.#turnIfGone(now, silent);
  }

  /** Goes to the next address, round and round, while nobody is there (section 1.1). */
  #turnIfGone(now, silent) {
    if (this.#connected && !silent) {
      this.#wellAt = now;
    } else if (silent || now - this.#wellAt > TURN_MS) {
      if (this.#dialled) this.#work.disconnect(this.#dialled);
      this.#dialled = null;
      this.#connected = false;
      this.#wellAt = now;
      this.#present = (this.#present + 1) % this.#addresses.length;
      try {
        this.#dial();
      } catch (error) {
        this.onFault(new NoServerError(`'${this.address}' is no address: ${error.message}`));
      }
    }
  }

  #giveUp(error) {
    this.#greeting = null;
    for (const call of [...this.#calls.values(), ...this.#unsent.splice(0)]) call.fail(error);
    this.#calls.clear();
  }

  /** The socket's own events tell a wrong key and a lost connection. */
  #watch() {
    const events = this.#work.events;
    const refused = () => this.#giveUp(new KeyRefusedError(
      `${this.address} refused the handshake: this client's key is unknown or revoked there, ` +
      "or the server's key is not the one expected"));
    events.on("handshake:error:auth", refused);
    events.on("handshake:error:protocol", refused);
    events.on("handshake:error:other", refused);
    events.on("disconnect", () => {
      this.#connected = false;
      if (!this.#wasConnected && this.connection.server_key) refused();
    });
    events.on("handshake", () => {
      if (this.#wasConnected && this.#greeting) this.#sendAgain(this.#greeting); // it went to the lost one
      else if (this.#wasConnected) this.#greet();
      this.#connected = this.#wasConnected = true;
    });
  }
}

function keyPair() {
  return zmq.curveKeyPair(); // the server will say that it doesn't know us
}

/**
 * Connects to the server that wrote this connection file (the default one, if none is named), or to
 * the one that a connection, such as `{work, others: [{work}, ...]}`, names.
 * Options: name, timeoutMs, heartbeatMs, resumeMs, credit.
 */
export async function connect(where = defaultPath(), options = {}) {
  const connection = typeof where === "object" ? where : await readConnection(where);
  return new Client(connection, options).open();
}

async function readConnection(path) {
  try {
    return JSON.parse(await readFile(path, "utf8"));
  } catch (error) {
    const hint = error.code === "ENOENT" ? "start one with 'biblioteca serve'" : error.message;
    throw new NoServerError(`no server's connection file at ${path}: ${hint}`);
  }
}
