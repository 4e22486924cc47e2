// Handles jobs that do nothing, counts them, and takes the time of those that carry a stamp.
import { Worker } from 'bullmq';
import { connection } from './connection.mjs';
import { monotonicNs, say, serve, settings } from './lines.mjs';

let handled = 0;
let firstNs = 0;
let wanted = Infinity;
let stampsNs = [];

function count() {
  if (handled === 0) firstNs = monotonicNs();
  handled += 1;
  if (handled === wanted) say({ handled, first_ns: firstNs, last_ns: monotonicNs() });
}

async function handle(job) {
  if (job.name === 'stamp') stampsNs.push(monotonicNs() - job.data.t);
  count();
}

async function newWorker() {
  return new Worker(settings.queue, handle, {
    connection: await connection(),
    concurrency: settings.concurrency,
    autorun: false,
    ...(settings.keep === null ? {} : { removeOnComplete: { count: settings.keep } }),
  });
}

const workers = await Promise.all(Array.from({ length: settings.instances ?? 1 }, newWorker));
await Promise.all(workers.map((worker) => worker.waitUntilReady()));

say({ ready: true, pid: process.pid });
await serve({
  // `resume` is `run` for a worker that has not run yet.
  run: () => { for (const worker of workers) worker.resume(); },
  pause: async () => { await Promise.all(workers.map((worker) => worker.pause())); return { paused: true }; },
  expect: ({ count: jobs }) => { handled = 0; wanted = jobs; },
  tell: ({ every_ms }) => { setInterval(() => say({ total: handled }), every_ms).unref(); },
  latencies: () => { const answer = { latencies_ns: stampsNs }; stampsNs = []; return answer; },
  close: () => Promise.all(workers.map((worker) => worker.close(true))),
});
