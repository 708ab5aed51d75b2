// oidc-provider as a service at which somebody has an account: with refresh rotation, reuse detection, and its own
// pages. Argument: our redirect URI. Prints its issuer, then answers questions about its records.
import { createServer } from 'node:http';
import Provider from 'oidc-provider';
import { hear, main, say } from './lines.mjs';

const [redirect] = process.argv.slice(2);
const CLIENT = { client_id: 'vault', client_secret: 'a-secret-of-the-vault' };

const books = {};
let consumed; // the last refresh token that was used up

function keepBooks(provider) {
  const count = (name) => () => (books[name] = (books[name] ?? 0) + 1);
  provider.on('refresh_token.saved', count('refresh tokens'));
  provider.on('refresh_token.consumed', (token) => {
    count('refreshes')();
    consumed = token.jti;
  });
  provider.on('grant.error', count('refusals'));
  provider.on('grant.revoked', count('ended grants'));
}

await main(async () => {
  const server = createServer();
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
    clients: [{ ...CLIENT, redirect_uris: [redirect], grant_types: ['authorization_code', 'refresh_token'] }],
    scopes: ['openid', 'offline_access', 'files:read', 'files:write'],
    claims: { openid: ['sub'], email: ['email'] },
    features: { revocation: { enabled: true } },
    rotateRefreshToken: true,
    ttl: { AccessToken: 600, RefreshToken: 86400, Grant: 86400, Session: 3600, Interaction: 600, IdToken: 600 },
    findAccount: (ctx, id) => ({ accountId: id, claims: () => ({ sub: id, email: `${id}@foreign.example` }) }),
    cookies: { keys: ['only for tests'] },
  });
  keepBooks(provider);
  server.on('request', provider.callback());
  say({ issuer });
  for (let message = await hear(); message !== undefined; message = await hear()) {
    if (message.ask === 'books') {
      say({ ...books });
    } else if (message.ask === 'token') {
      say({ scope: (await provider.AccessToken.find(message.value))?.scope ?? null });
    } else if (message.ask === 'replay') {
      const answer = await fetch(`${issuer}/token`, {
        method: 'POST',
        headers: { authorization: `Basic ${btoa(`${CLIENT.client_id}:${CLIENT.client_secret}`)}` },
        body: new URLSearchParams({ grant_type: 'refresh_token', refresh_token: consumed }),
      });
      say(await answer.json());
    }
  }
});
