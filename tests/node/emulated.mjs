// Services of emulate (Vercel Labs), each on its own loopback port. Argument: their seeds, and the addresses that
// they use as their own. Prints where they listen.
import { createServer } from 'node:http';
import { createEmulator } from 'emulate';
import { hear, main, say } from './lines.mjs';

const { services, addresses } = JSON.parse(process.argv[2]);

async function freePort() {
  const server = createServer();
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

await main(async () => {
  const listening = {};
  const running = [];
  for (const [service, seed] of Object.entries(services)) {
    const port = await freePort();
    const baseUrl = addresses[service];
    running.push(await createEmulator({ service, port, hostname: '127.0.0.1', baseUrl, seed: { [service]: seed } }));
    listening[service] = `http://127.0.0.1:${port}`;
  }
  say(listening);
  await hear();
  await Promise.all(running.map((emulator) => emulator.close()));
});
