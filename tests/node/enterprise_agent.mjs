// An agent on the official TypeScript SDK whose person has signed in at the company. One argument: its configuration
// as JSON. Opens no browser.
import {
  Client,
  CrossAppAccessProvider,
  StreamableHTTPClientTransport,
  discoverAndRequestJwtAuthGrant,
} from '@modelcontextprotocol/client';
import { main, say } from './lines.mjs';

const given = JSON.parse(process.argv[2]);

await main(async () => {
  const authProvider = new CrossAppAccessProvider({
    clientId: given.client_id,
    clientSecret: given.client_secret,
    expectedIssuer: given.vault,
    assertion: async (context) => {
      const { jwtAuthGrant } = await discoverAndRequestJwtAuthGrant({
        idpUrl: given.idp.issuer,
        audience: context.authorizationServerUrl,
        resource: context.resourceUrl,
        scope: context.scope,
        idToken: given.idp.id_token,
        clientId: given.idp.client_id,
        clientSecret: given.idp.client_secret,
        fetchFn: context.fetchFn,
      });
      return jwtAuthGrant;
    },
  });
  const client = new Client({ name: 'typescript-agent', version: '1.0.0' });
  await client.connect(new StreamableHTTPClientTransport(new URL(`${given.vault}/mcp`), { authProvider }));
  const { tools } = await client.listTools();
  const result = await client.callTool({ name: 'slack_channels', arguments: {} });
  say({ tools: tools.map((tool) => tool.name), failed_call: result.isError ?? false, tokens: authProvider.tokens() });
  await client.close();
});
