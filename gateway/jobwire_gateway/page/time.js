// Dates and lengths of time in words.

const clock = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const time = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });

export function date(text) {
  return text ? clock.format(new Date(text)) : "";
}

export function timeOfDay(milliseconds) {
  return time.format(new Date(milliseconds));
}

export function length(milliseconds) {
  const seconds = Math.max(0, milliseconds) / 1000;
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} d`;
}

// Whole seconds: this is counted up before people's eyes.
export function ago(text) {
  const seconds = Math.floor((Date.now() - new Date(text).getTime()) / 1000);
  if (seconds < 1) return "now";
  return `${seconds < 10 ? `${seconds} s` : length(seconds * 1000)} ago`;
}

export function until(text) {
  const milliseconds = new Date(text).getTime() - Date.now();
  return milliseconds <= 0 ? "due" : `in ${length(milliseconds)}`;
}
