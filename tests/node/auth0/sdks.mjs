// An application on @auth0/nextjs-auth0, an agent's tool on @auth0/ai-vercel and @auth0/ai-langchain, and an administrator's
// program on auth0, as published. Arguments: domain, client id, client secret, the application's address, id and secret of a service account.
import { createRequire } from 'node:module';
import { Auth0Client } from '@auth0/nextjs-auth0/server';
import { ManagementClient } from 'auth0';
import { AuthenticationClient } from 'auth0/legacy';
import { NextRequest, NextResponse } from 'next/server.js';
import { main, open, say } from '../lines.mjs';

// Their ES modules import files without extensions, which only bundlers resolve. @auth0/ai-langchain needs an older
// @auth0/ai.
const require = createRequire(import.meta.url);
const { tool } = require('ai');
const { z } = require('zod');
const langchain = require('@auth0/ai-langchain');
const { tool: langchainTool } = require('@langchain/core/tools');
const { Auth0AI, getAccessTokenFromTokenVault, setAIContext } = require('@auth0/ai-vercel');

const [domain, clientId, clientSecret, appBaseUrl, serviceId, serviceSecret] = process.argv.slice(2);
const connection = 'sign-in-with-slack';
const cookies = new Map();

const next = new Auth0Client({
  domain: `https://${domain}`, // with a port, this and the switch below are needed; TLS is used anyway
  allowInsecureRequests: true,
  clientId,
  clientSecret,
  secret: 'x'.repeat(64),
  appBaseUrl,
  enableConnectAccountEndpoint: true,
  authorizationParameters: { scope: 'openid profile email offline_access' },
});

function request(url) {
  const cookie = [...cookies].map(([name, value]) => `${name}=${value}`).join('; ');
  return new NextRequest(new URL(url, appBaseUrl), { headers: { cookie } });
}

function keep(answer) {
  for (const { name, value } of answer.cookies.getAll()) {
    if (value) cookies.set(name, value);
    else cookies.delete(name);
  }
}

/** Make a call that may change the session, as middleware does. */
async function within(call) {
  const answer = new NextResponse();
  const result = await call(request('/'), answer);
  keep(answer);
  return result;
}

/** Send a request to the mounted routes; returns where the browser goes next. */
async function visit(url) {
  const answer = await next.middleware(request(url));
  keep(answer);
  const location = answer.headers.get('location');
  return location ?? `HTTP ${answer.status} ${await answer.text()}`;
}

async function refusal(work) {
  try {
    await work;
    return 'accepted';
  } catch (error) {
    return error.cause?.code ?? error.error ?? error.code ?? error.message;
  }
}

async function called(refreshToken, ...scopes) {
  const auth0 = new Auth0AI({ auth0: { domain, clientId, clientSecret } });
  const protect = auth0.withTokenVault({ connection, scopes, refreshToken: async () => refreshToken });
  const made = protect(
    tool({ description: 'Posts', inputSchema: z.object({}), execute: async () => getAccessTokenFromTokenVault() }),
  );
  try {
    return { token: await made.execute({}, { toolCallId: '1', messages: [] }) };
  } catch (error) {
    return { interrupt: error.code, required: error.requiredScopes?.toSorted() };
  }
}

async function calledInGraph(refreshToken, ...scopes) {
  const protect = new langchain.Auth0AI({ auth0: { domain, clientId, clientSecret } }).withTokenForConnection({ connection, scopes });
  const settings = { name: 'post', description: 'Posts', schema: z.object({}) };
  const made = protect(langchainTool(async () => langchain.getAccessTokenForConnection(), settings));
  try {
    return { token: await made.invoke({}, { configurable: { thread_id: '1', _credentials: { refreshToken } } }) };
  } catch (error) {
    const [{ value }] = error.interrupts ?? [{ value: { code: error.message } }];
    return { interrupt: value.code, required: value.requiredScopes?.toSorted() };
  }
}

await main(async () => {
  setAIContext({ threadID: '1' });
  await visit(await open(await visit('/auth/login')));
  const session = await next.getSession(request('/'));
  const { refreshToken } = session.tokenSet;
  const token = () => within((...sides) => next.getAccessTokenForConnection({ connection }, ...sides));
  const found = { subject: session.user.sub, before: await refusal(token()) };
  found.interrupt = await called(refreshToken, 'chat:write');
  found.interruptInGraph = await calledInGraph(refreshToken, 'chat:write');

  const asked = new URLSearchParams({ connection, returnTo: '/done' });
  for (const scope of ['chat:write', 'channels:read']) asked.append('scopes', scope);
  found.connected = await visit(await open(await visit(`/auth/connect?${asked}`)));
  found.listed = await within((...sides) => next.getConnectedAccounts(...sides));
  await open(`${appBaseUrl}/fill`); // this connects more accounts for the person
  found.many = (await within((...sides) => next.getConnectedAccounts(...sides))).length;
  await open(`${appBaseUrl}/empty`);
  found.token = await token();
  found.tool = await called(refreshToken, 'chat:write');
  found.toolInGraph = await calledInGraph(refreshToken, 'chat:write');
  found.more = await called(refreshToken, 'chat:write', 'users:read');

  const login = new AuthenticationClient({ domain, clientId, clientSecret });
  const exchange = { connection, subject_token: refreshToken, client_id: clientId };
  found.legacy = (await login.oauth.tokenForConnection(exchange)).data;
  found.wrong = await refusal(login.oauth.tokenForConnection({ ...exchange, subject_token: 'unknown' }));
  const management = new ManagementClient({ domain, clientId: serviceId, clientSecret: serviceSecret });
  found.administered = [];
  for await (const account of await management.users.connectedAccounts.list(session.user.sub)) {
    found.administered.push(account);
  }

  await within((...sides) => next.disconnectAccount({ connection }, ...sides));
  found.after = await refusal(token());
  say(found);
});
