// One JSON object per line, in and out; how the suite talks with the programs in this folder.
import { createInterface } from 'node:readline';

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

export function say(message) {
  process.stdout.write(`${JSON.stringify(message)}\n`);
}

/** The next message; undefined when there will be none. */
export async function hear() {
  const { value, done } = await lines.next();
  return done ? undefined : JSON.parse(value);
}

/** Let a person open an address; where the browser is sent in the end. */
export async function open(url) {
  say({ open: String(url) });
  return new URL((await hear()).redirect);
}

/** Run a program to its end and say what broke it. */
export async function main(program) {
  try {
    await program();
    process.exit(0);
  } catch (error) {
    say({ failed: `${error?.stack ?? error} ${error?.cause ?? ''}` });
    process.exit(1);
  }
}
