// The connection to the store, through the driver that was asked for.
import { settings } from './lines.mjs';

async function nodeRedis() {
  const { createClient } = await import('redis');
  const client = createClient({ socket: { path: settings.socket } });
  client.on('error', () => {});
  await client.connect();
  return client;
}

// ioredis unless `driver` is "node-redis". `auto_pipelining` gathers the commands of one turn of the event loop into one write (ioredis only).
export async function connection() {
  if (settings.driver === 'node-redis') return nodeRedis();
  return { path: settings.socket, maxRetriesPerRequest: null, enableAutoPipelining: settings.auto_pipelining ?? false };
}
