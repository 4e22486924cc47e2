// A Jobwire worker in Node, without an SDK: @grpc/grpc-js, and the contract read from its .proto files at start.
//
//     npm ci && node worker.mjs 127.0.0.1:7410 mail 4
//
// It takes jobs named `echo` and `wait` from the queue `mail`, at most 4 at once. Several brokers are separated by commas.
//
// 1. A session is 16 random bytes; each connection of it has the next epoch.
// 2. Credit is a running total per stream: what was delivered on it, and the free slots.
// 3. A finish is kept until its ack, and sent again after a reconnect; `held` names all that is kept or running.
// 4. Some frame goes up at least every heartbeat interval; nothing heard for half the session time means that the stream is dead.
// 5. When the lease is over, nothing new is started.
// 6. SESSION_MOVED means that this session is lost: begin a new one.
// 7. SIGTERM: take nothing more, end what runs, wait for the acks, say goodbye.
import { randomBytes } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import { setTimeout as sleep } from 'node:timers/promises';
import grpc from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';

const protoDir = fileURLToPath(new URL('../../../proto', import.meta.url));
// 64-bit numbers as strings: a token does not fit a double after the year 2255, and strings compare as well.
const definition = loadSync('jobwire/v1/worker_service.proto', { includeDirs: [protoDir], longs: String, enums: String, defaults: true });
const { WorkerService } = grpc.loadPackageDefinition(definition).jobwire.v1;

// A connection of its own for each stream: a shared one would lead back to a broker that asked us to go.
const CHANNEL_OPTIONS = { 'grpc.use_local_subchannel_pool': 1, 'grpc.max_receive_message_length': 16 << 20, 'grpc.enable_retries': 0 };

const HANDLERS = {
  echo: async (payload) => payload,
  // Does nothing for a while, in ten steps.
  wait: async ({ seconds }, { progress, signal }) => {
    for (let step = 0; step < 10; step += 1) {
      progress(step * 10);
      await sleep(seconds * 100, undefined, { signal });
    }
    return 'done';
  },
};

const now = () => performance.now() / 1000;
const secondsOf = (duration) => Number(duration.seconds) + duration.nanos / 1e9;
const identityOf = ({ queue, id, token }) => ({ queue, id, token });
const keyOf = ({ queue, id, token }) => `${queue} ${id} ${token}`;

class Worker {
  constructor(targets, queue, concurrency) {
    Object.assign(this, { targets, queue, concurrency });
    this.session = randomBytes(16); // (1)
    this.epoch = 0;
    this.held = new Map(); // (3) key → { identity, finish }; no finish while it runs
    this.running = new Map(); // key → AbortController
    this.delivered = 0;
    this.sessionS = 10;
    this.heartbeatS = 2;
    this.retryAfterS = 0;
    this.ready = {}; // what goes up next
    this.call = null;
  }

  // Goes from stream to stream until the worker was told to end.
  async run() {
    for (let i = 0; !this.over; i += 1) {
      const target = this.targets[i % this.targets.length];
      const status = await this.stream(target);
      console.log(`worker.disconnected target=${target} code=${grpc.status[status.code]}`);
      if (status.code === grpc.status.ABORTED) this.beginAnew();
      if (!this.over) await sleep(1000 * (this.retryAfterS + 0.1 + Math.random() * Math.min(1, this.sessionS / 5)));
    }
  }

  // (6) What comes of the handlers that still run is dropped.
  beginAnew() {
    this.session = randomBytes(16);
    this.epoch = 0;
    this.held.clear();
  }

  async stream(target) {
    const client = new WorkerService(target, grpc.credentials.createInsecure(), CHANNEL_OPTIONS);
    this.open(client.Work());
    const heartbeat = setInterval(() => this.beat(), 100);
    const status = await new Promise((resolve) => {
      this.call.on('data', (frame) => this.receive(frame));
      this.call.on('error', () => {}); // the status says it, too
      this.call.on('status', resolve);
    });
    clearInterval(heartbeat);
    this.call = null;
    client.close();
    return status;
  }

  // Makes the first frame of a stream. The finishes may follow the hello at once.
  open(call) {
    this.call = call;
    this.epoch += 1;
    this.delivered = 0;
    this.retryAfterS = 0;
    this.toldToDrain = false;
    this.heardAt = now();
    this.sentAt = now();
    this.leaseUntil = this.heardAt + this.sessionS;
    const kept = [...this.held.values()];
    const hello = { session: this.session, epoch: this.epoch, queues: [this.queue], held: kept.map((job) => job.identity), sdk: 'plain-node' };
    this.ready = { hello: { ...hello, concurrency: this.concurrency }, finishes: kept.filter((job) => job.finish).map((job) => job.finish) };
    this.offerRoom();
  }

  // (4) Heartbeat and watchdog.
  beat() {
    if (now() - this.heardAt > this.sessionS / 2) this.call.cancel();
    else if (now() - this.sentAt > this.heartbeatS * 0.6) this.send({});
  }

  // Gathers what becomes ready in one turn of the event loop into one frame.
  send(parts) {
    for (const [name, value] of Object.entries(parts)) {
      this.ready[name] = Array.isArray(value) ? [...(this.ready[name] ?? []), ...value] : value;
    }
    this.flushing ??= setImmediate(() => this.flush());
  }

  flush() {
    this.flushing = null;
    if (this.call === null) return;
    const frame = this.ready;
    this.ready = {};
    this.sentAt = now();
    this.call.write(frame);
    if (frame.goodbye) this.call.end();
  }

  // (2) On a new stream `delivered` is 0 again.
  offerRoom() {
    if (this.draining) this.send({ draining: {} });
    else if (!this.toldToDrain) this.send({ credit: { jobs: this.delivered + this.concurrency - this.running.size } });
  }

  receive(frame) {
    this.heardAt = now();
    if (frame.welcome) {
      this.sessionS = secondsOf(frame.welcome.sessionTime);
      this.heartbeatS = secondsOf(frame.welcome.heartbeatInterval);
      console.log(`worker.connected broker=${frame.welcome.brokerId} epoch=${this.epoch} held=${this.held.size}`);
    }
    for (const ack of [...(frame.welcome?.held ?? []), ...(frame.acks ?? [])]) this.held.delete(keyOf(ack));
    for (const job of frame.jobs ?? []) this.start(job);
    for (const cancel of frame.cancels ?? []) this.cancel(cancel);
    if (frame.ping) {
      this.leaseUntil = this.heardAt + secondsOf(frame.ping.leaseLeft);
      this.send({ pong: { number: frame.ping.number } });
    }
    if (frame.drain || frame.resume) {
      this.toldToDrain = Boolean(frame.drain);
      this.offerRoom();
    }
    if (frame.goAway) {
      this.retryAfterS = secondsOf(frame.goAway.retryAfter);
      this.call.cancel();
    }
    this.moved?.();
  }

  cancel(cancel) {
    if (cancel.reason === 'CANCEL_REASON_STALE_LEASE') this.held.delete(keyOf(cancel));
    else this.send({ cancelReceipts: [identityOf(cancel)] });
    this.running.get(keyOf(cancel))?.abort();
  }

  start(job) {
    this.delivered += 1;
    this.held.set(keyOf(job), { identity: identityOf(job) });
    const handler = HANDLERS[job.jobName];
    if (!handler || this.draining || now() > this.leaseUntil) { // (5)
      this.ended(job, { release: { reason: handler ? 'RELEASE_REASON_DRAINING' : 'RELEASE_REASON_NO_HANDLER' } });
    } else {
      this.work(job, handler);
    }
  }

  async work(job, handler) {
    const abort = new AbortController();
    this.running.set(keyOf(job), abort);
    console.log(`job.started id=${job.id} token=${job.token} attempt=${job.attempt}`);
    let outcome;
    try {
      const context = { signal: abort.signal, progress: (percent) => this.progress(job, percent) };
      outcome = { complete: { result: { json: JSON.stringify(await handler(JSON.parse(job.payload.json), context)) } } };
    } catch (error) {
      outcome = { fail: { failure: { type: error.name, message: error.message } } };
    }
    this.running.delete(keyOf(job));
    this.ended(job, outcome);
  }

  progress(job, percent) {
    if (this.held.has(keyOf(job))) this.send({ progress: [{ ...identityOf(job), progress: { percent } }] });
  }

  // The slot is free; the finish is kept, unless the lease was lost meanwhile.
  ended(job, outcome) {
    const kept = this.held.get(keyOf(job));
    if (kept) {
      kept.finish = { ...kept.identity, ...outcome };
      this.send({ finishes: [kept.finish] });
    }
    this.offerRoom();
    this.moved?.();
  }

  // (7)
  async drain() {
    this.draining = true;
    this.offerRoom();
    while (this.held.size > 0 || this.running.size > 0) await new Promise((resolve) => { this.moved = resolve; });
    this.over = true;
    this.send({ goodbye: {} });
  }
}

const [targets, queue, concurrency] = process.argv.slice(2);
const worker = new Worker(targets.split(','), queue, Number(concurrency));
for (const signal of ['SIGTERM', 'SIGINT']) process.once(signal, () => worker.drain());
await worker.run();
process.exit(0);
