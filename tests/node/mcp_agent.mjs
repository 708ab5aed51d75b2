// An agent on the official TypeScript SDK. Arguments: endpoint, "http" or "sse", wallet file, "links" if it opens links.
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { UnauthorizedError } from '@modelcontextprotocol/sdk/client/auth.js';
import { SSEClientTransport } from '@modelcontextprotocol/sdk/client/sse.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { hear, main, open, say } from './lines.mjs';

const [endpoint, transportName, walletFile, links] = process.argv.slice(2);

/** Stores in one file what the SDK asks an application to keep. */
class Wallet {
  redirectUrl = 'http://127.0.0.1:33418/callback';
  clientMetadata = {
    client_name: 'TypeScript agent',
    redirect_uris: [this.redirectUrl],
    grant_types: ['authorization_code', 'refresh_token'],
    response_types: ['code'],
    token_endpoint_auth_method: 'none',
  };
  kept = existsSync(walletFile) ? JSON.parse(readFileSync(walletFile, 'utf8')) : {};

  keep(name, value) {
    this.kept[name] = value;
    writeFileSync(walletFile, JSON.stringify(this.kept));
  }

  state = () => (this.expectedState = crypto.randomUUID());
  clientInformation = () => this.kept.client;
  saveClientInformation = (client) => this.keep('client', client);
  tokens = () => this.kept.tokens;
  saveTokens = (tokens) => this.keep('tokens', tokens);
  codeVerifier = () => this.verifier;
  saveCodeVerifier = (verifier) => void (this.verifier = verifier);
  invalidateCredentials = (what) => {
    if (what === 'all' || what === 'client') this.keep('client', undefined);
    if (what === 'all' || what === 'tokens') this.keep('tokens', undefined);
  };
  redirectToAuthorization = async (url) => void (this.answer = await open(url));
}

async function connect(wallet) {
  const capabilities = links ? { elicitation: { url: {} } } : {};
  const Transport = transportName === 'sse' ? SSEClientTransport : StreamableHTTPClientTransport;
  for (;;) {
    const client = new Client({ name: 'typescript-agent', version: '1.0.0' }, { capabilities });
    const transport = new Transport(new URL(endpoint), { authProvider: wallet });
    try {
      await client.connect(transport);
      return client;
    } catch (error) {
      if (!(error instanceof UnauthorizedError) || wallet.answer === undefined) throw error;
      const query = wallet.answer.searchParams;
      wallet.answer = undefined;
      if (query.get('state') !== wallet.expectedState) throw new Error('the state is not ours');
      await transport.finishAuth(query.get('code'));
    }
  }
}

await main(async () => {
  const client = await connect(new Wallet());
  const { tools } = await client.listTools();
  say({ tools: tools.map((tool) => tool.name) });
  for (let message = await hear(); message !== undefined; message = await hear()) {
    try {
      say({ result: await client.callTool({ name: message.call, arguments: message.arguments }) });
    } catch (error) {
      say({ error: { code: error.code, message: error.message, data: error.data } });
    }
  }
  await client.close();
});
