// A relying party on openid-client. Arguments: issuer, redirect URI. Signs somebody in and prints the result of each step.
import * as openid from 'openid-client';
import { main, open, say } from './lines.mjs';

const [issuer, redirect] = process.argv.slice(2);
const loopback = { execute: [openid.allowInsecureRequests, openid.enableNonRepudiationChecks] };

async function refusal(work) {
  try {
    await work;
    return 'accepted';
  } catch (error) {
    return error.error ?? error.cause?.[0]?.parameters?.error ?? error.cause?.message ?? error.message;
  }
}

async function authorize(config, scope, maxAge) {
  const verifier = openid.randomPKCECodeVerifier();
  const checks = {
    pkceCodeVerifier: verifier,
    expectedState: openid.randomState(),
    expectedNonce: openid.randomNonce(),
    idTokenExpected: true,
    ...(maxAge === undefined ? {} : { maxAge }),
  };
  const back = await open(
    openid.buildAuthorizationUrl(config, {
      redirect_uri: redirect,
      scope,
      state: checks.expectedState,
      nonce: checks.expectedNonce,
      code_challenge: await openid.calculatePKCECodeChallenge(verifier),
      code_challenge_method: 'S256',
      ...(maxAge === undefined ? {} : { max_age: String(maxAge) }),
    }),
  );
  return { back, checks };
}

await main(async () => {
  const config = await openid.dynamicClientRegistration(
    new URL(issuer),
    {
      client_name: 'Relying party',
      redirect_uris: [redirect],
      token_endpoint_auth_method: 'client_secret_basic',
      grant_types: ['authorization_code', 'refresh_token'],
    },
    undefined,
    loopback,
  );
  const { client_id: clientId, client_secret: clientSecret } = config.clientMetadata();
  const found = await openid.discovery(new URL(issuer), clientId, undefined, openid.ClientSecretBasic(clientSecret), loopback);

  const scope = 'openid tools offline_access';
  const { back, checks } = await authorize(found, scope);
  const otherState = await refusal(openid.authorizationCodeGrant(found, back, { ...checks, expectedState: 'other' }));
  const tokens = await openid.authorizationCodeGrant(found, back, checks);
  const claims = tokens.claims();
  const userinfo = await openid.fetchUserInfo(found, tokens.access_token, claims.sub);
  const refreshed = await openid.refreshTokenGrant(found, tokens.refresh_token);
  const live = await openid.tokenIntrospection(found, refreshed.access_token);
  await openid.tokenRevocation(found, refreshed.refresh_token, { token_type_hint: 'refresh_token' });
  const revoked = await openid.tokenIntrospection(found, refreshed.access_token);
  const refreshedAgain = await refusal(openid.refreshTokenGrant(found, refreshed.refresh_token));
  const userinfoAgain = await refusal(openid.fetchUserInfo(found, refreshed.access_token, claims.sub));

  const second = await authorize(found, scope);
  const otherNonce = await refusal(
    openid.authorizationCodeGrant(found, second.back, { ...second.checks, expectedNonce: openid.randomNonce() }),
  );
  const third = await authorize(found, scope);
  const granted = await openid.authorizationCodeGrant(found, third.back, third.checks);
  const replayed = await refusal(openid.authorizationCodeGrant(found, third.back, third.checks));
  const afterReplay = await openid.tokenIntrospection(found, granted.access_token);

  // The library requires `auth_time`, and that it isn't older than requested.
  const signedIn = [];
  for (const maxAge of [0, 3600]) {
    const { back, checks } = await authorize(found, scope, maxAge);
    signedIn.push((await openid.authorizationCodeGrant(found, back, checks)).claims().auth_time);
  }

  say({
    claims,
    signedIn,
    userinfo,
    scope: tokens.scope,
    rotated: refreshed.refresh_token !== tokens.refresh_token,
    live,
    revoked,
    afterReplay,
    refusals: { otherState, otherNonce, refreshedAgain, userinfoAgain, replayed },
  });
});
