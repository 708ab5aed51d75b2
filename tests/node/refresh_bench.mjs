// oidc-provider with one client and one refresh token that is not rotated; prints the token, then answers refreshes.
// Usage: refresh_bench.mjs PORT SECRET
import { generateKeyPair } from 'node:crypto';
import { promisify } from 'node:util';
import Provider from 'oidc-provider';

const [port, secret] = process.argv.slice(2);
const api = 'https://api.example/';
const { privateKey } = await promisify(generateKeyPair)('ec', { namedCurve: 'P-256' });
const key = { ...privateKey.export({ format: 'jwk' }), use: 'sig', alg: 'ES256' };
const provider = new Provider(`http://127.0.0.1:${port}`, {
  clients: [
    {
      client_id: 'bench',
      client_secret: secret,
      redirect_uris: ['http://127.0.0.1/callback'],
      grant_types: ['authorization_code', 'refresh_token'],
      token_endpoint_auth_method: 'client_secret_post',
      id_token_signed_response_alg: 'ES256',
    },
  ],
  jwks: { keys: [key] },
  scopes: ['offline_access', 'read'],
  rotateRefreshToken: false,
  findAccount: (_, id) => ({ accountId: id, claims: async () => ({ sub: id }) }),
  features: {
    devInteractions: { enabled: false },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => api,
      useGrantedResource: () => true,
      getResourceServerInfo: () => ({
        scope: 'read',
        audience: api,
        accessTokenFormat: 'jwt',
        jwt: { sign: { alg: 'ES256' } },
      }),
    },
  },
});
const client = await provider.Client.find('bench');
const grant = new provider.Grant({ accountId: 'person', clientId: 'bench' });
grant.addOIDCScope('offline_access');
grant.addResourceScope(api, 'read');
const refresh = new provider.RefreshToken({
  accountId: 'person',
  authTime: Math.floor(Date.now() / 1000),
  client,
  grantId: await grant.save(),
  gty: 'authorization_code',
  resource: api,
  scope: 'offline_access read',
});
const token = await refresh.save();
provider.listen(Number(port), '127.0.0.1', () => console.log(token));
