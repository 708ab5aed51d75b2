// Applications on @auth0/auth0-server-js, alone, in Hono (@auth0/auth0-hono), and in h3 with the routes and the composable
// of @auth0/auth0-nuxt, as published. Arguments: domain, client id, client secret, the application's address.
import { ServerClient } from '@auth0/auth0-server-js';
import { auth, requiresAuth } from '@auth0/auth0-hono';
import { Hono } from 'hono';
import { createApp, createRouter, defineEventHandler, toWebHandler } from 'h3';
import { main, open, say } from '../lines.mjs';
import { config } from './nuxt_runtime.mjs';

const [domain, clientId, clientSecret, appBaseUrl] = process.argv.slice(2);
const connection = 'sign-in-with-slack';
const secret = 'x'.repeat(64);
const scope = 'openid profile email offline_access';
const me = `https://${domain}/me/v1/connected-accounts`;
const callback = `${appBaseUrl}/auth/callback`;

async function refusal(work) {
  try {
    await work;
    return 'accepted';
  } catch (error) {
    return error.cause?.error ?? error.cause?.code ?? error.code ?? error.message;
  }
}

/** A browser at one application: keeps cookies and follows no redirects. */
function browser(answerOf) {
  const cookies = new Map();
  return async (url) => {
    const cookie = [...cookies].map(([name, value]) => `${name}=${value}`).join('; ');
    const request = new Request(new URL(url, appBaseUrl), { headers: { cookie, accept: 'text/html' } });
    const answer = await answerOf(request);
    for (const line of answer.headers.getSetCookie()) {
      const [pair, ...rest] = line.split(';');
      const [name, ...value] = pair.split('=');
      if (rest.some((one) => /max-age=0$/i.test(one.trim())) || !value.join('=')) cookies.delete(name);
      else cookies.set(name, value.join('='));
    }
    return answer;
  };
}

const gone = (answer) => answer.headers.get('location');

class Memory {
  kept = new Map();
  async set(name, value) {
    this.kept.set(name, value);
  }
  async get(name) {
    return this.kept.get(name);
  }
  async delete(name) {
    this.kept.delete(name);
  }
}

async function post(path, accessToken, body) {
  const headers = { authorization: `Bearer ${accessToken}`, 'content-type': 'application/json' };
  return (await fetch(`${me}/${path}`, { method: 'POST', headers, body: JSON.stringify(body) })).json();
}

/** The SDK can't connect an account, but its token for the My Account API can. */
async function alone() {
  const stores = { transactionStore: new Memory(), stateStore: new Memory() };
  const authorizationParams = { redirect_uri: callback, scope };
  const client = new ServerClient({ domain, clientId, clientSecret, authorizationParams, ...stores });
  await client.completeInteractiveLogin(await open(await client.startInteractiveLogin()));
  const found = { subject: (await client.getUser()).sub };
  found.before = await refusal(client.getAccessTokenForConnection({ connection }));
  const { accessToken } = await client.getAccessToken({
    audience: `https://${domain}/me/`,
    scope: 'create:me:connected_accounts',
  });
  const asked = { connection, redirect_uri: callback, scopes: ['chat:write', 'channels:read'] };
  const started = await post('connect', accessToken, asked);
  const back = await open(`${started.connect_uri}?ticket=${started.connect_params.ticket}`);
  const code = { auth_session: started.auth_session, connect_code: back.searchParams.get('connect_code') };
  found.connected = await post('complete', accessToken, { ...code, redirect_uri: callback });
  found.token = await client.getAccessTokenForConnection({ connection });
  await client.revokeRefreshToken();
  const session = await client.getSession();
  await stores.stateStore.set('__a0_session', { ...session, connectionTokenSets: [] }); // otherwise it uses these
  found.revoked = await refusal(client.getAccessTokenForConnection({ connection }));
  return found;
}

async function inHono() {
  const app = new Hono();
  app.onError((error, context) => context.text(error.cause?.error ?? error.message, 500));
  const session = { secret };
  const settings = { domain, clientID: clientId, clientSecret, baseURL: appBaseUrl, session, authRequired: false };
  app.use(auth({ ...settings, authorizationParams: { scope } }));
  app.use('/private/*', requiresAuth());
  app.get('/private/token', async (context) =>
    context.json(await context.var.auth0Client.getAccessTokenForConnection({ connection }, context)),
  );
  const visit = browser((request) => app.fetch(request));
  const found = { before: new URL(gone(await visit('/private/token'))).host };
  const landed = gone(await visit(await open(gone(await visit('/auth/login?return_to=/done')))));
  found.landed = landed;
  found.token = (await (await visit('/private/token')).json()).accessToken;
  found.loggedOut = new URL(gone(await visit('/auth/logout'))).host;
  found.after = new URL(gone(await visit('/private/token'))).host;
  return found;
}

async function inNuxt() {
  const runtime = './node_modules/@auth0/auth0-nuxt/dist/runtime/server';
  Object.assign(config.auth0, { domain, clientId, clientSecret, appBaseUrl, sessionSecret: secret });
  const { default: plugin } = await import(`${runtime}/plugins/auth.server.js`);
  const { useAuth0 } = await import(`${runtime}/composables/use-auth0.js`);
  const hooks = [];
  await plugin({ hooks: { hook: (_, made) => hooks.push(made) } });
  const router = createRouter();
  for (const name of ['login', 'callback', 'logout']) {
    const { default: route } = await import(`${runtime}/api/auth/${name}.get.js`);
    router.get(`/auth/${name}`, route);
  }
  const start = async (event) =>
    (await useAuth0(event).startInteractiveLogin({ authorizationParams: { scope } })).href;
  router.get('/start', defineEventHandler(start)); // the SDK's own route doesn't request a refresh token
  const token = (event) => useAuth0(event).getAccessTokenForConnection({ connection });
  router.get('/token', defineEventHandler(token));
  router.get('/user', defineEventHandler((event) => useAuth0(event).getUser()));
  const app = createApp({ onRequest: (event) => Promise.all(hooks.map((hook) => hook(event))) });
  app.use(router);
  const visit = browser(toWebHandler(app));
  const found = { login: new URL(gone(await visit('/auth/login'))).pathname };
  found.landed = gone(await visit(await open(await (await visit('/start')).text())));
  found.subject = (await (await visit('/user')).json()).sub;
  found.token = (await (await visit('/token')).json()).accessToken;
  found.loggedOut = gone(await visit('/auth/logout'));
  found.after = (await visit('/user')).status;
  return found;
}

await main(async () => {
  say({ alone: await alone(), hono: await inHono(), nuxt: await inNuxt() });
});
