// Which view the address names: `#/`, `#/queues/q?state=active`, `#/queues/q/jobs/id`. Addresses can be shared.

import { STATES } from "./api.js";
import { h } from "./dom.js";
import { jobView } from "./job.js";
import { overview } from "./overview.js";
import { queueView } from "./queue.js";
import { needSession } from "./session.js";

const main = document.getElementById("main");
let view = null;

function route() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [root, queue, kind, id] = path.split("/").map(decode);
  if (root === "queues" && queue && kind === "jobs" && id) return () => jobView(main, queue, id);
  if (root === "queues" && queue) {
    const asked = new URLSearchParams(query).get("state");
    return () => queueView(main, queue, STATES.includes(asked) ? asked : "active");
  }
  return () => overview(main);
}

function show() {
  if (location.hash === "#main") return;
  const moved = view !== null;
  view?.close();
  main.replaceChildren();
  view = route()();
  document.title = `${view.title} · Jobwire`;
  const crumbs = view.crumbs.flatMap(([text, href]) => [h("span", { "aria-hidden": "true" }, "/"), h("a", { href, title: text }, text)]);
  document.getElementById("crumbs").replaceChildren(...crumbs);
  if (moved) {
    main.focus({ preventScroll: true });
    scrollTo(0, 0);
  }
}

function decode(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

addEventListener("hashchange", show);
needSession();
show();
