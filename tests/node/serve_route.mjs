// Serves the POST of a route handler, as Next.js would; prints where it listens. Ends when its standard input is closed.
import { createServer } from 'node:http';
import { say } from './lines.mjs';

const { POST } = await import(process.argv[2]);
const server = createServer(async (incoming, outgoing) => {
  const body = [];
  for await (const chunk of incoming) body.push(chunk);
  const headers = new Headers(Object.entries(incoming.headers));
  const request = new Request(`http://127.0.0.1${incoming.url}`, { method: 'POST', headers, body: Buffer.concat(body) });
  const answer = await POST(request);
  outgoing.writeHead(answer.status, Object.fromEntries(answer.headers));
  outgoing.end(Buffer.from(await answer.arrayBuffer()));
});
server.listen(0, '127.0.0.1', () => say({ port: server.address().port }));
process.stdin.on('end', () => process.exit(0)).resume();
