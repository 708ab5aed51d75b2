// Calls of the official TypeScript client, timed. Arguments: endpoint, access token or "", how many calls are in
// flight, a text that each answer contains.
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { hear, main, say } from './lines.mjs';

const [endpoint, token, inFlight, wanted] = process.argv.slice(2);

await main(async () => {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const client = new Client({ name: 'bench', version: '1' });
  await client.connect(new StreamableHTTPClientTransport(new URL(endpoint), { requestInit: { headers } }));
  await client.listTools();

  async function callSome(calls) {
    const took = [];
    for (let number = 0; number < calls; number += 1) {
      const begun = performance.now();
      const result = await client.callTool({ name: 'slack_post', arguments: { channel: 'general', text: 'hi' } });
      took.push((performance.now() - begun) / 1000);
      if (result.isError || !JSON.stringify(result).includes(wanted)) throw new Error(JSON.stringify(result));
    }
    return took;
  }

  for (let message = await hear(); message !== undefined; message = await hear()) {
    const each = Math.floor(message.calls / Number(inFlight));
    const parts = await Promise.all(Array.from({ length: Number(inFlight) }, () => callSome(each)));
    say({ seconds: parts.flat() });
  }
  await client.close();
});
