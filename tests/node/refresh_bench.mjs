// oidc-provider with one client and one refresh token that is not rotated; prints the token, then answers refreshes.
// With FILE and COUNT, it rotates that many tokens, each of its own grant, signs with RS256, and prints `ready`; its own
// memory store keeps at most 1000 entries and walks through all tokens of a grant, so a Map replaces it.
// Usage: refresh_bench.mjs PORT SECRET [FILE COUNT]
import { generateKeyPair } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { promisify } from 'node:util';
import Provider from 'oidc-provider';

const [port, secret, file, count] = process.argv.slice(2);
const api = 'https://api.example/';
const alg = file ? 'RS256' : 'ES256';
const { privateKey } = await (file
  ? promisify(generateKeyPair)('rsa', { modulusLength: 2048 })
  : promisify(generateKeyPair)('ec', { namedCurve: 'P-256' }));
const key = { ...privateKey.export({ format: 'jwk' }), use: 'sig', alg };
const stored = new Map();
class Rows {
  constructor(kind) {
    this.kind = kind;
  }
  async upsert(id, payload) {
    stored.set(`${this.kind}:${id}`, payload);
  }
  async find(id) {
    return stored.get(`${this.kind}:${id}`);
  }
  async consume(id) {
    stored.get(`${this.kind}:${id}`).consumed = Math.floor(Date.now() / 1000);
  }
  async destroy(id) {
    stored.delete(`${this.kind}:${id}`);
  }
}
const provider = new Provider(`http://127.0.0.1:${port}`, {
  ...(file && { adapter: Rows }),
  clients: [
    {
      client_id: 'bench',
      client_secret: secret,
      redirect_uris: ['http://127.0.0.1/callback'],
      grant_types: ['authorization_code', 'refresh_token'],
      token_endpoint_auth_method: 'client_secret_post',
      id_token_signed_response_alg: alg,
    },
  ],
  jwks: { keys: [key] },
  scopes: ['offline_access', 'read'],
  rotateRefreshToken: Boolean(file),
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
        jwt: { sign: { alg } },
      }),
    },
  },
});
const client = await provider.Client.find('bench');
const issue = async () => {
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
  return refresh.save();
};
const tokens = [];
while (tokens.length < (file ? Number(count) : 1)) tokens.push(await issue());
if (file) writeFileSync(file, tokens.join('\n'));
provider.listen(Number(port), '127.0.0.1', () => console.log(file ? 'ready' : tokens[0]));
