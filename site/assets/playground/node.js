// From a node: the document of mesh-init support. It shows a pod's rules, what they have counted, and the chains of
// others beside them; packets are then asked against what was in force there.
import { ask } from "./ask.js";
import { at, h, replace } from "./dom.js";

let open; // what was read of it
let callbacks;
let complaint;

/** opened is called with the configuration of a document as a source; left, when the reader closes it. */
export function setUp({ opened, left }) {
  callbacks = { opened, left };
  const page = document.documentElement;
  let depth = 0; // dragenter and dragleave come for every element on the way
  const files = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragenter", (event) => {
    if (files(event) && ++depth) page.dataset.dropping = "";
  });
  addEventListener("dragleave", (event) => {
    if (files(event) && --depth <= 0) delete page.dataset.dropping;
  });
  addEventListener("dragover", (event) => {
    if (files(event)) event.preventDefault();
  });
  addEventListener("drop", (event) => {
    if (!files(event)) return;
    event.preventDefault();
    depth = 0;
    delete page.dataset.dropping;
    read(event.dataTransfer.files[0]);
  });
}

/** What is open: what the library says of it, and packets, what rules have counted, by IDs. undefined: nothing is. */
export const current = () => open;

export function close() {
  open = undefined;
}

/** Takes note of what the page has read: the document's configuration, or another one, which somebody has made of it. */
export function reads(written, source) {
  if (!open) return;
  const now = JSON.stringify(Object.entries(source.fields ?? {}).sort());
  if (written === open.source) open.own = now;
  open.said = state(open, now !== open.own);
}

async function read(file) {
  complaint = undefined;
  const got = await ask({ op: "support", text: await file.text() });
  if (got.error) {
    complaint = `${file.name}: ${(got.error.all ?? [got.error]).map((p) => p.text).join("; ")}`;
    show(at("panel-node"));
    at("tab-node").click();
    return;
  }
  const packets = new Map(
    Object.entries(got.counters)
      .filter(([, c]) => !c.uncounted)
      .map(([id, c]) => [id, c.packets]),
  );
  open = { ...got, name: file.name, packets, said: state(got), doubts: (explained) => doubts(got, explained) };
  callbacks.opened(got.source);
}

/** What packets are asked against. */
function state(d, edited) {
  const changes = edited ? ", with your changes" : "";
  if (d.from === "inForce") return `Packets are asked against what was in force there${changes}.`;
  const given = `packets are asked against the configuration that mesh-init support was given${changes}`;
  return d.none
    ? `There are no rules in that namespace, so no packet is captured there: ${given}.`
    : `What was in force is not known (${d.why || "the document does not say"}): ${given}.`;
}

/** What never reached means: what ours let go does pass such a chain, as the picture has it. */
const unreached = ({ effect }) =>
  effect === "never reached" ? " (it is asked of what ours let go, and never asked of what ours capture)" : "";

const effects = {
  takes: "sends connections elsewhere",
  "may take": "may send connections elsewhere",
  untracks: "keeps packets from connection tracking, and so from capture",
  "may discard": "may discard packets",
  zones: "chooses conntrack zones, in which the proxy does not find where a connection was to go",
};

/** What may have happened to a packet in that pod other than its explanation says, in sentences. */
function doubts(d, { packet, way }) {
  const family = packet.dst.startsWith("[") ? "ip6" : "ip";
  const hooks = way.map(({ hook }) => hook).concat(packet.from === "outside" ? "ingress" : "egress");
  return [
    ...d.foreign
      .filter((c) => effects[c.effect] && hooks.includes(c.hook) && [family, "inet", "netdev"].includes(c.family))
      .map((c) => `Another's chain ${c.family} ${c.table} ${c.chain}, asked ${c.asked} ours, ${effects[c.effect]}.`),
    d.differences.length > 0 && "The rules there are no longer as they were written: see “From a node”.",
    d.cut?.length > 0 && `The document does not have the whole of ${d.cut.join(", ")}.`,
  ].filter(Boolean);
}

/** The view. */
export async function show(panel) {
  const input = h("input", {
    type: "file",
    id: "file",
    "data-key": "file",
    accept: ".json,.yaml,.yml,.txt,application/json",
    onchange: ({ target }) => target.files[0] && read(target.files[0]),
  });
  replace(
    panel,
    h(
      "div",
      { class: "drop" },
      h(
        "p",
        null,
        "In the pod’s network namespace: ",
        h("code", null, "mesh-init support > support.json"),
        ". Drop the file anywhere on this page, or choose it. It stays in your browser. With ",
        h("code", null, "--mask"),
        " addresses and names in it are hidden.",
      ),
      h("label", { class: "button" }, "Choose a file", input),
    ),
    complaint && h("div", { class: "errors", role: "alert" }, complaint),
    open && about(open),
  );
}

function about(d) {
  const time = (text) => text && new Date(text).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
  const fact = (name, ...value) => value[0] && [h("dt", null, name), h("dd", null, value)];
  const list = (items) =>
    h(
      "ul",
      null,
      items.map((item) => h("li", null, item)),
    );
  const counted = d.meanings.filter((m) => m.packets > 0);
  const table = (name, heads, rows) =>
    h(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": name },
      h(
        "table",
        null,
        h(
          "thead",
          null,
          h(
            "tr",
            null,
            heads.map((head) => h("th", { scope: "col" }, head)),
          ),
        ),
        h(
          "tbody",
          null,
          rows.map(([first, ...cells]) =>
            h(
              "tr",
              null,
              h("th", { scope: "row" }, first),
              cells.map((cell) => h("td", null, cell)),
            ),
          ),
        ),
      ),
    );
  return h(
    "div",
    { class: "node" },
    h(
      "p",
      { role: "status" },
      h("b", null, d.name),
      ` is open. ${d.said} `,
      h("button", { type: "button", class: "quiet", "data-key": "close", onclick: () => callbacks.left() }, "Close it"),
    ),
    h(
      "dl",
      { class: "facts" },
      fact("Made", time(d.at), ` by mesh-init ${d.tool}`, d.masked ? ", masked" : ""),
      fact("State", d.verdict),
      fact("In words", d.summary),
      fact("Rules written", time(d.written), d.by ? ` by ${d.by}` : ""),
      fact("Backend", d.backend),
      fact("The pod’s addresses", d.addresses.join(", ")),
    ),
    d.causes.length > 0 && [h("h3", null, "What is behind the state"), list(d.causes)],
    d.differences.length > 0 && [h("h3", null, "How the rules differ from what was written"), list(d.differences)],
    d.cut?.length > 0 &&
      h(
        "p",
        { class: "note warn" },
        `The document does not have the whole of ${d.cut.join(", ")}: answers that hang on it may be wrong.`,
      ),
    h("h3", null, "What the rules have counted"),
    d.none
      ? h("p", null, "There are none.")
      : counted.length
        ? table(
            "What the rules have counted",
            ["What", "Packets", "Bytes"],
            counted.map((m) => [m.meaning, m.packets, m.bytes]),
          )
        : h("p", null, "Nothing yet."),
    h("h3", null, "Chains of others"),
    d.foreign.length
      ? h(
          "ul",
          { class: "list" },
          d.foreign.map((c) =>
            h(
              "li",
              null,
              h("code", null, `${c.family} ${c.table} ${c.chain}`),
              ` at hook ${c.hook}, priority ${c.priority}, asked ${c.asked} ours: ${c.effect}${unreached(c)}`,
            ),
          ),
        )
      : h("p", null, "None at the hooks of ours."),
    d.others.length > 0 && [
      h("h3", null, "Rules of others in the same chains"),
      list(
        d.others.map((o) => [
          h("code", null, `${o.family} ${o.table} ${o.chain} ${o.rule}`),
          `, ${o.earlier ? "before" : "after"} ours: ${o.packets} packets`,
        ]),
      ),
    ],
    Object.keys(d.unread).length > 0 && [
      h("h3", null, "What could not be read"),
      list(Object.entries(d.unread).map(([part, why]) => `${part}: ${why}`)),
    ],
  );
}
