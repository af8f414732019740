// The answer: the fate in a sentence, the picture, and the rules that were asked.
import { at, h, replace } from "./dom.js";
import { draw } from "./picture.js";
import { reveal } from "./config.js";

/**
 * The fields of the configuration that a rule comes from, by its line or its whole ID. What is not here comes from no
 * field, or from nearly all.
 */
export const fields = {
  O1: ["excludeInterfaces"],
  O2: ["passthroughSources"],
  O3: ["inbound.hairpin", "inbound.port"],
  "O4.uid": ["proxy.uids"],
  "O4.gid": ["proxy.gids"],
  "O4.mark": ["proxy.mark"],
  "O5.ports": ["outbound.excludePorts"],
  "O5.exclude": ["outbound.exclude"],
  "O7.excluded-uid": ["outbound.excludeUIDs"],
  "O7.excluded-gid": ["outbound.excludeGIDs"],
  "O7.included-uid": ["outbound.includeUIDs"],
  "O7.included-gid": ["outbound.includeGIDs"],
  "O7.other": ["outbound.includeUIDs", "outbound.includeGIDs"],
  O8: ["dns.mode", "dns.port"],
  O9: ["loopback"],
  "O10.cidrs": ["outbound.excludeCIDRs"],
  "O10.proxy": ["outbound.target"],
  O11: ["outbound.includePorts"],
  O12: ["outbound.includeCIDRs"],
  O13: ["outbound.udp", "outbound.quic"],
  O14: ["outbound.includeCIDRs"],
  I1: ["excludeInterfaces"],
  I2: ["virtualInterfaces"],
  I3: ["inbound.dropInvalid"],
  I4: ["tunnelPort"],
  "I5.cidrs": ["inbound.excludeSources"],
  "I5.exclude": ["inbound.exclude"],
  I6: ["inbound.excludePorts"],
  I7: ["inbound.includePorts", "inbound.mode"],
  I8: ["inbound.includePorts"],
  B8: ["outbound.otherProtocols"],
};

/** Whether a packet opens a TCP connection, as the rules have it that capture what is included. */
const opens = ({ protocol, state }) => protocol === "tcp" && (state ?? "new") === "new";

/** Whether a rule lets go what is not included, and whatever is included would not capture this packet. */
const included = ({ id, packet }) => !/^(.*\/)?(O14|I8)$/.test(id) || opens(packet);

/** The paths of the fields that decide: those that the deciding rule comes from, or the one by which there is none. */
export function fieldsOf(explained, read) {
  if (!explained.id)
    return explained.packet.from === "outside" && read?.fields["inbound.mode"] === "off" ? ["inbound.mode"] : [];
  if (!included(explained)) return [];
  const id = explained.id.split("/").pop();
  const parts = id.split(".");
  for (let n = parts.length; n > 0; n--) {
    const found = fields[parts.slice(0, n).join(".")];
    if (found) return found;
  }
  return [];
}

/** captured, passed or stopped: what the colours follow. */
export function kindOf(fate) {
  if (/^(reject|drop)/.test(fate)) return "stopped";
  return fate === "pass" ? "passed" : "captured";
}

/** Shows an explanation. Returns its kind. */
export function show(now) {
  const { explained } = now;
  const kind = kindOf(explained.fate);
  const section = at("answer");
  section.classList.remove("captured", "passed", "stopped", "unanswered");
  section.classList.add(kind);
  section.dataset.fate = explained.fate;
  section.dataset.rule = explained.id;
  verdict(now, kind);
  map(now, kind);
  steps(now);
  return kind;
}

/** Offers to say what would have to change for another fate. */
export function ways(explained, can) {
  at("whynot").hidden = !can;
  at("whynot-title").textContent = explained.captured ? "What would let it go?" : "What would capture it?";
  replace(at("changes-list"));
}

/** Says what would have to change, smallest change first. */
export function why(got, change) {
  const changes = got.changes ?? [];
  replace(
    at("changes-list"),
    got.error && h("p", { class: "problem" }, got.error.text),
    !got.error && !changes.length && h("p", null, "No change of a single setting does."),
    h(
      "ol",
      null,
      changes.map((each) =>
        h(
          "li",
          null,
          h("code", null, each.flags.map(quoted).join(" ")),
          " ",
          h("button", { type: "button", class: "quiet", onclick: () => change(each.flags) }, "Try it"),
          h(
            "p",
            { class: "does" },
            `Then ${each.fate}, by ${each.id}: ${each.reason}. It changes the fate of ${each.flows} ${each.flows === 1 ? "class" : "classes"} of new connections and flows, and of ${each.others} of other packets.`,
          ),
        ),
      ),
    ),
  );
}

/** A word of a command line as a shell reads it. */
const quoted = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);

/** Says that there is no answer, and why. */
export function refuse(error, placed) {
  const problems = error.all ?? [error];
  none(
    "No answer yet",
    h(
      "p",
      { class: "problem" },
      placed ? "The packet is not right: see its fields." : problems.map((p) => p.text).join("; "),
    ),
  );
}

/** Says that the case of the address is being worked out: the answer that comes with the page is of another. */
export function pending() {
  none(
    "Being worked out…",
    h("p", { class: "about" }, "The library is loaded first. It works out the case of the address."),
  );
}

/** Shows no answer, in no colour of a fate, and nothing that is about one. */
function none(head, ...said) {
  const section = at("answer");
  section.classList.remove("captured", "passed", "stopped");
  section.classList.add("unanswered");
  section.dataset.fate = section.dataset.rule = "";
  redraw = undefined;
  replace(at("verdict-card"), h("h2", { id: "verdict" }, head), said);
  at("whynot").hidden = true;
  at("map").replaceChildren();
  at("steps").replaceChildren();
}

/** What becomes of a packet, in a sentence. What arrives is not past the proxy: it may well be for it. */
function words({ fate, words: said, packet, end }) {
  if (fate !== "pass") return /^goes|^is/.test(said) ? `it ${said}` : said;
  if (end === "discarded") return "the kernel discards it, for loopback addresses are the pod's alone";
  if (end === "through") return "it goes on untouched, through the pod";
  const port = packet.protocol === "tcp" || packet.protocol === "udp" ? packet.dst.split(":").pop() : "";
  if (end === "proxy") return `it goes on untouched, to port ${port}, where ${listens(port)}`;
  if (packet.from === "outside") return port ? `it goes on untouched, to port ${port}` : "it goes on untouched";
  return packet.from === "proxy" ? "it goes on untouched" : `it ${said}`;
}

const probes = "15020"; // mesh-probe's port (docs/probes.md)

/** Who takes connections at a port that is the proxy's own, or of what is beside it. */
const listens = (port) => (port === probes ? "mesh-probe listens, beside the proxy" : "the proxy itself listens");

/** The answer in a line. */
const headline = (explained, kind, doubts = []) =>
  `${heads[kind]}${doubts.length ? ", by these rules alone" : ""}: ${words(explained)}`;

/** Why the rule that captures what is included does not fit, of a packet that it would never take. */
function unfit(explained) {
  if (included(explained)) return "";
  const step = explained.steps.find(({ line }) => line === "O12" || line === "I7");
  const { protocol } = explained.packet;
  const is = protocol === "tcp" ? "this packet opens none" : `this is ${named(protocol)}`;
  return step ? ` ${step.id} (${step.reason}) takes new TCP connections alone, and ${is}.` : "";
}

const named = (protocol) => (protocol === "ipv6-icmp" ? "ICMPv6" : protocol.toUpperCase());

const heads = { captured: "Captured", passed: "Not captured", stopped: "Stopped" };

function verdict({ explained, scenario, rules, read, node, case: whole }, kind) {
  const p = explained.packet;
  const packet = described(p);
  const decided = explained.steps.find((step) => step.decided);
  const chain = decided && rules.chains?.find((c) => c.name === decided.chain);
  const index = chain ? chain.rules.findIndex((rule) => rule.id === decided.id) : -1;
  const rule = chain?.rules[index];
  const { spared } = explained;
  const doubts = node?.doubts(explained) ?? [];
  const own = fieldsOf(explained, read);
  const link = (path) =>
    h(
      "a",
      {
        href: `#field-${path}`,
        onclick: (event) => {
          event.preventDefault();
          reveal(path);
        },
      },
      h("code", null, path),
    );
  replace(
    at("verdict-card"),
    h(
      "p",
      { class: "asked" },
      h("span", null, scenario?.asked ?? (whole && `${whole.title}.`)),
      h("span", { class: "mono" }, packet),
    ),
    h("h2", { id: "verdict" }, headline(explained, kind, doubts)),
    h(
      "p",
      { class: "why" },
      decided
        ? [
            "Rule ",
            h("span", { class: "rule-id" }, explained.id),
            " decides: ",
            h("b", null, explained.reason),
            ". ",
            rule && conditions(rule).length
              ? [
                  `It is the first rule of ${decided.chain} that fits (`,
                  conditions(rule).join(", "),
                  ")",
                  own.length ? [", and comes from ", own.flatMap((path, i) => [i ? " and " : "", link(path)])] : "",
                  ".",
                ]
              : `No rule of ${decided.chain} before it fits.${unfit(explained)}`,
            spared ? [` So ${spared.id} (${spared.reason}), which sends to ${target(spared)}, is not asked.`] : "",
          ]
        : own.length
          ? ["No rule is about it: ", link(own[0]), " is off, so calls to the pod are not captured."]
          : "None of the rules is about it.",
    ),
    h(
      "p",
      { class: "about" },
      scenario ? scenario[kind] : whole?.says,
      scenario?.page && [" ", h("a", { href: scenario.page.href }, scenario.page.title), "."],
    ),
    node && h("p", { class: "about" }, node.said),
    doubts.length > 0 &&
      h(
        "ul",
        { class: "note warn doubts" },
        doubts.map((doubt) => h("li", null, doubt)),
      ),
  );
}

/** Where a rule that captures sends to. */
function target({ fate }) {
  const [, kind, to] = /^(\w+)\((.*)\)$/.exec(fate) ?? [];
  return kind === "dnat" ? to : `the proxy's port ${to}`;
}

/** A packet in all that is said of it. */
function described(p) {
  const ports = p.protocol === "tcp" || p.protocol === "udp";
  const end = (of) => (ports ? of : address(of));
  const more = [
    p.uid !== undefined && `user ${p.uid}, group ${p.gid}`,
    p.mark && `mark 0x${p.mark.toString(16)}`,
    { established: "older than the rules", invalid: "invalid, says conntrack" }[p.state],
  ].filter(Boolean);
  return `${named(p.protocol)} from ${end(p.src)} to ${end(p.dst)}, ${p.from === "outside" ? "arriving" : "leaving"} by ${p.interface}${more.map((each) => `, ${each}`).join("")}`;
}

const address = (withPort) => withPort.replace(/:\d+$/, "").replace(/^\[|\]$/g, "");
const captures = (target) => /^(redirect|tproxy|dnat)/i.test(target ?? "");
const conditions = (rule) => rule.match ?? [];

/** What the rules of a chain have counted together. */
const sum = (c, packets) => c.rules.reduce((n, rule) => n + (packets.get(rule.id) ?? 0), 0);

const most = 4; // chains that a way has room for

/**
 * The base chains as the picture takes them, where packets arrive and where they leave. Chains of others in a pod stand
 * among ours, before or behind all of them, as long as there is room.
 */
function gates({ hooks, chains }, node) {
  const ours = (hook) =>
    hooks
      .find(({ name }) => name === hook)
      .chains.map((name) => chains.find((c) => c.name === name))
      .map((c) => ({
        name: c.name,
        title: c.name,
        hook: c.hook,
        under: `${c.hook}, ${c.type}`,
        count: node && sum(c, node.packets),
      }));
  const others = (hook, before) =>
    (node?.foreign ?? [])
      .filter((c) => c.hook === hook && (c.asked === "before") === before)
      .map((c) => ({
        name: `${c.family} ${c.table} ${c.chain}`,
        title: c.chain,
        hook: c.hook,
        under: `another's, ${c.type}`,
        foreign: true,
      }));
  const of = (...names) => {
    const all = names.flatMap((hook) => [...others(hook, true), ...ours(hook), ...others(hook, false)]);
    return all.length > most ? names.flatMap(ours) : all;
  };
  return { in: of("prerouting", "input"), out: of("output") };
}

function map({ explained, rules, read, node }, kind) {
  const chains = rules.chains ?? [];
  const decided = explained.steps.find((step) => step.decided);
  const p = explained.packet;
  const all = gates(rules, node);
  const side = decided && (all.in.some((g) => g.name === decided.base) ? "in" : "out");
  const self = p.from !== "outside" && p.interface === "lo";
  const start = { outside: "network", app: "app", proxy: "proxy" }[p.from] ?? "app";
  const fields = read.fields;
  const own = explained.end === "proxy" && !explained.captured ? p.dst.split(":").pop() : undefined;
  const met = explained.way.flatMap((w) => w.chains);
  const capturing = chains.filter((c) => c.rules.some((r) => captures(r.target))).map((c) => c.name);
  const model = {
    gates: all,
    start,
    end: explained.end,
    captured: explained.captured && explained.end === "proxy",
    self,
    captures: capturing,
    decided: decided && { gate: `${side}:${decided.base}`, id: explained.id, text: explained.reason },
    ports: [
      fields["inbound.port"],
      fields["outbound.port"],
      fields["dns.mode"] === "off" ? undefined : fields["dns.port"],
      own,
    ].filter((port) => port && port !== probes),
    beside: own === probes ? `mesh-probe, beside it, on ${probes}` : undefined,
    ends: { network: { start: ["kubelet,", "other pods"], end: ["services,", "other hosts"] }, app: ["the app"] },
    title: [
      headline(explained, kind, node?.doubts(explained)),
      met.length && `by way of ${met.join(", ")}`,
      explained.id ? `decided by rule ${explained.id}` : "no rule decides",
    ]
      .filter(Boolean)
      .join("; "),
  };
  const render = (animate) => {
    const width = Math.max(300, at("map").clientWidth);
    const { picture, play } = draw(model, width);
    at("map").replaceChildren(picture);
    if (animate) play();
    drawn = width;
  };
  redraw = render;
  render(true);
}

let redraw;
let drawn;
new ResizeObserver(() => {
  if (redraw && Math.abs(Math.max(300, at("map").clientWidth) - drawn) > 2) redraw(false);
}).observe(at("map"));
at("again").addEventListener("click", () => redraw?.(true));

/** The chains that were asked, with each rule's answer. The one that decided is open, the others are folded. */
function steps({ explained, rules, node }) {
  const visits = [];
  for (const step of explained.steps) {
    const last = visits.at(-1);
    if (last?.name === step.chain) last.steps.push(step);
    else visits.push({ name: step.chain, steps: [step] });
  }
  const row = (id, reason, said, classes, rule) =>
    h(
      "li",
      { class: classes },
      h("span", { class: "id" }, id),
      h("span", null, reason, counted(node, rule?.id ?? id)),
      h("span", { class: "said" }, said),
    );
  const list = (visit) => {
    const chain = rules.chains?.find((c) => c.name === visit.name);
    const ends = visit.steps.at(-1);
    const index = chain?.rules.findIndex((rule) => rule.id === ends.id) ?? -1;
    const rest = index < 0 || !ends.matched ? [] : chain.rules.slice(index + 1);
    return h(
      "ol",
      null,
      visit.steps.map((step) =>
        row(
          step.id,
          step.reason,
          step.matched ? `fits: ${step.target}${step.effect ? ` (${step.effect})` : ""}` : `no: ${step.because}`,
          step.decided ? "decided" : step.matched ? "matched" : "",
        ),
      ),
      rest.map((rule) => row(rule.id, rule.reason, "not asked any more", "unasked")),
    );
  };
  const title = (visit) => {
    const chain = rules.chains?.find((c) => c.name === visit.name);
    return [
      `${visit.name} `,
      h("small", null, chain?.hook ? `${chain.type} chain at hook ${chain.hook}` : "a chain that another one jumps to"),
    ];
  };
  const sections = visits.map((visit) =>
    visit.steps.some((step) => step.decided)
      ? h("div", { class: "chain" }, h("h3", null, title(visit)), list(visit))
      : h("details", { class: "chain" }, h("summary", null, title(visit)), list(visit)),
  );
  replace(at("steps"), sections);
}

/** What a rule has counted in the pod of a support document. */
function counted(node, id) {
  const packets = node?.packets.get(id);
  return packets === undefined ? undefined : h("span", { class: "counted" }, ` ${packets} counted`);
}
