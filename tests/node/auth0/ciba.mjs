// Agents' tools that ask their person in the background, with @auth0/ai-vercel, @auth0/ai-langchain and
// @auth0/ai-llamaindex as published. Arguments: domain, client id, client secret, the person's ID.
import { createRequire } from 'node:module';
import { main, open, say } from '../lines.mjs';

const require = createRequire(import.meta.url);
const { tool } = require('ai');
const { z } = require('zod');
const { tool: langchainTool } = require('@langchain/core/tools');
const { FunctionTool } = require('llamaindex');
const langchain = require('@auth0/ai-langchain');
const llamaindex = require('@auth0/ai-llamaindex');
const vercel = require('@auth0/ai-vercel');

const [domain, clientId, clientSecret, sub] = process.argv.slice(2);
const auth0 = { domain, clientId, clientSecret };
const inputSchema = z.object({ count: z.number() });
const asking = {
  scopes: ['tools'],
  userID: async () => sub,
  bindingMessage: async ({ count }) => `Buy ${count} shares`,
  requestedExpiry: 120,
};

function told(credentials) {
  return { token: Boolean(credentials.accessToken), scopes: credentials.scopes?.toSorted() ?? credentials.scope };
}

async function refusal(work) {
  try {
    return await work();
  } catch (error) {
    return error.interrupts?.[0].value.code ?? error.code ?? error.message;
  }
}

async function withVercel(toolCallId, answer, authorizationDetails) {
  const protect = new vercel.Auth0AI({ auth0 }).withAsyncAuthorization({ ...asking, authorizationDetails });
  const execute = async () => told(vercel.getAsyncAuthorizationCredentials());
  const made = protect(tool({ description: 'Buys', inputSchema, execute }));
  const call = () => refusal(() => made.execute({ count: 3 }, { toolCallId, messages: [] }));
  const before = await call();
  await open(`https://app.example/${answer}`);
  const after = await call();
  return [before, after.code ?? after];
}

async function withLangchain() {
  const protect = new langchain.Auth0AI({ auth0 }).withAsyncUserConfirmation(asking);
  const settings = { name: 'buy', description: 'Buys', schema: inputSchema };
  const made = protect(langchainTool(async () => told(langchain.getCIBACredentials()), settings));
  const call = () => refusal(() => made.invoke({ count: 4 }, { configurable: { thread_id: '1', tool_call_id: '1' } }));
  const before = await call();
  await open('https://app.example/allow');
  return [before, await call()];
}

/** These tools get a new call ID each time, so they wait instead of being called again. */
async function withLlamaindex() {
  const onAuthorizationRequest = async () => open('https://app.example/allow');
  const protect = new llamaindex.Auth0AI({ auth0 }).withAsyncAuthorization({ ...asking, onAuthorizationRequest });
  const run = async () => told(llamaindex.getAsyncAuthorizationCredentials());
  const made = protect(FunctionTool.from(run, { name: 'buy', description: 'Buys', parameters: inputSchema }));
  return refusal(() => made.call({ count: 5 }));
}

await main(async () => {
  vercel.setAIContext({ threadID: '1' });
  llamaindex.setAIContext({ threadID: '1' });
  say({
    vercel: await withVercel('1', 'allow', [{ type: 'payment', amount: '12.50' }]),
    denied: await withVercel('2', 'deny'),
    langchain: await withLangchain(),
    llamaindex: await withLlamaindex(),
  });
});
