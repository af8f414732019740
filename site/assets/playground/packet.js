// The packet: ready ones to choose from, and an editor for any other.
import { at, h, later } from "./dom.js";
import { packets } from "./scenarios.js";

const senders = [
  ["app", "the app"],
  ["user", "another user"],
  ["proxy", "the proxy"],
  ["outside", "another pod or host"],
];
const samples = {
  outside: ["10.244.0.5", "2001:db8:0:5::5"],
  other: ["203.0.113.10", "2001:db8::10"],
  self: ["10.244.0.5", "2001:db8:0:5::5"],
};
let inputs;
let changed;

/** Makes the choice of packets and the editor. onchange gets a packet as the library takes it, and the ready one, if it was chosen. */
export function setUp(onchange) {
  changed = onchange;
  const chips = at("scenarios");
  const chip = (scenario) =>
    h(
      "label",
      { class: "chip" },
      h("input", {
        type: "radio",
        name: "scenario",
        value: scenario.id,
        "aria-label": `${scenario.group}: ${scenario.name}`,
        onchange: () => {
          show(scenario.packet);
          onchange(scenario.packet, scenario);
        },
      }),
      h("span", null, scenario.name),
    );
  for (const [group, mine] of Map.groupBy(packets, (scenario) => scenario.group)) {
    chips.append(
      h(
        "div",
        { class: "row" },
        h("span", { class: "who", "aria-hidden": "true" }, group),
        h("div", null, mine.map(chip)),
      ),
    );
  }
  const select = (label, name, options) => {
    inputs[name] = h(
      "select",
      { id: `packet-${name}`, onchange: edited },
      options.map(([value, text]) => h("option", { value }, text)),
    );
    return h("label", { for: `packet-${name}` }, label, inputs[name], problem(name));
  };
  const text = (label, name, more) => {
    inputs[name] = h("input", {
      id: `packet-${name}`,
      type: "text",
      spellcheck: "false",
      autocomplete: "off",
      "aria-describedby": `packet-problem-${name}`,
      oninput: later(200, edited),
      ...more,
    });
    return h("label", { for: `packet-${name}` }, label, inputs[name], problem(name));
  };
  inputs = {};
  at("editor").append(
    select("Who sends it", "from", senders),
    text("User (UID)", "uid", { inputmode: "numeric", placeholder: "1000" }),
    text("Group (GID)", "gid", { inputmode: "numeric", placeholder: "1000" }),
    select("Protocol", "proto", [
      ["tcp", "TCP"],
      ["udp", "UDP"],
      ["icmp", "other (ping)"],
    ]),
    select("Family", "family", [
      ["4", "IPv4"],
      ["6", "IPv6"],
    ]),
    text("To address", "to"),
    text("To port", "port", { inputmode: "numeric" }),
    text("From address, port", "src", { placeholder: "any" }),
    text("Interface", "interface", { placeholder: "eth0" }),
    text("Mark of its socket", "mark", { placeholder: "none" }),
    select("Connection", "state", [
      ["new", "new"],
      ["established", "older than the rules"],
      ["invalid", "invalid, says conntrack"],
    ]),
    h(
      "div",
      null,
      h(
        "div",
        { class: "check" },
        (inputs.toSelf = h("input", { id: "packet-toSelf", type: "checkbox", onchange: edited })),
        h("label", { for: "packet-toSelf" }, "to the pod's own address"),
      ),
    ),
  );
  inputs.family.addEventListener("change", otherFamily);
  at("editor").addEventListener("submit", (event) => event.preventDefault());
}

const problem = (name) => h("span", { class: "problem", id: `packet-problem-${name}`, hidden: true });

/** The packet of the editor. */
function packet() {
  const value = (name) => inputs[name].value.trim();
  const address = value("to");
  const port = value("port");
  const from = value("from");
  const all = {
    from: from === "user" ? "app" : from,
    proto: value("proto"),
    dst: value("proto") === "icmp" ? address : `${address.includes(":") ? `[${address}]` : address}:${port}`,
    src: value("src"),
    interface: value("interface"),
    mark: value("mark"),
    state: value("state"),
    uid: from === "user" || from === "app" ? value("uid") : "",
    gid: from === "user" || from === "app" ? value("gid") : "",
    toSelf: from !== "outside" && inputs.toSelf.checked,
  };
  // What is as the library takes it anyway is not said, so that the same packet is the same question.
  const usual = { proto: "tcp", state: "new" };
  return Object.fromEntries(Object.entries(all).filter(([name, v]) => v && v !== usual[name]));
}

function edited(event) {
  const from = inputs.from.value;
  if (event?.target === inputs.from) {
    if (from === "user" && !inputs.uid.value) inputs.uid.value = inputs.gid.value = "2000";
    if (from === "app") inputs.uid.value = inputs.gid.value = "";
    const sample = Object.values(samples).some((both) => both.includes(inputs.to.value));
    if (sample)
      inputs.to.value = samples[from === "outside" ? "outside" : "other"][inputs.family.value === "6" ? 1 : 0];
  }
  able();
  const now = packet();
  choose(now);
  changed(now);
}

function otherFamily() {
  const self = inputs.from.value === "outside" ? "outside" : inputs.toSelf.checked ? "self" : "other";
  inputs.to.value = samples[self][inputs.family.value === "6" ? 1 : 0];
  inputs.src.value = "";
}

/** Which fields say something about this packet. */
function able() {
  const from = inputs.from.value;
  const sent = from === "app" || from === "user";
  for (const name of ["uid", "gid"]) inputs[name].disabled = !sent;
  inputs.toSelf.disabled = from === "outside";
  inputs.mark.disabled = from === "outside";
  inputs.port.disabled = inputs.proto.value === "icmp";
}

/** Shows a packet in the editor, and which of the ready ones it is. */
export function show(p) {
  const [, address, port] =
    p.proto === "icmp" ? [p.dst, p.dst, ""] : (/^\[?(.*?)\]?:(\d*)$/.exec(p.dst) ?? [p.dst, p.dst, ""]);
  const from = p.from ?? "app";
  inputs.from.value = from === "app" && p.uid && p.uid !== "1000" ? "user" : from;
  inputs.proto.value = p.proto ?? "tcp";
  inputs.family.value = address.includes(":") ? "6" : "4";
  inputs.to.value = address;
  inputs.port.value = port;
  for (const name of ["src", "interface", "mark", "uid", "gid"]) inputs[name].value = p[name] ?? "";
  inputs.state.value = p.state ?? "new";
  inputs.toSelf.checked = Boolean(p.toSelf);
  able();
  choose(p);
}

// A field that is as usual may be there or not.
const plain = (p) => JSON.stringify(Object.entries({ from: "app", proto: "tcp", state: "new", ...p }).sort());

/** The one of several cases with packets that this packet is of, if it is of one. */
export const among = (cases, p) => cases.find((each) => plain(each.packet) === plain(p));

/** The ready packet that this one is, if it is one. */
export const scenarioOf = (p) => among(packets, p);

function choose(p) {
  const scenario = scenarioOf(p);
  for (const radio of at("scenarios").querySelectorAll("input")) radio.checked = radio.value === scenario?.id;
}

/** Whether the port, which is a part of the destination, is right by itself. */
function rightPort() {
  const text = inputs.port.value.trim();
  return inputs.port.disabled || (/^\d+$/.test(text) && Number(text) > 0 && Number(text) < 65536);
}

/** Says what the library refuses of a packet, at its field. Returns whether there is a field for it. */
export function complain(problems) {
  for (const name of Object.keys(inputs)) {
    inputs[name].removeAttribute("aria-invalid");
    const text = at(`packet-problem-${name}`);
    if (text) {
      text.hidden = true;
      text.textContent = "";
    }
  }
  let placed = problems.length > 0;
  for (const { field, text } of problems) {
    const name = field?.replace(/^packet\./, "");
    const input = inputs[name === "dst" ? (rightPort() ? "to" : "port") : name];
    const place = input && at(input.id.replace("packet-", "packet-problem-"));
    if (!place) {
      placed = false;
      continue;
    }
    input.setAttribute("aria-invalid", "true");
    place.hidden = false;
    place.append(place.textContent ? " " : "", text);
    at("editor-details").open = true;
  }
  return placed;
}
