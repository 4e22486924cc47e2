// The jobs of one queue in one state, as they come and go.
//
// The order of things: the stream is heard first, then the list is read, so nothing falls between; what the stream said meanwhile wins where its
// revision is the greater. The list is read again when the stream tells of a gap, and when rows have left and there are more than are shown; but at
// most once a second, since a queue that is too fast to be followed gives a gap after the other.

import { FINAL, RETRYABLE, STATES, ask, cancel, jobLink, queueLink, queueUrl, retry } from "./api.js";
import { h, notice, progressBar, setText, sureButton } from "./dom.js";
import { Stream } from "./stream.js";
import { ago, date, until } from "./time.js";

const ROWS = 100;
const PAUSE_MS = 1000;
const IDLE = new Set(["waiting", "delayed", "blocked"]);

export function queueView(main, queue, state) {
  const rows = new Map();
  const table = jobTable(state);
  const tabs = stateTabs(queue, state);
  const note = h("span", { class: "soft" });
  const footnote = h("p", { class: "footnote" });
  const empty = h("p", { class: "empty" }, "Looking …");
  main.append(h("div", { class: "head" }, h("h1", {}, queue), note), tabs.element, h("div", { class: "sheet" }, table.element, empty), footnote);

  let seen = new Map();
  let reading = false;
  let planned = 0;
  let lastRead = -PAUSE_MS;
  let count = 0;
  let closed = false;
  let drawing = 0;

  function plan() {
    planned ||= setTimeout(read, Math.max(0, lastRead + PAUSE_MS - performance.now()));
  }

  async function read() {
    planned = 0;
    if (reading) return plan();
    reading = true;
    lastRead = performance.now();
    seen = new Map();
    try {
      const { jobs } = await ask(`${queueUrl(queue)}/jobs?state=${state}&pageSize=${ROWS}`);
      if (!closed) replace(jobs);
    } catch (error) {
      if (!closed) notice(error.message);
    }
    reading = false;
  }

  function replace(jobs) {
    const listed = new Set(jobs.map((job) => job.id));
    for (const id of [...rows.keys()]) if (!listed.has(id) && seen.get(id)?.state !== state) remove(id);
    for (const job of jobs) {
      const newer = seen.get(job.id);
      if (newer && newer.revision > job.revision) continue;
      if (rows.has(job.id)) rows.get(job.id).update(job);
      else add(job, false);
    }
    draw();
  }

  function take(job) {
    if (reading) seen.set(job.id, job);
    const row = rows.get(job.id);
    if (job.state !== state) remove(job.id);
    else if (row) row.update(job);
    else if (rows.size < ROWS || FINAL.has(state)) add(job, FINAL.has(state));
    draw();
  }

  function add(job, first) {
    const row = jobRow(queue, job);
    rows.set(job.id, row);
    table.body.insertBefore(row.element, first ? table.body.firstChild : null);
    if (rows.size > ROWS) remove(rowIds().at(-1));
  }

  function remove(id) {
    rows.get(id)?.element.remove();
    rows.delete(id);
  }

  function rowIds() {
    return [...table.body.children].map((element) => element.dataset.id);
  }

  // At most once per frame, however many jobs change.
  function draw() {
    drawing ||= requestAnimationFrame(() => {
      drawing = 0;
      const more = count - rows.size;
      empty.hidden = rows.size > 0;
      table.element.hidden = rows.size === 0;
      setText(empty, `No ${state} job.`);
      setText(footnote, rows.size > 0 && more > 0 ? `The first ${rows.size.toLocaleString()} of ${count.toLocaleString()}.` : "");
      if (more > 0 && rows.size < ROWS / 4) plan();
    });
  }

  const changes = new Stream(`${queueUrl(queue)}/events`, (frame) => {
    if (frame.type === "connected" || frame.type === "gap") plan();
    else if (frame.type === "update" || frame.type === "final") take(frame);
  });
  const counts = new Stream("v1/stats/stream", (frame) => {
    const mine = frame.type === "update" && frame.queues.find((other) => other.queue === queue);
    if (!mine) return;
    count = mine.counts[state];
    tabs.update(mine.counts);
    setText(note, [mine.paused ? "paused" : "", mine.workers === 1 ? "1 worker" : `${mine.workers} workers`].filter(Boolean).join(", "));
    draw();
  });
  const ticking = setInterval(() => rows.forEach((row) => row.tick()), 1000);

  return {
    title: queue,
    crumbs: [[queue, queueLink(queue)]],
    close() {
      closed = true;
      clearInterval(ticking);
      clearTimeout(planned);
      cancelAnimationFrame(drawing);
      changes.close();
      counts.close();
    },
  };
}

function stateTabs(queue, current) {
  const figures = new Map(STATES.map((state) => [state, h("span")]));
  const links = STATES.map((state) => h("a", { href: queueLink(queue, state), "aria-current": state === current ? "page" : null }, state, figures.get(state)));
  const element = h("nav", { class: "tabs", "aria-label": "States" }, links);
  requestAnimationFrame(() => element.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" }));
  return {
    element,
    update(counts) {
      for (const [state, figure] of figures) setText(figure, counts[state].toLocaleString());
    },
  };
}

function jobTable(state) {
  const body = h("tbody");
  const head = h(
    "thead",
    {},
    h(
      "tr",
      {},
      h("th", { scope: "col", class: "id" }, "Job"),
      h("th", { scope: "col", class: "progress-column" }, state === "failed" ? "Failure" : "Progress"),
      h("th", { scope: "col" }, "Attempt"),
      h("th", { scope: "col" }, state === "delayed" ? "Due" : FINAL.has(state) ? "Ended" : state === "active" ? "Began" : "Enqueued"),
      h("th", { scope: "col", class: "act", "aria-label": "What can be done" }),
    ),
  );
  return { element: h("table", { hidden: true }, head, body), body };
}

function jobRow(queue, job) {
  const dot = h("span", { class: "dot", "aria-hidden": "true" });
  const bar = progressBar();
  const said = h("span", { class: "said" });
  const attempt = h("td", { class: "attempt" });
  const name = h("span");
  const when = h("td", { class: "when" });
  const act = h("td", { class: "act" });
  const element = h(
    "tr",
    { "data-id": job.id },
    h("td", { class: "id" }, h("a", { href: jobLink(queue, job.id), title: job.id }, dot, name, " ", h("span", { class: "mono soft" }, shortId(job.id)))),
    h("td", { class: "progress-column" }, bar.element, said),
    attempt,
    when,
    act,
  );
  let now = job;
  let acted = "";
  function update(change) {
    if (change.revision < now.revision) return;
    now = { ...now, ...change };
    setText(name, now.jobName ?? "");
    dot.dataset.state = now.state;
    setText(attempt, now.attempt ? `${now.attempt} of ${now.maxAttempts}` : `none of ${now.maxAttempts}`);
    const failed = now.state === "failed" && Boolean(now.failure);
    bar.element.hidden = failed || (!now.progress && IDLE.has(now.state));
    setText(said, failed ? now.failure.message || now.failure.type || now.failure.reason : now.state === "completed" ? "" : (now.progress?.message ?? ""));
    bar.update(now);
    offer();
    tick();
  }
  function offer() {
    const verb = RETRYABLE.has(now.state) ? "retry" : FINAL.has(now.state) ? "" : "cancel";
    if (verb === acted) return;
    acted = verb;
    act.replaceChildren();
    if (verb === "retry") act.append(h("button", { type: "button", click: () => tried(retry(queue, job.id)) }, "Retry"));
    if (verb === "cancel") act.append(sureButton("Cancel", "Really cancel", () => tried(cancel(queue, job.id))));
  }
  function tick() {
    const [text, moment] =
      now.state === "delayed" && now.dueTime
        ? [until(now.dueTime), now.dueTime]
        : FINAL.has(now.state) && now.finishTime
          ? [ago(now.finishTime), now.finishTime]
          : now.state === "active" && now.startTime
            ? [ago(now.startTime), now.startTime]
            : [now.createTime ? ago(now.createTime) : "", now.createTime];
    setText(when, text);
    when.title = date(moment);
  }
  update(job);
  return { element, update, tick };
}

// The end of an id, which is what differs between jobs of one minute.
function shortId(id) {
  return id.length > 14 ? `…${id.slice(-8)}` : id;
}

async function tried(call) {
  try {
    await call;
  } catch (error) {
    notice(error.message);
  }
}
