// One event stream: opened while the page is seen, reopened when it broke, and its condition shown in the page's head.
//
// A browser reconnects by itself after a break, but gives up for good on any status but 200. A proxy's 502 during a deploy passes, so the stream is opened
// anew here; a session that has ended does not come back, so its user is asked to sign in again. A page in the background for a minute closes its streams,
// since a browser has only six connections for all tabs.

import { needSession } from "./session.js";

const HIDDEN_MS = 60_000;
const streams = new Set();

export class Stream {
  // `onMessage` gets each frame's JSON. Frames of the gateway itself (degraded, drain) come too.
  constructor(url, onMessage) {
    this.url = url;
    this.onMessage = onMessage;
    this.condition = "connecting";
    streams.add(this);
    this.open();
  }

  open() {
    if (this.source || this.closed) return;
    this.source = new EventSource(this.url);
    this.source.onmessage = (event) => this.take(JSON.parse(event.data));
    this.source.onerror = () => this.broken();
  }

  take(frame) {
    if (frame.type === "degraded") this.say(frame.degraded ? "degraded" : "live");
    else if (frame.type === "drain") this.say("reconnecting");
    else this.say("live");
    this.onMessage(frame);
  }

  broken() {
    if (!this.source) return;
    this.say("reconnecting");
    if (this.source.readyState === EventSource.CLOSED) {
      this.pause();
      needSession();
      this.timer = setTimeout(() => this.open(), 2000 + 3000 * Math.random());
    }
  }

  pause() {
    clearTimeout(this.timer);
    this.source?.close();
    this.source = null;
  }

  // Nothing comes any more.
  close(condition = "closed") {
    this.pause();
    this.closed = true;
    this.condition = condition;
    streams.delete(this);
    show();
  }

  say(condition) {
    this.condition = condition;
    show();
  }
}

let hiding = 0;
document.addEventListener("visibilitychange", () => {
  clearTimeout(hiding);
  if (document.hidden) hiding = setTimeout(() => streams.forEach((stream) => stream.pause()), HIDDEN_MS);
  else streams.forEach((stream) => stream.open());
});

function show() {
  const conditions = new Set([...streams].map((stream) => stream.condition));
  const worst = ["reconnecting", "degraded", "connecting", "live"].find((condition) => conditions.has(condition)) ?? "idle";
  const words = { reconnecting: "reconnecting", degraded: "cut off, waiting", connecting: "connecting", live: "live", idle: "at rest" };
  const element = document.getElementById("status");
  if (element.dataset.status === worst) return;
  element.dataset.status = worst;
  element.textContent = words[worst];
}
