// node example.js [AGENT] [TEXT]: says one line to a character of a running server.
import { connect } from "./biblioteca.js";

const client = await connect();
const { agents } = await client.request("agents");
const agent = process.argv[2] ?? agents.find((info) => info.tier === "npc").agent;
for await (const piece of client.say(agent, process.argv[3] ?? "Good evening.")) process.stdout.write(piece);
process.stdout.write("\n");
await client.close();
