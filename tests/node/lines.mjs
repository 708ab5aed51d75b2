// One JSON object per line, in and out: the suite communicates with the programs in this folder like this.
import { createInterface } from 'node:readline';

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

export function say(message) {
  process.stdout.write(`${JSON.stringify(message)}\n`);
}

/** The next message; undefined at the end. */
export async function hear() {
  const { value, done } = await lines.next();
  return done ? undefined : JSON.parse(value);
}

/** Let a person open an address; returns where the browser ends up. */
export async function open(url) {
  say({ open: String(url) });
  return new URL((await hear()).redirect);
}

/** Run a program to its end and report any error. */
export async function main(program) {
  try {
    await program();
    process.exit(0);
  } catch (error) {
    say({ failed: `${error?.stack ?? error} ${error?.cause ?? ''}` });
    process.exit(1);
  }
}
