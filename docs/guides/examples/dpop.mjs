// DPoP with oauth4webapi: a handle that is bound to the key of this process.
import * as oauth from "oauth4webapi";

const http = { [oauth.allowInsecureRequests]: true }; // only where the vault is on this machine, without https
const issuer = new URL(process.env.VAULT_URL);
const server = await oauth.processDiscoveryResponse(issuer, await oauth.discoveryRequest(issuer, { ...http, algorithm: "oauth2" }));
const client = { client_id: process.env.CLIENT_ID };
const DPoP = oauth.DPoP(client, await oauth.generateKeyPair("ES256"));

const answer = await oauth.genericTokenEndpointRequest(
  server,
  client,
  oauth.ClientSecretBasic(process.env.CLIENT_SECRET),
  "urn:ietf:params:oauth:grant-type:token-exchange",
  {
    subject_token: process.env.ACCESS_TOKEN,
    subject_token_type: "urn:ietf:params:oauth:token-type:access_token",
    audience: "slack",
    scope: "chat:write",
  },
  { DPoP, ...http },
);
const handle = await oauth.processGenericTokenEndpointResponse(server, client, answer);

const posted = await oauth.protectedResourceRequest(
  handle.access_token,
  "POST",
  new URL(`${handle.api_base_url}/chat.postMessage`),
  new Headers({ "content-type": "application/json; charset=utf-8" }),
  JSON.stringify({ channel: "C0SBGENERAL", text: "Hello with a key" }),
  { DPoP, ...http },
);
console.log(handle.token_type, (await posted.json()).ts);
