// What else there is to see of a configuration: all traffic, the rules as text, what another one changes, warnings.
import { kindOf } from "./answer.js";
import { ask } from "./ask.js";
import { at, h, later, replace } from "./dom.js";
import { configurations } from "./scenarios.js";
import * as node from "./node.js";

let askPacket; // asks about a packet that the reader has pointed at
let other; // called when another configuration is compared with
let shown = {}; // what each view shows, so that the same is not made twice
let now;

const makers = { matrix, rules, diff, lint, node: node.show };

/** choose is called with a packet that is asked about from a view, and compares when another configuration is. */
export function setUp(choose, compares) {
  askPacket = choose;
  other = compares;
  shown = {};
}

/** Shows a view of what the page is about. */
export async function show(name, about) {
  now = about;
  const panel = at(`panel-${name}`);
  const document = about.node && [about.node.name, about.node.at, about.node.said];
  const of = JSON.stringify([about.source, about.explained.id, about.packet, document, extra[name]?.()]);
  if (shown[name] === of) return;
  shown[name] = of;
  clearTimeout(working[name]);
  working[name] = setTimeout(() => {
    panel.querySelector(".working")?.remove();
    panel.prepend(h("p", { class: "working", role: "status" }, "Being worked out…"));
  }, 150);
  await makers[name](panel, about);
  if (shown[name] !== of) return; // something newer is being worked out
  clearTimeout(working[name]);
  for (const each of panel.querySelectorAll(".working")) each.remove();
}

const working = {}; // what says so of each view, if it is not there at once

const again = (name) => {
  delete shown[name];
  show(name, now);
};
const extra = { rules: () => backend, diff: () => JSON.stringify(before) };

const failed = (panel, error) =>
  replace(panel, h("p", { class: "problem" }, (error.all ?? [error]).map((p) => p.text).join("; ")));

// All traffic.

const froms = { app: "the app", proxy: "the proxy", kernel: "the kernel", outside: "outside" };
const wheres = {
  outbound: "out of the pod",
  self: "to the pod's own address",
  loopback: "to loopback",
  inbound: "into the pod",
  through: "through the pod",
};
const kinds = ["TCP", "UDP", "DNS", "other"];

async function matrix(panel, { source, explained }) {
  const got = await ask({ op: "matrix", source }, { patient: true, last: "matrix" });
  if (got.error) return failed(panel, got.error);
  const rows = Map.groupBy(got.cells, (cell) => `${cell.from} ${cell.where}`);
  const here = place(explained);
  replace(
    panel,
    h(
      "p",
      null,
      "Every flow there can be, by who begins it and where it goes, and what becomes of its first packet: proven, not sampled. Where a cell has several lines, the first that fits says it. DNS is port 53, which TCP and UDP leave out. Choose a line to ask about a packet of it; of what the kernel sends, and of what goes through the pod, there is no such question.",
    ),
    h(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": "All traffic" },
      h(
        "table",
        { class: "matrix stack" },
        h(
          "thead",
          null,
          h(
            "tr",
            null,
            h("th", { scope: "col" }, "From"),
            kinds.map((kind) => h("th", { scope: "col" }, kind)),
          ),
        ),
        h(
          "tbody",
          null,
          [...rows.values()].map((cells) =>
            h(
              "tr",
              null,
              h(
                "th",
                { scope: "row" },
                `${froms[cells[0].from] ?? cells[0].from} `,
                h("small", null, wheres[cells[0].where] ?? cells[0].where),
              ),
              kinds.map((kind) => {
                const mine = cells.filter((cell) => cell.traffic === kind);
                const lit = here.row === `${cells[0].from} ${cells[0].where}` && here.traffic === kind;
                return h(
                  "td",
                  { "data-name": kind, class: lit ? "here" : undefined },
                  families(mine).map(({ family, parts }) => [
                    family && h("small", null, family),
                    parts.map((part) => line(part, parts.length, lit && part.rules.includes(explained.id))),
                  ]),
                );
              }),
            ),
          ),
        ),
      ),
    ),
  );
}

/** The cells of a kind: once, if rule for rule both families are the same but for their addresses. */
function families(cells) {
  const [a, b] = cells;
  const same =
    b &&
    a.parts.length === b.parts.length &&
    a.parts.every((part, i) => part.fate === b.parts[i].fate && String(part.rules) === String(b.parts[i].rules));
  if (!same) return cells.map(({ family, parts }) => ({ family: b ? family : "", parts }));
  return [
    {
      parts: a.parts.map((part, i) => ({
        ...part,
        which: part.which === b.parts[i].which ? part.which : `${part.which}, or ${b.parts[i].which}`,
      })),
    },
  ];
}

function line(part, of, lit) {
  const content = [
    h("span", { class: "fate" }, part.fate),
    " ",
    h("span", { class: "by" }, part.rules[0] ?? "no rule"),
    of > 1 && h("span", { class: "which" }, part.which),
  ];
  const attributes = { class: `part ${kindOf(part.fate)}${lit ? " lit" : ""}`, title: part.reason };
  return part.ask
    ? h("button", { ...attributes, type: "button", onclick: () => askPacket(part.ask) }, content)
    : h("span", attributes, content);
}

/** The cell that a packet is in. */
function place({ packet }) {
  const { from, interface: by, dst, protocol } = packet;
  const loopback = /^127\.|^\[::1\]/.test(dst);
  const where = from === "outside" ? "inbound" : loopback ? "loopback" : by === "lo" ? "self" : "outbound";
  const port = dst.split(":").pop();
  return {
    row: `${from} ${where}`,
    traffic: /tcp|udp/.test(protocol) ? (port === "53" ? "DNS" : protocol.toUpperCase()) : "other",
  };
}

// The rules.

let backend; // that the reader has chosen
const backends = { nft: "nft", iptables: "iptables", json: "JSON" };

/** Chains as JSON, line by line: what begins with a rule's ID is the rule's. */
function jsonLines(chains) {
  let rule;
  return JSON.stringify({ chains }, undefined, 2)
    .split("\n")
    .map((text) => {
      if (/^ {8}\{/.test(text)) rule = undefined;
      rule = /^ {10}"id": "(.*)",?$/.exec(text)?.[1] ?? rule;
      const id = /^ {10}/.test(text) ? rule : undefined;
      return { text, id };
    });
}

async function rules(panel, { source, explained }) {
  const got = await ask({ op: "rules", source }, { patient: true, last: "rules" });
  if (got.error) return failed(panel, got.error);
  const json = { lines: jsonLines(got.chains) };
  const texts = { nft: got.nft, iptables: got.iptables, json };
  const chosen = backend ?? Object.keys(texts).find((name) => !texts[name].error);
  const text = texts[chosen];
  const asked = new Set(explained.steps.filter((step) => !step.decided).map((step) => step.id));
  let lit;
  const lines = text.lines.map(({ text: words, id }) => {
    const is = id && id === explained.id;
    const line = h("span", { class: `l${is ? " lit" : id && asked.has(id) ? " asked" : ""}` }, words || " ");
    if (is) {
      lit ??= line;
      line.prepend(h("span", { class: "sr" }, "This rule decides: "));
    }
    return line;
  });
  const box = h(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": `The rules for ${backends[chosen]}` },
    h("pre", { class: "text" }, lines),
  );
  replace(
    panel,
    h(
      "fieldset",
      { class: "choice" },
      h("legend", { class: "sr" }, "As text for"),
      Object.entries(backends).map(([name, label]) =>
        h(
          "label",
          null,
          h("input", {
            type: "radio",
            name: "backend",
            value: name,
            "data-key": name,
            checked: name === chosen,
            onchange: () => {
              backend = name;
              again("rules");
            },
          }),
          label,
        ),
      ),
      h(
        "button",
        {
          type: "button",
          class: "quiet",
          "data-key": "copy",
          onclick: (event) => copy(event.target, text.lines.map((l) => l.text).join("\n")),
        },
        "Copy",
      ),
    ),
    text.error && h("p", { class: "problem" }, text.error),
    explained.id &&
      !text.error &&
      h(
        "p",
        null,
        "The rule that decides the packet, ",
        h("span", { class: "rule-id" }, explained.id),
        lit ? ", is marked." : ", is not among these lines.",
      ),
    !text.error && box,
  );
  if (lit) box.scrollTop = Math.max(0, lit.offsetTop - box.offsetTop - box.clientHeight / 3);
}

async function copy(button, text) {
  const was = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "The browser does not allow it";
  }
  setTimeout(() => {
    button.textContent = was;
  }, 2000);
}

// Another configuration beside this one.

let before = { choice: "defaults" };

/** The configuration that the page's is compared with, as a source; undefined, if it is the defaults. */
export function compared() {
  if (before.choice === "own") return { form: "yaml", text: before.text ?? "" };
  if (before.choice === "kept") return before.kept;
  return before.choice === "defaults"
    ? undefined
    : { fields: configurations.find(({ id }) => id === before.choice).fields };
}

/** Compares with a configuration, that of a link; where it has none, with the defaults. */
export function compare(source) {
  const plain = (fields) => JSON.stringify(Object.entries(fields ?? {}).sort());
  const known = configurations.find(({ fields }) => plain(fields) === plain(source?.fields));
  before = { choice: known?.id ?? "kept", kept: source ?? before.kept };
  const select = at("before");
  if (select) choose(select);
  delete shown.diff;
}

function choose(select) {
  select.querySelector("[value=kept]").disabled = !before.kept;
  select.value = before.choice;
}

function compareAgain() {
  again("diff");
  other();
}

async function diff(panel, { source }) {
  const from = compared() ?? {};
  const list = panel.querySelector("#changes") ?? build(panel);
  panel.querySelector("#before-text").closest("div").hidden = before.choice !== "own";
  const got = await ask({ op: "diff", source: from, other: source }, { patient: true, last: "diff" });
  if (got.error) {
    const problems = got.error.all ?? [got.error];
    replace(
      list,
      h(
        "div",
        { class: "errors", role: "alert" },
        problems.map((p) =>
          h(
            "p",
            null,
            [p.line && `line ${p.line}`, p.field].filter(Boolean).join(", "),
            p.line || p.field ? ": " : "",
            p.text,
          ),
        ),
      ),
    );
    return;
  }
  const begins = got.changes.filter((change) => change.begins);
  const others = got.changes.filter((change) => !change.begins);
  replace(
    list,
    h(
      "p",
      { role: "status" },
      got.changes.length
        ? `${count(begins.length, "class of new connections and flows has", "classes of new connections and flows have")} another fate with the configuration on the page${others.length ? `, and ${count(others.length, "class of other packets", "classes of other packets")}` : ""}.`
        : "Every packet has the same fate with both.",
    ),
    got.fields.length > 0 &&
      h(
        "table",
        { class: "stack" },
        h("caption", null, "Settings that differ"),
        h(
          "thead",
          null,
          h(
            "tr",
            null,
            ["Setting", "Before", "After"].map((name) => h("th", { scope: "col" }, name)),
          ),
        ),
        h(
          "tbody",
          null,
          got.fields.map((field) =>
            h(
              "tr",
              null,
              h("th", { scope: "row", class: "mono" }, field.path),
              h("td", { "data-name": "Before" }, h("code", null, field.before)),
              h("td", { "data-name": "After" }, h("code", null, field.after)),
            ),
          ),
        ),
      ),
    begins.map(change),
    others.length > 0 &&
      h(
        "details",
        null,
        h("summary", null, "Packets of connections that are there, or that conntrack takes for another's"),
        others.map(change),
      ),
  );
}

const count = (n, one, many) => `${n} ${n === 1 ? one : many}`;

function build(panel) {
  const text = h("textarea", {
    id: "before-text",
    spellcheck: "false",
    oninput: later(250, () => {
      before.text = text.value;
      compareAgain();
    }),
  });
  const select = h(
    "select",
    {
      id: "before",
      onchange: () => {
        before.choice = select.value;
        compareAgain();
      },
    },
    configurations.map(({ id, name }) => h("option", { value: id }, name)),
    h("option", { value: "kept", disabled: true }, "The one that was kept"),
    h("option", { value: "own" }, "A file, written here"),
  );
  choose(select);
  const list = h("div", { id: "changes" });
  replace(
    panel,
    h(
      "div",
      { class: "choice" },
      h("label", { for: "before" }, "Before", select),
      h("span", null, "After: the configuration on the page"),
      h(
        "button",
        {
          type: "button",
          class: "quiet",
          onclick: () => {
            before.kept = structuredClone(now.source);
            before.choice = "kept";
            choose(select);
            compareAgain();
          },
        },
        "Keep the page's as before",
      ),
    ),
    h("div", { hidden: true }, h("label", { for: "before-text" }, "The configuration before, as YAML"), text),
    list,
  );
  return list;
}

function change({ before: old, after, packets, ask: packet }) {
  const end = (verdict) =>
    h(
      "span",
      { class: kindOf(verdict.fate) },
      h("span", { class: "fate" }, verdict.fate),
      ` ${verdict.line ? `(${verdict.rules[0]}: ${verdict.reason})` : "(no rule decides)"}`,
    );
  return h(
    "div",
    { class: "change" },
    h("p", null, end(old), " becomes ", end(after)),
    h(
      "p",
      { class: "does" },
      "For example ",
      h("code", null, `${packets.example.protocol} ${packets.example.src} → ${packets.example.dst}`),
      " ",
      packet && h("button", { type: "button", class: "quiet", onclick: () => askPacket(packet) }, "Ask about it"),
    ),
    h(
      "details",
      null,
      h("summary", null, "Which packets"),
      h(
        "ul",
        null,
        packets.boxes.map((box) => h("li", null, box.length ? box.map(condition).join("; ") : "all")),
      ),
    ),
  );
}

const condition = ({ field, in: is, notIn }) => (is ? `${field} ${is.join(",")}` : `${field} not ${notIn.join(",")}`);

// Warnings.

async function lint(panel, { read }) {
  replace(
    panel,
    h("p", null, "What is valid and rarely meant, as mesh-init lint says it."),
    read.warnings.length
      ? h(
          "ul",
          { class: "list" },
          read.warnings.map((warning) => h("li", null, warning)),
        )
      : h("p", { role: "status" }, "There is nothing to warn of in this configuration."),
  );
}
