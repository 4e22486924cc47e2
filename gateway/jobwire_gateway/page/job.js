// One job, from where it is now to its end.

import { FINAL, RETRYABLE, ask, cancel, jobLink, jobUrl, queueLink, retry } from "./api.js";
import { h, notice, progressBar, setText, stateLabel, sureButton } from "./dom.js";
import { Stream } from "./stream.js";
import { ago, date, length, timeOfDay, until } from "./time.js";

const LOG_LINES = 500;

export function jobView(main, queue, id) {
  const label = stateLabel();
  const bar = progressBar({ large: true });
  const message = h("p", { class: "soft" });
  const name = h("h1", {}, id);
  const actions = h("div", { class: "actions" });
  const facts = h("dl", { class: "facts" });
  const failure = h("section", { class: "card wide failure", hidden: true });
  const payload = textCard("Payload");
  const result = textCard("Result", { wide: true });
  const log = logCard();
  const missing = h("p", { class: "empty", hidden: true });
  const body = h(
    "div",
    { class: "job", hidden: true },
    h("section", { class: "card wide" }, h("div", { class: "card-head" }, label.element, h("span", { class: "note mono" }, id)), bar.element, message),
    failure,
    h("section", { class: "card" }, h("h2", {}, "Facts"), facts),
    payload.element,
    result.element,
    log.element,
  );
  main.append(h("div", { class: "head" }, name, actions), missing, body);

  let job = null;
  let stream = null;
  let offered = null;

  function show(change) {
    if (job && change.revision < job.revision) return;
    // What a change leaves out is still so, but for what only one state has.
    const lasting = job ? { payload: job.payload, payloadText: job.payloadText, payloadBase64: job.payloadBase64, jobName: job.jobName } : {};
    job = { ...lasting, ...change };
    body.hidden = false;
    missing.hidden = true;
    setText(name, job.jobName ?? id);
    label.update(job.state);
    bar.update(job);
    setText(message, job.progress?.message || sentence(job));
    payload.update(content(job, "payload"));
    result.update(job.truncated ? "It is too large to be shown here; GET /" + jobUrl(queue, id) : content(job, "result"));
    showFailure(failure, job);
    tick();
    offer();
  }

  function offer() {
    const verb = RETRYABLE.has(job.state) ? "retry" : FINAL.has(job.state) ? "" : job.cancelRequested ? "asked" : "cancel";
    if (verb === offered) return;
    offered = verb;
    actions.replaceChildren();
    if (verb === "retry") actions.append(h("button", { type: "button", click: () => act(retry) }, "Retry"));
    if (verb === "cancel") actions.append(sureButton("Cancel", "Really cancel", () => act(cancel)));
    if (verb === "asked") actions.append(h("span", { class: "soft" }, "Asked to give way"));
  }

  async function act(verb) {
    try {
      show(await verb(queue, id));
      watch();
    } catch (error) {
      notice(error.message);
    }
  }

  function watch() {
    if (stream && !stream.closed) return;
    stream = new Stream(`${jobUrl(queue, id)}/events`, (frame) => {
      if (frame.type === "update" || frame.type === "final") show(frame);
      else if (frame.type === "log") log.add(frame);
      const isGone = frame.type === "error" && frame.reason === "JOB_NOT_FOUND";
      if (isGone) gone(frame.detail);
      if (frame.type === "final" || isGone) stream.close("ended");
    });
  }

  function gone(detail) {
    missing.hidden = false;
    body.hidden = job === null;
    setText(missing, detail);
  }

  function tick() {
    if (job) showFacts(facts, job);
  }

  watch();
  ask(jobUrl(queue, id)).then(
    (whole) => {
      if (!job || whole.revision >= job.revision) show(whole);
      else show({ ...whole, ...job });
    },
    () => undefined, // the stream says what there is to say
  );
  const ticking = setInterval(tick, 1000);
  return {
    title: id,
    crumbs: [
      [queue, queueLink(queue)],
      [id, jobLink(queue, id)],
    ],
    close() {
      clearInterval(ticking);
      stream.close();
    },
  };
}

function showFacts(list, job) {
  const rows = [
    ["Attempt", job.attempt ? `${job.attempt} of ${job.maxAttempts}` : `none yet, ${job.maxAttempts} at most`],
    ["Priority", String(job.priority)],
    ["Enqueued", job.createTime && `${ago(job.createTime)}, ${date(job.createTime)}`],
    ["Due", job.state === "delayed" && job.dueTime && `${until(job.dueTime)}, ${date(job.dueTime)}`],
    ["Began", job.startTime && `${ago(job.startTime)}, ${date(job.startTime)}`],
    ["Ended", job.finishTime && `${ago(job.finishTime)}, ${date(job.finishTime)}`],
    ["Took", job.startTime && job.finishTime && length(new Date(job.finishTime) - new Date(job.startTime))],
    ["Worker", job.worker],
    ["Workers lost", job.losses ? String(job.losses) : ""],
  ].filter(([, value]) => value);
  const key = rows.map(([term]) => term).join();
  if (list.dataset.key !== key) {
    list.dataset.key = key;
    list.replaceChildren(...rows.flatMap(([term]) => [h("dt", {}, term), h("dd")]));
  }
  const values = list.querySelectorAll("dd");
  rows.forEach(([, value], index) => setText(values[index], value));
}

function showFailure(section, job) {
  const failure = job.failure;
  section.hidden = !failure;
  if (!failure) return;
  const heading = job.state === "failed" ? "Failure" : "Last failure";
  const head = [failure.reason, failure.type].filter(Boolean).join(", ");
  section.replaceChildren(h("h2", {}, heading), h("p", {}, h("b", {}, head), head && failure.message ? ": " : "", failure.message ?? ""));
  if (failure.stack) section.append(h("pre", { tabindex: 0 }, failure.stack));
}

function sentence(job) {
  const words = { waiting: "Waits for a worker.", delayed: "Waits for its time.", blocked: "Waits for other jobs.", active: "Runs." };
  return words[job.state] ?? "";
}

function content(job, name) {
  if (job[name] !== undefined) return JSON.stringify(job[name], null, 2);
  return job[`${name}Text`] ?? job[`${name}Base64`] ?? "";
}

function textCard(title, { wide = false } = {}) {
  const pre = h("pre", { tabindex: 0 });
  const element = h("section", { class: wide ? "card wide" : "card", hidden: true }, h("h2", {}, title), pre);
  return {
    element,
    update(text) {
      element.hidden = !text;
      setText(pre, text);
    },
  };
}

function logCard() {
  const list = h("ol", { class: "log", tabindex: 0 });
  const element = h("section", { class: "card wide", hidden: true }, h("h2", {}, "Log"), list);
  return {
    element,
    add(frame) {
      element.hidden = false;
      const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 24;
      if (frame.dropped) list.append(h("li", {}, h("span", { class: "level" }, `${frame.dropped} reports left out`)));
      for (const line of frame.lines) {
        const when = h("time", {}, timeOfDay(line.timeMs));
        list.append(h("li", { "data-level": line.level }, when, h("span", { class: "level" }, line.level), h("span", {}, line.message)));
      }
      while (list.children.length > LOG_LINES) list.firstChild.remove();
      if (atEnd) list.scrollTop = list.scrollHeight;
    },
  };
}
