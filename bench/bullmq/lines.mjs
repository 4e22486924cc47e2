// Speaks the driver protocol of bench/README.md: one JSON object per line, commands on stdin, answers on stdout.
import { createInterface } from 'node:readline';

export const settings = JSON.parse(process.argv[2]);

export function say(answer) {
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}

// CLOCK_MONOTONIC in nanoseconds: the same clock in every process of this machine. Exact in a double for the first 104 days of uptime.
export function monotonicNs() {
  return Number(process.hrtime.bigint());
}

// Runs the commands one after the other, except those whose handler returns at once. Ends the process when stdin closes, so no driver outlives the harness.
export async function serve(commands) {
  for await (const line of createInterface({ input: process.stdin })) {
    const command = JSON.parse(line);
    const answer = await commands[command.do](command);
    if (answer !== undefined) say(answer);
  }
  await commands.close?.();
  process.exit(0);
}
