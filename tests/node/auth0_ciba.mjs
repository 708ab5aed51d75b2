// An application that asks its person in the background, with @auth0/auth0-auth-js as published.
// Arguments: domain, client id, client secret, the person's id.
import { AuthClient } from '@auth0/auth0-auth-js';
import { main, open, say } from './lines.mjs';

const [domain, clientId, clientSecret, sub] = process.argv.slice(2);
const client = new AuthClient({ domain, clientId, clientSecret });

await main(async () => {
  const { authReqId } = await client.initiateBackchannelAuthentication({
    loginHint: { sub },
    bindingMessage: 'Buy 3 shares',
    requestedExpiry: 60,
    authorizationDetails: [{ type: 'payment', amount: '12.50' }],
  });
  await open('https://app.example/answer');
  const granted = await client.backchannelAuthenticationGrant({ authReqId });
  let again = 'accepted';
  try {
    await client.backchannelAuthenticationGrant({ authReqId });
  } catch (error) {
    again = error.cause?.error ?? error.code;
  }
  say({ subject: granted.claims.sub, details: granted.authorizationDetails, again });
});
