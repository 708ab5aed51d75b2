// The other flows of openid-client. Arguments: issuer, redirect URI. Prints the result of each, or why the library refused.
import * as openid from 'openid-client';
import { main, open, say } from './lines.mjs';

const [issuer, redirect] = process.argv.slice(2);
const loopback = { execute: [openid.allowInsecureRequests, openid.enableNonRepudiationChecks] };
const DEVICE = 'urn:ietf:params:oauth:grant-type:device_code';

async function register(metadata, authentication) {
  const config = await openid.dynamicClientRegistration(
    new URL(issuer),
    { client_name: 'Flows', redirect_uris: [redirect], ...metadata },
    authentication,
    loopback,
  );
  return config;
}

/** The code flow with a pushed request (RFC 9126) and, with a handle, DPoP (RFC 9449). */
async function pushed(config, DPoP) {
  const verifier = openid.randomPKCECodeVerifier();
  const checks = { pkceCodeVerifier: verifier, expectedState: openid.randomState(), idTokenExpected: true };
  checks.expectedNonce = openid.randomNonce();
  const url = await openid.buildAuthorizationUrlWithPAR(
    config,
    {
      redirect_uri: redirect,
      scope: 'openid offline_access',
      state: checks.expectedState,
      nonce: checks.expectedNonce,
      code_challenge: await openid.calculatePKCECodeChallenge(verifier),
      code_challenge_method: 'S256',
    },
    { DPoP },
  );
  const parameters = [...url.searchParams.keys()].sort();
  const tokens = await openid.authorizationCodeGrant(config, await open(url), checks, undefined, { DPoP });
  const info = await openid.fetchUserInfo(config, tokens.access_token, tokens.claims().sub, { DPoP });
  const refreshed = await openid.refreshTokenGrant(config, tokens.refresh_token, undefined, { DPoP });
  return { parameters, kind: tokens.token_type, sub: info.sub, refreshed: refreshed.token_type };
}

await main(async () => {
  const plain = await register({ token_endpoint_auth_method: 'none' }, openid.None());
  const par = await pushed(plain);

  const bound = await register({ token_endpoint_auth_method: 'none' }, openid.None());
  const dpop = await pushed(bound, openid.getDPoPHandle(bound, await openid.randomDPoPKeyPair('ES256')));

  const keys = await crypto.subtle.generateKey({ name: 'ECDSA', namedCurve: 'P-256' }, true, ['sign', 'verify']);
  const { kty, crv, x, y } = await crypto.subtle.exportKey('jwk', keys.publicKey);
  const jwks = { keys: [{ kty, crv, x, y, kid: 'one', use: 'sig', alg: 'ES256' }] };
  const key = { key: keys.privateKey, kid: 'one' };
  const signing = await register(
    { token_endpoint_auth_method: 'private_key_jwt', token_endpoint_auth_signing_alg: 'ES256', jwks },
    openid.PrivateKeyJwt(key),
  );
  const privateKey = await pushed(signing);

  const device = await register(
    { token_endpoint_auth_method: 'none', grant_types: [DEVICE, 'authorization_code', 'refresh_token'] },
    openid.None(),
  );
  const asked = await openid.initiateDeviceAuthorization(device, { scope: 'openid offline_access' });
  const polling = openid.pollDeviceAuthorizationGrant(device, asked);
  await open(`${asked.verification_uri}?user_code=${asked.user_code}`);
  const granted = await polling;

  say({
    par,
    dpop,
    privateKey,
    device: { kind: granted.token_type, sub: (await openid.fetchUserInfo(device, granted.access_token, granted.claims()?.sub ?? openid.skipSubjectCheck)).sub },
  });
});
