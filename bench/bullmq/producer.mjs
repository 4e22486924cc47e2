// Makes jobs in every way that the benchmark asks for.
import { randomBytes } from 'node:crypto';
import { Queue } from 'bullmq';
import { connection } from './connection.mjs';
import { monotonicNs, say, serve, settings } from './lines.mjs';

const queue = new Queue(settings.queue, { connection: await connection() });
await queue.waitUntilReady();

const noop = { p: 'x'.repeat(settings.payload_bytes - '{"p":""}'.length) };

// 32 hexadecimal digits, as Jobwire's ids are; or BullMQ's own counter, which costs it less.
function jobOptions() {
  return settings.long_ids ? { jobId: randomBytes(16).toString('hex') } : undefined;
}

function batchOf(count) {
  return Array.from({ length: count }, () => ({ name: 'noop', data: noop, opts: jobOptions() }));
}

async function secondsOf(work) {
  const started = monotonicNs();
  await work();
  return { seconds: (monotonicNs() - started) / 1e9 };
}

// `lanes` loops that each await one call before the next.
async function inLanes(lanes, count, call) {
  let left = count;
  const lane = async () => {
    while (left > 0) {
      left -= 1;
      await call();
    }
  };
  await Promise.all(Array.from({ length: lanes }, lane));
}

let handled = 0;
let wake = () => {};

// Keeps the queue between empty and `backlog` jobs until `seconds` are over.
async function feed({ seconds, batch, calls, backlog }) {
  const end = monotonicNs() + seconds * 1e9;
  let made = 0;
  const lane = async () => {
    while (monotonicNs() < end) {
      if (made + batch - handled > backlog) {
        await new Promise((resolve) => { wake = resolve; setTimeout(resolve, 5); });
        continue;
      }
      made += batch;
      await queue.addBulk(batchOf(batch));
    }
  };
  await Promise.all(Array.from({ length: calls }, lane));
  say({ made });
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

say({ ready: true, node: process.version, pid: process.pid });
await serve({
  bulk: ({ count, batch, calls }) => secondsOf(() => inLanes(calls, count / batch, () => queue.addBulk(batchOf(batch)))),
  lanes: ({ count, lanes }) => secondsOf(() => inLanes(lanes, count, () => queue.add('noop', noop, jobOptions()))),
  feed: (command) => { handled = 0; feed(command); },
  handled: ({ total }) => { handled = total; wake(); },
  stamps: async ({ count, gap_ms }) => {
    for (let i = 0; i < count; i += 1) {
      await pause(gap_ms * (0.5 + Math.random()));
      await queue.add('stamp', { t: monotonicNs(), p: noop.p.slice(25) }, jobOptions());
    }
    return { done: true };
  },
  close: () => queue.close(),
});
