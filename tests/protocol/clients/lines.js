// node lines.js CONNECTION TIMEOUT_S: says the lines of its input, each AGENT TEXT, one after the
// other; prints JSON once one is spoken, and once it has ended.
import { randomUUID } from "node:crypto";
import { createInterface } from "node:readline";
import { connect, NoServerError, Refusal } from "../../../protocol/clients/js/biblioteca.js";

function codeOf(error) {
  if (error instanceof Refusal) return error.code;
  if (error instanceof NoServerError) return "no_server";
  throw error;
}

const [path, timeoutS] = process.argv.slice(2);
const client = await connect(path, { timeoutMs: timeoutS * 1000 });
for await (const line of createInterface({ input: process.stdin })) {
  const [agent, ...words] = line.split(" ");
  const call = client.start("say", { agent, text: words.join(" ") }, { idem: randomUUID() });
  try {
    for await (const { t } of call) if (t === "delta" && call.nextSeq === 1) console.log('{"began": true}');
    console.log(JSON.stringify({ text: call.text, address: client.address }));
  } catch (error) {
    console.log(JSON.stringify({ error: codeOf(error), message: error.message }));
  }
}
await client.close();
