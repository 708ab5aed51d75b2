// An agent on the official TypeScript SDK that acts for nobody. One argument: its configuration as JSON.
import {
  Client,
  ClientCredentialsProvider,
  PrivateKeyJwtProvider,
  StreamableHTTPClientTransport,
} from '@modelcontextprotocol/client';
import { main, say } from './lines.mjs';

const given = JSON.parse(process.argv[2]);
const about = { clientId: given.client_id, expectedIssuer: given.vault, scope: given.scope };

await main(async () => {
  const authProvider = given.private_key
    ? new PrivateKeyJwtProvider({ ...about, privateKey: given.private_key, algorithm: 'ES256' })
    : new ClientCredentialsProvider({ ...about, clientSecret: given.client_secret });
  const client = new Client({ name: 'typescript-machine', version: '1.0.0' });
  await client.connect(new StreamableHTTPClientTransport(new URL(given.server), { authProvider }));
  const result = await client.callTool({ name: 'report', arguments: {} });
  say({ said: result.content[0].text, failed_call: result.isError ?? false, tokens: authProvider.tokens() });
  await client.close();
});
