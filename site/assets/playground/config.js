// The configuration in its five forms. Whichever is edited is read by the library, and the others are written anew from
// what it has read. What the library refuses is said at its field, and the other forms stay as they were.
import { ask } from "./ask.js";
import { at, h, later, replace } from "./dom.js";

const texts = {
  yaml: { label: "A file for mesh-init --config", about: "YAML or JSON. What is not in it has its default." },
  flags: { label: "A command line of mesh-init", about: "As a shell reads it." },
  annotations: {
    label: "Annotations of a pod",
    about: "One a line, or a pod's whole YAML. Istio's, Linkerd's, Kuma's and Consul's are read, too.",
  },
  istio: {
    label: "A command line of istio-iptables",
    about: "The flags that Istio's init container is given. They are read as mesh-init reads them.",
  },
};

let schema;
let changed; // called with what read answers, and the source, normalised
let controls = new Map(); // of the form, by path
const areas = {};
let draft = {}; // the form's fields as they are written, right or wrong
let deciding = [];
let turn = 0;
let form = "form";

/** Makes the five editors. onchange gets the library's reading of every valid configuration. */
export function setUp(fields, onchange) {
  schema = fields;
  changed = onchange;
  const groups = schema.sections.map((section) => {
    const mine = schema.fields.filter((field) => field.section === section);
    return h(
      "details",
      { class: "group", "data-section": section },
      h("summary", null, short(section), h("span", { class: "changed" })),
      mine.map(control),
    );
  });
  at("fields").append(...groups);
  for (const [name, { label, about }] of Object.entries(texts)) {
    const area = h("textarea", {
      id: `text-${name}`,
      spellcheck: "false",
      autocomplete: "off",
      autocapitalize: "off",
      "aria-describedby": `about-${name} problems-${name}`,
      oninput: later(200, () => write({ form: name, text: area.value })),
    });
    areas[name] = area;
    at(`panel-${name}`).append(
      h("label", { for: area.id, class: "sr" }, label),
      h("p", { id: `about-${name}` }, `${label}. ${about}`),
      area,
      h("div", { id: `problems-${name}`, class: "problems" }),
      h("div", { id: `notes-${name}` }),
    );
  }
  at("setting").addEventListener("input", find);
}

/** "Inbound: connections arriving in the pod" is a title and what it is about. */
const short = (section) => section.replace(/:$/, "");

function control(field) {
  const id = `field-${field.path}`;
  const common = { id, "data-path": field.path, "aria-describedby": `help-${field.path} problem-${field.path}` };
  const set = () => edit(field, input);
  let input;
  if (field.kind === "switch") input = h("input", { ...common, type: "checkbox", onchange: set });
  else if (field.kind === "choice")
    input = h(
      "select",
      { ...common, onchange: set },
      field.choices.map((c) => h("option", { value: c }, c)),
    );
  else
    input = h("input", {
      ...common,
      type: "text",
      spellcheck: "false",
      autocomplete: "off",
      placeholder: field.default || "none",
      oninput: later(200, set),
    });
  const label = h("label", { for: id }, h("code", null, field.path));
  const box = h(
    "div",
    { class: "field", "data-search": `${field.path} ${field.flag} ${field.meaning}`.toLowerCase() },
    field.kind === "switch" ? h("div", { class: "check" }, input, label) : label,
    h(
      "p",
      { class: "help", id: `help-${field.path}` },
      field.meaning,
      field.kind !== "switch" && field.default ? ` (default ${field.default})` : "",
    ),
    field.kind === "switch" ? undefined : input,
    h("p", { class: "problem", id: `problem-${field.path}`, hidden: true }),
    h("span", { class: "mark", hidden: true }, "decides this packet"),
    h(
      "button",
      {
        type: "button",
        class: "reset quiet",
        hidden: true,
        "aria-label": `Set ${field.path} to its default`,
        onclick: () => {
          show(field, field.default);
          edit(field, input);
          input.focus();
        },
      },
      "Default",
    ),
  );
  controls.set(field.path, { field, input, box });
  show(field, field.default);
  return box;
}

function show({ path }, value) {
  const { field, input } = controls.get(path);
  if (field.kind === "switch") input.checked = value === "true";
  else input.value = value ?? "";
}

function edit(field, input) {
  const value = field.kind === "switch" ? String(input.checked) : input.value.trim();
  const fields = { ...draft };
  if (value === field.default) delete fields[field.path];
  else fields[field.path] = value;
  draft = fields;
  write({ fields });
}

/** Reads a configuration, whoever wrote it, and shows it in all other forms. */
export async function write(source) {
  const mine = ++turn;
  form = source.form ?? "form";
  const read = await ask({ op: "read", source });
  if (mine !== turn) return; // something newer has been written
  clear();
  if (read.error) {
    complain(read.error, form);
    stale(read.error, form);
    return;
  }
  const fields = Object.fromEntries(read.changed.map((path) => [path, read.fields[path]]));
  const normal = read.changed.length ? { fields } : {};
  draft = form === "form" && source.fields ? { ...source.fields } : fields;
  fillIn(read, source);
  changed(read, normal, source);
}

/** Shows what was read in every form but the one that is being written in. */
function fillIn(read, source) {
  const writing = document.activeElement;
  for (const { field, input } of controls.values()) {
    if (input !== writing || form !== "form") show(field, read.fields[field.path]);
  }
  const off = new Set(read.changed);
  for (const { field, box } of controls.values()) {
    box.classList.toggle("changed", off.has(field.path));
    box.querySelector(".reset").hidden = !off.has(field.path);
  }
  for (const group of at("fields").children) {
    const n = schema.fields.filter((f) => f.section === group.dataset.section && off.has(f.path)).length;
    group.querySelector(".changed").textContent = n ? `${n} changed` : "";
  }
  for (const [name, area] of Object.entries(areas)) {
    const unsaid = read.unsaid?.[name];
    if (name === form) {
      if (area !== writing && area.value !== source.text) area.value = source.text;
    } else area.value = read.forms[name] ?? "";
    replace(
      at(`notes-${name}`),
      unsaid &&
        name !== form &&
        h(
          "p",
          { class: "note warn" },
          read.forms[name] ? `This form cannot say all of it: ${unsaid}` : `This form cannot say it: ${unsaid}`,
        ),
      name === form && read.notes.map((note) => h("p", { class: "note" }, note)),
    );
  }
  const n = read.changed.length;
  at("config-summary").textContent = n
    ? `${n} ${n === 1 ? "setting differs" : "settings differ"} from the defaults`
    : "The defaults";
}

function clear() {
  for (const { input, box } of controls.values()) {
    input.removeAttribute("aria-invalid");
    const problem = box.querySelector(".problem");
    problem.hidden = true;
    problem.textContent = "";
  }
  for (const [name, area] of Object.entries(areas)) {
    area.removeAttribute("aria-invalid");
    at(`problems-${name}`).replaceChildren();
  }
  at("config-errors").replaceChildren();
  at("stale").hidden = true;
}

/** Says what is wrong: at the field, at the text, and below, where each problem leads to its place. */
function complain(error, where) {
  const all = error.all ?? [error];
  for (const problem of all) {
    const place = controls.get(shown(problem.field));
    if (!place) continue;
    place.input.setAttribute("aria-invalid", "true");
    const text = place.box.querySelector(".problem");
    text.hidden = false;
    text.append(text.textContent ? h("br") : "", problem.text);
  }
  const area = areas[where];
  area?.setAttribute("aria-invalid", "true");
  const said = all.map((problem) => {
    const from = problem.line ? `line ${problem.line}` : problem.source;
    const name = [from, problem.field !== problem.source && problem.field].filter(Boolean).join(", ");
    const words = `${name ? `${name}: ` : ""}${problem.text}`;
    return h(
      "li",
      null,
      area || shown(problem.field)
        ? h("button", { type: "button", onclick: () => lead(problem, area) }, words)
        : words,
    );
  });
  const list = h("ul", null, said);
  const rest = h("p", null, "The other forms, and the answers, are of the last configuration that was right.");
  replace(
    area ? at(`problems-${where}`) : at("config-errors"),
    h("div", { class: "errors", role: area ? "alert" : undefined }, list, rest),
  );
}

/** Says at the answer that it is not of what is written. */
function stale(error, where) {
  const problem = (error.all ?? [error])[0];
  const area = areas[where];
  const text = "an error";
  replace(
    at("stale"),
    "The configuration has ",
    area || shown(problem.field)
      ? h("button", { type: "button", onclick: () => lead(problem, area) }, text)
      : text,
    ": this answer is of the last one that was right.",
  );
  at("stale").hidden = false;
}

/** The field that shows a problem: of one with a group, such as proxy, the first of the group. Undefined: there is none. */
function shown(field) {
  if (!field || controls.has(field)) return field || undefined;
  return [...controls.keys()].find((name) => name.startsWith(`${field}.`));
}

/** Puts the cursor where a problem is. */
function lead(problem, area) {
  if (!area) {
    reveal(shown(problem.field));
    return;
  }
  area.focus();
  let start = 0;
  const lines = area.value.split("\n");
  const named = problem.line
    ? problem.line - 1
    : lines.findIndex((line) => problem.source && line.includes(problem.source));
  if (named < 0 || named >= lines.length) return;
  for (let i = 0; i < named; i++) start += lines[i].length + 1;
  area.setSelectionRange(start, start + lines[named].length);
}

/** Opens the group of a field and goes to it. */
export function reveal(path) {
  const place = controls.get(path);
  if (!place) return;
  at("config-details").open = true;
  at("tab-form").click();
  place.box.closest("details").open = true;
  place.input.focus();
}

/** Marks the fields that decide, and opens their group. */
export function mark(paths, fate) {
  deciding = paths;
  for (const { field, box } of controls.values()) {
    const is = deciding.includes(field.path);
    box.classList.remove("captured", "passed", "stopped");
    box.classList.toggle("deciding", is);
    if (is) box.classList.add(fate);
    box.querySelector(".mark").hidden = !is;
  }
  if (at("setting").value) return;
  const group = paths.length && controls.get(paths[0])?.box.closest("details");
  if (!group) return;
  for (const each of at("fields").children) {
    if (each === group) each.open = true;
    else if (!each.contains(document.activeElement) && !each.dataset.opened) each.open = false;
  }
}

function find() {
  const words = at("setting").value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const { box } of controls.values()) box.hidden = !words.every((word) => box.dataset.search.includes(word));
  for (const group of at("fields").children) {
    const any = [...group.querySelectorAll(".field")].some((box) => !box.hidden);
    group.hidden = !any;
    if (words.length) group.open = any;
  }
  if (!words.length) mark(deciding, "passed");
}
