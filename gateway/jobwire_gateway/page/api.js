// The gateway's REST calls. All addresses are relative, so that the page works under any path.

export const STATES = ["waiting", "active", "delayed", "blocked", "completed", "failed", "cancelled", "expired"];
export const FINAL = new Set(["completed", "failed", "cancelled", "expired", "removed"]);
export const RETRYABLE = new Set(["failed", "cancelled", "expired"]);

const part = encodeURIComponent;

export function jobUrl(queue, id) {
  return `v1/queues/${part(queue)}/jobs/${part(id)}`;
}

export function queueUrl(queue) {
  return `v1/queues/${part(queue)}`;
}

export function jobLink(queue, id) {
  return `#/queues/${part(queue)}/jobs/${part(id)}`;
}

export function queueLink(queue, state) {
  return `#/queues/${part(queue)}${state ? `?state=${part(state)}` : ""}`;
}

// Asks, and gives the answer's JSON. Throws an Error with a sentence for people.
export async function ask(url, options = {}) {
  let response;
  try {
    response = await fetch(url, { headers: { accept: "application/json" }, ...options });
  } catch {
    throw new Error("The gateway cannot be reached.");
  }
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(body.detail || `The gateway answered ${response.status}.`);
  return body;
}

export const cancel = (queue, id) => ask(`${jobUrl(queue, id)}:cancel`, { method: "POST" });
export const retry = (queue, id) => ask(`${jobUrl(queue, id)}:retry`, { method: "POST" });
