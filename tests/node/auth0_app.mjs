// An application on Auth0's JavaScript SDKs, as published: signs somebody in, connects an account, gets its token, and
// checks a token at an API. Arguments: domain, client id, client secret, redirect URI, another client's access token, its audience.
import { AuthClient } from '@auth0/auth0-auth-js';
import { auth } from 'express-oauth2-jwt-bearer';
import { main, open, say } from './lines.mjs';

const [domain, clientId, clientSecret, redirect, apiToken, api] = process.argv.slice(2);
const connection = 'sign-in-with-slack';
const me = `https://${domain}/me/v1/connected-accounts`;

const client = new AuthClient({ domain, clientId, clientSecret, authorizationParams: { redirect_uri: redirect } });

async function refusal(work) {
  try {
    await work;
    return 'accepted';
  } catch (error) {
    return error.cause?.error ?? error.code ?? error.message;
  }
}

function checked(token, audience) {
  const middleware = auth({ issuerBaseURL: `https://${domain}/`, audience, tokenSigningAlg: 'RS256' });
  const headers = { authorization: `Bearer ${token}`, host: 'api.example' };
  const request = { headers, query: {}, method: 'GET', protocol: 'https', originalUrl: '/orders', is: () => false };
  request.get = (name) => headers[name.toLowerCase()];
  return new Promise((done) => middleware(request, { set() {} }, (error) => done(error ? error.message : request.auth.payload.iss)));
}

await main(async () => {
  const { authorizationUrl, codeVerifier } = await client.buildAuthorizationUrl({
    authorizationParams: { scope: 'openid profile email offline_access' },
  });
  const back = await open(authorizationUrl);
  const signedIn = await client.getTokenByCode(back, { codeVerifier });
  const before = await refusal(client.getTokenForConnection({ connection, refreshToken: signedIn.refreshToken }));

  const mine = await client.getTokenByRefreshToken({
    refreshToken: signedIn.refreshToken,
    audience: `https://${domain}/me/`,
    scope: 'create:me:connected_accounts read:me:connected_accounts',
  });
  const headers = { authorization: `Bearer ${mine.accessToken}`, 'content-type': 'application/json' };
  const started = await (
    await fetch(`${me}/connect`, { method: 'POST', headers, body: JSON.stringify({ connection, redirect_uri: redirect }) })
  ).json();
  const returned = await open(`${started.connect_uri}?ticket=${started.connect_params.ticket}`);
  const body = {
    auth_session: started.auth_session,
    connect_code: returned.searchParams.get('connect_code'),
    redirect_uri: redirect,
  };
  const completed = await (await fetch(`${me}/complete`, { method: 'POST', headers, body: JSON.stringify(body) })).json();

  const token = await client.getTokenForConnection({ connection, refreshToken: signedIn.refreshToken });
  const exchange = { connection, subjectToken: signedIn.refreshToken };
  exchange.subjectTokenType = 'urn:ietf:params:oauth:token-type:refresh_token';
  say({
    subject: signedIn.claims.sub,
    before,
    completed,
    token: token.accessToken,
    lasts: token.expiresAt - Date.now() / 1000,
    scope: token.scope,
    narrower: await refusal(client.exchangeToken({ ...exchange, scope: 'chat:write' })),
    whole: await refusal(client.exchangeToken(exchange)),
    wrong: await refusal(client.getTokenForConnection({ connection, refreshToken: 'unknown' })),
    checked: await checked(apiToken, api),
    foreign: await checked(apiToken, 'https://other.example'),
  });
});
