// Elements, made so that nothing from a job is ever read as markup: strings become text nodes and attributes, never HTML.

// Makes an element. Of `attributes`, functions become listeners, `true` an empty attribute, and null, undefined and false nothing.
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

// Writes text only where it has changed, so that a selection or a screen reader is not disturbed.
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// Shows a sentence for a few seconds.
export function notice(sentence) {
  const element = h("p", {}, sentence);
  document.getElementById("notices").append(element);
  setTimeout(() => element.remove(), 6000);
}

// A button that asks once more before it does what cannot be undone.
export function sureButton(label, question, act) {
  let timer = 0;
  const button = h("button", { type: "button", click: press }, label);
  function calm() {
    clearTimeout(timer);
    delete button.dataset.sure;
    setText(button, label);
  }
  async function press() {
    if (!button.dataset.sure) {
      button.dataset.sure = "true";
      setText(button, question);
      timer = setTimeout(calm, 4000);
      return;
    }
    calm();
    button.disabled = true;
    try {
      await act();
    } finally {
      button.disabled = false;
    }
  }
  return button;
}

// A bar with its percentage. `update(job)` moves it.
export function progressBar({ large = false } = {}) {
  const fill = h("i");
  const track = h("div", { class: "track", role: "progressbar", "aria-valuemin": 0, "aria-valuemax": 100, "aria-label": "Progress" }, fill);
  const output = h("output");
  const element = h("div", { class: large ? "progress large" : "progress" }, track, output);
  function update(job) {
    const percent = job.progress ? job.progress.percent : job.state === "completed" ? 100 : 0;
    element.dataset.state = job.state;
    fill.style.setProperty("--percent", percent);
    track.setAttribute("aria-valuenow", percent);
    setText(output, `${Math.floor(percent)} %`);
    element.title = job.progress?.message ?? "";
  }
  return { element, update };
}

export function stateLabel() {
  const element = h("span", { class: "state" });
  return {
    element,
    update(state) {
      element.dataset.state = state;
      setText(element, String(state));
    },
  };
}
