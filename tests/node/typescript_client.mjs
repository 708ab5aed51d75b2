// The TypeScript client, compiled, against a vault: by itself, in Express, in the Vercel AI SDK, and as an admin.
// Reads its facts from PLACE (JSON), prints one JSON line for each.
import express from "express";
import { generateText, stepCountIs, tool } from "ai";
import { MockLanguageModelV3 } from "ai/test";
import { z } from "zod";
import { pathToFileURL } from "node:url";
import { inspect } from "node:util";

const place = JSON.parse(process.env.PLACE);
const load = (name) => import(pathToFileURL(`${place.dist}/${name}.js`).href);
const { Vault, ConnectionNeeded, actingFor } = await load("index");
const { withToken } = await load("ai");
const { upstreamToken } = await load("express");
const { AdminClient } = await load("admin");

const print = (name, said) => console.log(JSON.stringify({ name, said }));
const scopes = ["channels:history"];
const vault = new Vault(place.url, { clientId: place.client_id, clientSecret: place.client_secret });

try {
  const token = await vault.token("slack", { scopes, subject: place.subject });
  const again = await vault.token("slack", { scopes, subject: place.subject });
  print("token", token === again ? token.scopes.join(" ") : "not kept");
  const { apiBaseUrl, value } = token;
  const works = (await fetch(`${apiBaseUrl}/auth.test`, { headers: { authorization: `Bearer ${value}` } })).status !== 401;
  const texts = [inspect(token), inspect({ token }, { showHidden: true }), inspect(vault), JSON.stringify(token)];
  print("shown", { works, leaks: texts.filter((one) => one.includes(value)), texts: texts.filter((_, at) => at !== 2) });
} catch (error) {
  print("token", error instanceof ConnectionNeeded ? error.connectUri : String(error));
}

const app = express();
app.get("/", upstreamToken(vault, "slack", { scopes }), (request, response) => {
  response.json({ scopes: request.upstreamToken.scopes });
});
const listening = app.listen(0, "127.0.0.1");
await new Promise((done) => listening.once("listening", done));
const at = `http://127.0.0.1:${listening.address().port}/`;
print("express-bare", (await fetch(at)).status);
print("express", await (await fetch(at, { headers: { authorization: `Bearer ${place.subject}` } })).json());
listening.close();

const usage = { inputTokens: { total: 1 }, outputTokens: { total: 1 } };
let step = 0;
const model = new MockLanguageModelV3({
  doGenerate: async () => {
    step += 1;
    const call = { type: "tool-call", toolCallId: "1", toolName: "look", input: JSON.stringify({ channel: "#general" }) };
    const content = step === 1 ? [call] : [{ type: "text", text: "done" }];
    const reason = step === 1 ? "tool-calls" : "stop";
    return { content, finishReason: { unified: reason, raw: reason }, usage, warnings: [] };
  },
});
const look = tool({
  description: "Look",
  inputSchema: z.object({ channel: z.string() }),
  execute: withToken(vault, "slack", { scopes }, async (input, token) => `${input.channel} ${token.scopes.join(" ")}`),
});
const result = await actingFor(place.subject, () =>
  generateText({ model, prompt: "look", tools: { look }, stopWhen: stepCountIs(2) }),
);
print("ai", result.steps[0].toolResults[0].output);

if (place.admin_id) {
  const admin = new AdminClient(place.url, { clientId: place.admin_id, clientSecret: place.admin_secret });
  const made = await admin.addPerson({ name: "from-typescript" });
  const found = await admin.listPeople({ find: "from-" });
  await admin.deletePerson(made.person.id);
  const gone = await admin.getPerson(made.person.id).catch((error) => error.code);
  print("admin", [found.items.map((one) => one.name).join(), gone]);
}
