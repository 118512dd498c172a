// The client as a program for `biblioteca conform --client` (see protocol/conformance).
import * as biblioteca from "./biblioteca.js";

const ERRORS = [
  [biblioteca.VersionError, "version"],
  [biblioteca.KeyRefusedError, "key_refused"],
  [biblioteca.NoServerError, "no_server"],
  [biblioteca.FrameError, "bad_frame"],
];

async function say(path) {
  let client;
  try {
    client = await biblioteca.connect(path, { timeoutMs: 3000 });
    const call = client.start("say", { agent: "echo", text: "Good evening." });
    let pieces = 0;
    for await (const part of call) pieces += part.t === "delta";
    const reply = await call.reply;
    return { text: reply.text, pieces, seed: reply.seed };
  } catch (error) {
    if (error instanceof biblioteca.Refusal) return { error: error.code };
    const known = ERRORS.find(([kind]) => error instanceof kind);
    if (!known) throw error;
    return { error: known[1] };
  } finally {
    await client?.close();
  }
}

console.log(JSON.stringify(await say(process.argv[2])));
