// Questions to the library. The page comes with the answers to its first ones; any other starts the worker.

/** A request as text, with its fields in alphabetical order, so that the same question has the same key. */
export function key(request) {
  return JSON.stringify(request, (_, value) =>
    value && typeof value === "object" && !Array.isArray(value)
      ? Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)))
      : value,
  );
}

const known = new Map();
// Questions that wait for the worker, which answers one at a time: what the reader waits for goes before the others.
const waiting = { urgent: [], patient: [] };
let asked; // the one that the worker has
let worker;
let told = () => {};
let state = "asleep";

/** Answers that are there from the start: [{request, response}]. */
export function know(pairs) {
  for (const { request, response } of pairs) known.set(key(request), response);
}

/** Says what becomes of the library: "asleep", "loading", "ready", or "failed" with the reason. */
export function watch(f) {
  told = f;
  f(state);
}

function become(next, why) {
  state = next;
  told(next, why);
}

/** Starts the worker, if it does not run. */
export function wake() {
  if (worker) return;
  become("loading");
  worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module", name: "intercept" });
  worker.onmessage = ({ data }) => {
    if (data.failed) return fail(data.failed);
    if (data.ready) become("ready");
    else {
      const { text, resolve } = asked;
      asked = undefined;
      const response = JSON.parse(data.text);
      if (known.size > 500) known.delete(known.keys().next().value);
      known.set(text, response);
      resolve(response);
    }
    setTimeout(next); // what is asked because of this answer goes before what is patient
  };
  worker.onerror = (event) => fail(event.message || "the worker did not start");
}

function next() {
  if (asked || state !== "ready") return;
  asked = waiting.urgent.shift() ?? waiting.patient.shift();
  if (asked) worker.postMessage({ text: asked.text });
}

function fail(why) {
  worker?.terminate();
  worker = undefined;
  become("failed", why);
  for (const { resolve } of [asked, ...waiting.urgent.splice(0), ...waiting.patient.splice(0)].filter(Boolean)) {
    resolve({ error: { text: `the library could not be loaded: ${why}` } });
  }
  asked = undefined;
}

/**
 * The library's answer to a request. It never rejects: an error is an answer with the field error. patient: others may
 * go before. last: a patient one for the same that still waits is dropped, and never answered.
 */
export function ask(request, { patient = false, last } = {}) {
  const text = key(request);
  const answer = known.get(text);
  if (answer) return Promise.resolve(answer);
  wake();
  return new Promise((resolve) => {
    if (last) waiting.patient = waiting.patient.filter((each) => each.last !== last);
    waiting[patient ? "patient" : "urgent"].push({ text, resolve, last });
    next();
  });
}
