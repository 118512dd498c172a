// Bodies and replies are plain objects; their fields are in protocol/SPEC.md, section 11.
export type Body = Record<string, unknown>;
export interface Options {
  name?: string;
  timeoutMs?: number;
  heartbeatMs?: number;
  resumeMs?: number;
  credit?: number;
}
/** What a connection file holds; `others` are tried in turn when `work` is gone. */
export interface Connection {
  work: string;
  others?: { work: string }[];
  server_key?: string | null;
  client_key?: { public: string; secret: string } | null;
}
export interface Part {
  t: "accepted" | "delta" | "done" | "welcome" | "pong";
  body: any;
}
export class Refusal extends Error {
  code: string;
  field: string | null;
  retryable: boolean;
  retryMs: number | null;
}
export class FrameError extends Error {}
export class NoServerError extends Error {}
export class KeyRefusedError extends Error {}
export class VersionError extends Error {}
export interface Call extends AsyncIterable<Part> {
  readonly id: string;
  readonly type: string;
  readonly text: string;
  readonly ended: boolean;
  readonly error: Error | null;
  readonly reply: Promise<any>;
  cancel(): void;
}
export class Client {
  constructor(connection: Connection, options?: Options);
  open(): Promise<Client>;
  readonly address: string;
  readonly welcome: any;
  onNotice: (notice: { kind: string; message: string }) => void;
  onFault: (error: Error) => void;
  start(t: string, body?: Body, options?: { ttlMs?: number; idem?: string }): Call;
  request(t: string, body?: Body, options?: { ttlMs?: number; idem?: string }): Promise<any>;
  say(agent: string, text: string, fields?: Body): AsyncGenerator<string>;
  grant(deltas: number): void;
  close(): Promise<void>;
}
export function connect(where?: string | Connection, options?: Options): Promise<Client>;
export function defaultPath(): string;
