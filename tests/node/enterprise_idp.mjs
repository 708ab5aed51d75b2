// oidc-provider as a company's identity provider that issues identity assertions (ID-JAG) by token exchange.
// Argument: the agent's client id at the vault. Prints its issuer and an ID token of a person who has signed in.
import { createServer } from 'node:http';
import { SignJWT, createLocalJWKSet, exportJWK, generateKeyPair, jwtVerify } from 'jose';
import Provider, { errors } from 'oidc-provider';
import { hear, main, say } from './lines.mjs';

const [clientAtVault] = process.argv.slice(2);
const EXCHANGE = 'urn:ietf:params:oauth:grant-type:token-exchange';
const ID_JAG = 'urn:ietf:params:oauth:token-type:id-jag';
const AGENT = { client_id: 'agent-at-idp', client_secret: 'a-secret-of-the-agent-at-the-idp' };

await main(async () => {
  const { privateKey, publicKey } = await generateKeyPair('ES256', { extractable: true });
  const about = { kid: 'idp-1', alg: 'ES256', use: 'sig' };
  const keys = createLocalJWKSet({ keys: [{ ...(await exportJWK(publicKey)), ...about }] });
  const server = createServer();
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
    clients: [{ ...AGENT, redirect_uris: [], response_types: [], grant_types: [EXCHANGE] }],
    jwks: { keys: [{ ...(await exportJWK(privateKey)), ...about }] },
    enabledJWA: { idTokenSigningAlgValues: ['ES256'] },
    clientDefaults: { id_token_signed_response_alg: 'ES256', token_endpoint_auth_method: 'client_secret_post' },
    cookies: { keys: ['only for tests'] },
  });
  const sign = (claims, typ, life) =>
    new SignJWT(claims)
      .setProtectedHeader({ alg: 'ES256', kid: about.kid, typ })
      .setIssuer(issuer)
      .setIssuedAt()
      .setExpirationTime(life)
      .sign(privateKey);
  const names = ['audience', 'resource', 'scope', 'requested_token_type', 'subject_token', 'subject_token_type'];
  provider.registerGrantType(
    EXCHANGE,
    async (ctx) => {
      const { params, client } = ctx.oidc;
      if (params.requested_token_type !== ID_JAG) throw new errors.InvalidRequest('only ID-JAGs are issued here');
      const { payload } = await jwtVerify(params.subject_token, keys, { issuer, audience: client.clientId });
      const claims = { client_id: clientAtVault, resource: params.resource, scope: params.scope, groups: ['staff'] };
      claims.sub = payload.sub;
      claims.aud = params.audience;
      claims.jti = crypto.randomUUID();
      ctx.body = {
        access_token: await sign(claims, 'oauth-id-jag+jwt', '5m'),
        issued_token_type: ID_JAG,
        token_type: 'N_A',
        expires_in: 300,
      };
    },
    names,
    ['resource'],
  );
  server.on('request', provider.callback());
  say({ issuer, ...AGENT, id_token: await sign({ sub: 'employee-1', aud: AGENT.client_id }, 'JWT', '1h') });
  await hear();
});
