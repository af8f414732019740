// The page: what is asked, and where each answer is shown.
import { ask, know, wake, watch } from "./ask.js";
import * as config from "./config.js";
import { at, h, replace, tabs } from "./dom.js";
import * as packets from "./packet.js";
import { configurations, packets as ready } from "./scenarios.js";
import * as answer from "./answer.js";
import first from "./first.js";

const state = { source: {}, packet: ready[0].packet, read: undefined, view: "matrix", form: "form", shown: "" };

let views; // what comes with the library
let node = { current() {}, close() {} };
let schema;
let turn = 0;
let selectView;
let selectForm;
let opening = false; // an address is being opened: nothing of it is the reader's own
let chosen = false; // the reader has chosen another case, to which Back leads back

async function begin() {
  know(first);
  library();
  schema = await ask({ op: "schema" });
  if (schema.error) return news(schema.error.text);
  config.setUp(schema, (read, source, written) => {
    state.read = read;
    state.source = source;
    node.reads?.(written, source);
    preset();
    if (!opening) moved();
    refresh();
  });
  packets.setUp((packet, scenario) => {
    if (scenario) chosen = true;
    state.packet = packet;
    moved();
    refresh();
  });
  at("preset").append(
    ...configurations.map(({ id, name }) => h("option", { value: id }, name)),
    h("option", { value: "own", disabled: true }, "your own"),
  );
  at("preset").addEventListener("change", ({ target }) => {
    chosen = true;
    leave();
    config.write({ fields: { ...configurations.find(({ id }) => id === target.value).fields } });
  });
  at("cases").addEventListener("change", ({ target }) => {
    const one = state.cases.find(({ name }) => name === target.value);
    if (!one) return;
    chosen = true;
    leave();
    state.packet = { from: "app", ...one.packet };
    packets.show(state.packet);
    config.write({ fields: { ...one.fields } });
  });
  selectForm = tabs(at("forms"), (name) => {
    state.form = name;
    link();
  });
  selectView = tabs(at("views"), (name) => {
    state.view = name;
    near = true;
    show();
    link();
  });
  at("open-node").addEventListener("click", () => {
    selectView("node", true);
    at("views").scrollIntoView({ block: "center" });
  });
  new IntersectionObserver(
    ([entry]) => {
      near = entry.isIntersecting;
      show();
    },
    { rootMargin: "300px" },
  ).observe(at("views").parentElement);
  at("whynot").addEventListener("toggle", () => {
    if (at("whynot").open && state.explained) why();
  });
  at("share").addEventListener("click", share);
  addEventListener("hashchange", open);
  small();
  await open();
  soon();
}

/** What the address names other than a place on the page: a case. */
function named() {
  const text = location.hash.slice(1);
  return text && !document.getElementById(text) ? text : "";
}

/** Asks all there is to ask about the configuration and the packet, and shows it. */
async function refresh() {
  const mine = ++turn;
  at("shared").replaceChildren();
  clearTimeout(slow);
  slow = setTimeout(() => {
    at("working").hidden = false;
  }, 400);
  const [explained, rules] = await Promise.all([
    ask({ op: "explain", source: state.source, packet: state.packet }),
    ask({ op: "chains", source: state.source }),
  ]);
  if (mine !== turn) return;
  clearTimeout(slow);
  at("working").hidden = true;
  const problems = explained.error ? (explained.error.all ?? [explained.error]) : [];
  const placed = packets.complain(problems);
  if (explained.error) {
    answer.refuse(explained.error, placed);
    config.mark([], "passed");
    return;
  }
  state.explained = explained;
  state.rules = rules;
  const fate = answer.show({
    ...state,
    scenario: packets.scenarioOf(state.packet),
    case: caseOf(),
    node: node.current(),
  });
  config.mark(answer.fieldsOf(explained, state.read), fate);
  at("tab-lint").textContent = state.read.warnings.length ? `Warnings (${state.read.warnings.length})` : "Warnings";
  link(); // it takes no time, and all traffic does
  show();
  answer.ways(explained, Boolean(views));
  if (at("whynot").open) why();
}

/** Asks what would have to change for another fate, once somebody wants to know. */
async function why() {
  const mine = turn;
  const got = await ask({ op: "whynot", source: state.source, packet: state.packet });
  if (mine === turn) answer.why(got, change);
}

/** The case that the page shows, if it is one. */
function caseOf() {
  const same = (fields) =>
    JSON.stringify(Object.entries(fields).sort()) === JSON.stringify(Object.entries(state.source.fields ?? {}).sort());
  const found = packets.among(
    (state.cases ?? []).filter(({ fields }) => same(fields)),
    state.packet,
  );
  at("cases").value = found?.name ?? "";
  return found;
}

/** Changes settings: what whynot proposes, by flags. */
function change(flags) {
  const fields = { ...state.source.fields };
  for (const flag of flags) {
    const [, name, value] = /^(--[^=]+)(?:=(.*))?$/s.exec(flag);
    fields[schema.fields.find((field) => field.flag === name).path] = value ?? "true";
  }
  chosen = true;
  leave();
  config.write({ fields });
}

/** What is not of the first view is loaded together with the library. */
async function more() {
  [views, node] = await Promise.all([import("./views.js"), import("./node.js")]);
  node.setUp({ opened, left: leave });
  state.cases = (await ask({ op: "scenarios" }, { patient: true })).scenarios ?? [];
  at("cases").append(...state.cases.map(({ name, title }) => h("option", { value: name }, title)));
  views.setUp((packet) => {
    chosen = true;
    state.packet = packet;
    packets.show(packet);
    moved();
    refresh();
    at("answer").scrollIntoView({ block: "start" });
    at("answer").focus({ preventScroll: true });
  }, link);
  views.compare(state.other);
  if (state.explained) refresh();
}

let slow; // says that an answer is being worked out, if it is not there at once
let near = false; // whether the views are on the screen, or nearly

/** Shows the view that is chosen, and only that, as soon as somebody can see it. */
function show() {
  if (state.explained && near && views) views.show(state.view, { ...state, node: node.current() });
  const panel = at(`panel-${state.view}`);
  if (!views && document.documentElement.dataset.library === "loading")
    replace(panel, h("p", { class: "working", role: "status" }, "Being worked out…"));
}

function preset() {
  const plain = (fields) => JSON.stringify(Object.entries(fields ?? {}).sort());
  const same = configurations.find(({ fields }) => plain(fields) === plain(state.source.fields));
  at("preset").value = same?.id ?? "own";
}

/** What the page shows, as a question for a link: the configuration in the form that is open, if that can say it. */
function shown() {
  const text = state.read.forms[state.form];
  const source = text === undefined || state.read.unsaid?.[state.form] ? state.source : { form: state.form, text };
  const unsaid = state.view === "matrix" || (state.view === "node" && node.current()); // a document is in no link
  const view = unsaid ? undefined : state.view;
  const other = state.view === "diff" ? (views ? views.compared() : state.other) : undefined;
  return { op: "link", source, packet: state.packet, view, ...(other && { other, compare: true }) };
}

/** The end of the address of what the page shows. What is compared with may be wrong: then it is left out. */
async function linked() {
  const { other, ...rest } = shown();
  const got = await ask(other ? { ...rest, other } : rest, { patient: true });
  return got.error && other ? ask({ ...rest, compare: undefined }, { patient: true }) : got;
}

/**
 * Puts the case into the address, so that the address can be given on. What the page begins with needs none, and a
 * document from a node has none. What the reader has chosen is another step of the browser's history; what is typed is
 * not.
 */
async function link() {
  if (!state.read || opening) return;
  const first =
    !state.read.changed.length &&
    packets.scenarioOf(state.packet) === ready[0] &&
    state.view === "matrix" &&
    state.form === "form";
  const mine = turn;
  const text = first || node.current() ? "" : ((await linked()).text ?? "");
  if (mine !== turn || opening) return;
  state.shown = text ? `#${text}` : "";
  const step = chosen ? "pushState" : "replaceState";
  chosen = false;
  if (location.hash !== state.shown) history[step](null, "", state.shown || location.pathname + location.search);
}

/** Opens the case that the address names. */
async function open() {
  if (location.hash === state.shown && state.read) return;
  const text = named();
  if (location.hash && !text && state.read) return moved(); // a place on the page
  const mine = location.hash;
  state.shown = mine;
  opening = true;
  let source = {};
  let packet = ready[0].packet;
  if (text) {
    if (document.documentElement.dataset.library !== "ready") answer.pending();
    const got = await ask({ op: "unlink", text });
    const read = got.error ? got : await ask({ op: "read", source: got.source });
    if (state.shown !== mine) return; // another one is being opened by now
    if (got.error) unopened(`The address names no case: ${got.error.text}`);
    else if (read.error) {
      const { source: of, field, text: why } = read.error;
      unopened(`The configuration of the address is refused, so these are the defaults. ${of || field}: ${why}`);
    } else {
      at("news").hidden = true;
      source = got.source;
      packet = got.packet ? { from: "app", ...got.packet } : packet;
      state.other = got.other;
      views?.compare(got.other);
      selectForm(got.form || "form");
      selectView(got.view || "matrix");
    }
  } else if (state.read) {
    selectForm("form");
    selectView("matrix");
  }
  if (node.current()) node.close();
  state.packet = packet;
  packets.show(packet);
  await config.write(source);
  opening = false;
  link();
}

function unopened(text) {
  news(text);
  at("news").dataset.of = "address";
}

/** The reader has asked something: what was said of the address is of no use any more. */
function moved() {
  if (at("news").dataset.of === "address") at("news").hidden = true;
}

async function share() {
  const got = await linked();
  if (got.error) {
    at("shared").textContent = got.error.text;
    return;
  }
  const address = new URL(`#${got.text}`, location.href).href;
  const without = node.current() ? " The document is not in it, only its configuration." : "";
  try {
    await navigator.clipboard.writeText(address);
    at("shared").textContent = `Copied.${without}`;
  } catch {
    replace(at("shared"), h("code", null, address), without);
  }
}

/** A support document has been opened: packets are asked against what is in force there. */
function opened(source) {
  selectView("node");
  at("news").hidden = true;
  config.write(source);
}

function leave() {
  if (!node.current()) return;
  node.close();
  refresh();
}

function news(...what) {
  at("news").hidden = false;
  at("news").dataset.of = "";
  replace(at("news"), what);
}

/** On a narrow page the configuration is one line until somebody opens it: the answer comes first. */
function small() {
  if (matchMedia("(max-width: 999px)").matches) at("config-details").open = false;
}

function library() {
  const words = {
    asleep: "The library is loaded with your first change.",
    loading: "The library is being loaded…",
    ready: "The library is loaded.",
  };
  watch((now, why) => {
    document.documentElement.dataset.library = now;
    if (now === "loading") {
      more();
      show();
    }
    at("library").textContent = words[now] ?? `The library could not be loaded: ${why}`;
    if (now === "failed") {
      news(`The library could not be loaded: ${why}. The first answers are still right; others need it.`);
      for (const each of document.querySelectorAll(".panel > .working")) each.textContent = "It needs the library.";
    }
  });
}

/** What has time until somebody means to stay: the library, and keeping all of it for when there is no network. */
function soon() {
  const signs = ["pointerdown", "pointermove", "keydown", "wheel", "touchstart"];
  const then = () => {
    clearTimeout(timer);
    for (const sign of signs) removeEventListener(sign, then);
    if (!navigator.connection?.saveData) wake();
    keep();
  };
  const timer = setTimeout(then, 6000);
  for (const sign of signs) addEventListener(sign, then, { passive: true });
}

async function keep() {
  if (!("serviceWorker" in navigator)) return;
  let registration;
  try {
    registration = await navigator.serviceWorker.register("./sw.js", { updateViaCache: "none" });
  } catch {
    return; // served by plain HTTP, or in a private window: it works, but not without the network
  }
  const tell = (worker) =>
    news(
      "There is a newer version of this page. ",
      h("button", { type: "button", onclick: () => worker.postMessage("take over") }, "Load it"),
    );
  const had = Boolean(navigator.serviceWorker.controller);
  navigator.serviceWorker.addEventListener("controllerchange", () => {
    if (had) location.reload();
  });
  if (registration.waiting && had) tell(registration.waiting);
  registration.addEventListener("updatefound", () => {
    const worker = registration.installing;
    worker.addEventListener("statechange", () => {
      if (worker.state === "installed" && navigator.serviceWorker.controller) tell(worker);
    });
  });
  await navigator.serviceWorker.ready;
  document.documentElement.dataset.kept = "";
}

begin();
