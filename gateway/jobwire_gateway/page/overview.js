// All queues with their counts.

import { queueLink } from "./api.js";
import { h, setText } from "./dom.js";
import { Stream } from "./stream.js";

const SHOWN = ["waiting", "active", "completed", "failed"];
const SHARES = ["active", "waiting", "delayed", "completed", "failed"];

export function overview(main) {
  const grid = h("div", { class: "queues" });
  const empty = h("p", { class: "empty", hidden: true }, "No job was ever enqueued here.", h("br"), h("code", { class: "mono" }, "jobwire enqueue QUEUE JOB_NAME '{}'"));
  main.append(h("div", { class: "head" }, h("h1", {}, "Queues")), grid, empty);
  const cards = new Map();
  const stream = new Stream("v1/stats/stream", (frame) => {
    if (frame.type !== "update") return;
    for (const queue of frame.queues) {
      if (!cards.has(queue.queue)) insert(grid, cards, queue.queue);
      cards.get(queue.queue).update(queue);
    }
    empty.hidden = cards.size > 0;
  });
  return { title: "Queues", crumbs: [], close: () => stream.close() };
}

// Cards stand by name.
function insert(grid, cards, name) {
  const card = queueCard(name);
  const after = [...cards.keys()].filter((other) => other > name).sort()[0];
  grid.insertBefore(card.element, after ? cards.get(after).element : null);
  cards.set(name, card);
}

function queueCard(name) {
  const note = h("span", { class: "note" });
  const figures = new Map(SHOWN.map((state) => [state, h("dd", { class: "number" }, "0")]));
  const shares = new Map(SHARES.map((state) => [state, h("i", { "data-state": state })]));
  const element = h(
    "a",
    { class: "card", href: queueLink(name) },
    h("div", { class: "card-head" }, h("b", {}, name), note),
    h("dl", { class: "figures" }, SHOWN.flatMap((state) => [h("dt", {}, state), figures.get(state)])),
    h("div", { class: "shares", "aria-hidden": "true" }, [...shares.values()]),
  );
  function update(queue) {
    const workers = queue.workers === 1 ? "1 worker" : `${queue.workers} workers`;
    setText(note, queue.paused ? `paused, ${workers}` : workers);
    for (const [state, figure] of figures) {
      setText(figure, queue.counts[state].toLocaleString());
      figure.dataset.zero = queue.counts[state] === 0;
    }
    for (const [state, share] of shares) share.style.flexGrow = queue.counts[state];
  }
  return { element, update };
}
