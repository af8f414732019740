// The pod as a picture: where packets come from, the chains at each hook, the proxy, the app, and one packet's way.
//
// Everything is placed along two axes: u goes from the network to the app, v across, from the way in to the way out. A
// wide picture lays u from left to right, a narrow one from top to bottom.
import { h, s } from "./dom.js";

const narrowBelow = 600;
const gateWidth = 118;
const narrowProxy = 44; // the least for its name and a port

/**
 * What there is to draw:
 *
 *   gates   {in: [gate], out: [gate]}, each in the order in which packets meet them; a gate is {name, title, hook,
 *           under, count, foreign}
 *   start   "network", "app" or "proxy"
 *   end     "proxy", "app", "network", "through", "elsewhere", "stopped" or "discarded", as the library says
 *   captured whether a rule sends it to the proxy
 *   self    whether the packet stays in the pod: out by lo, and in again
 *   decided {gate, id, text}: the gate whose rule decided, if one did
 *   port    where at the proxy it gets to
 *   ports   what the proxy listens on
 *   beside  what is beside the proxy, if the packet is for that
 *   ends    {network: {start, end}, app}: the words in the boxes
 *   title   the picture in one sentence
 */
export function draw(model, width) {
  const wide = width >= narrowBelow;
  const longest = Math.max(model.gates.in.length, model.gates.out.length, 2);
  const deep = wide ? Math.min(width, 1100) : Math.max(480, 206 + 76 * (longest + 1));
  // Where a way has many chains, they are narrower.
  const room = deep - 62 - 54 - 142 - 60 - 12 * (longest - 1);
  const across = wide ? 292 : width;
  const gateSize = { w: Math.min(gateWidth, wide ? room / longest : (across - narrowProxy - 32) / 2), h: 44 };
  const place = ({ u, v }) => (wide ? { x: u, y: v } : { x: v, y: u });
  const at = { in: wide ? 88 : gateSize.w / 2 + 8, out: wide ? 224 : across - gateSize.w / 2 - 8 };
  const network = wide ? 62 : 30;
  const border = wide ? 142 : 66;
  const app = deep - (wide ? 62 : 34);

  const boxes = {};
  const box = (name, kind, u, v, size, lines) => {
    boxes[name] = { name, kind, u, v, ...size, lines, ...place({ u, v }) };
  };
  const side = wide ? { w: 108, h: 58 } : { w: gateSize.w + 8, h: 44 };
  box("network-in", "place", network, at.in, side, model.ends.network.start);
  box("network-out", "place", network, at.out, side, model.ends.network.end);
  if (wide) box("app", "place", app, (at.in + at.out) / 2, { w: 108, h: at.out - at.in + 58 }, model.ends.app);
  else box("app", "place", app, across / 2, { w: across - 16, h: 44 }, model.ends.app);

  const from = border + (wide ? gateSize.w / 2 + 30 : 78);
  const to = app - (wide ? 54 + gateSize.w / 2 + 30 : 76);
  const spread = (gates, direction) => {
    const n = gates.length;
    for (const [i, gate] of gates.entries()) {
      const share = n === 1 ? 0.5 : i / (n - 1);
      const u = direction === "in" ? from + (to - from) * share : to - (to - from) * share;
      box(`${direction}:${gate.name}`, "gate", u, at[direction], gateSize, [gate.title, gate.under]);
      Object.assign(boxes[`${direction}:${gate.name}`], { count: gate.count, foreign: gate.foreign, hook: gate.hook });
    }
  };
  spread(model.gates.in, "in");
  spread(model.gates.out, "out");
  const middle = (from + to) / 2;
  const proxySize = wide ? { w: 230, h: 46 } : { w: across - 2 * gateSize.w - 32, h: 96 };
  box(
    "proxy",
    "proxy",
    middle,
    (at.in + at.out) / 2,
    proxySize,
    wide
      ? ["the proxy", model.beside ?? `listens on ${[...new Set(model.ports)].join(", ")}`]
      : ["proxy", ...new Set(model.ports)],
  );

  const lines = ways(model, boxes, wide, place, { from, to, at });
  const route = lines.route;
  const ink = (path, classes) => s("path", { d: path, class: classes });
  const lit = new Set(route.boxes);

  const high = wide ? across : deep;
  const picture = s(
    "svg",
    {
      viewBox: `0 0 ${wide ? deep : across} ${high}`,
      width: wide ? deep : across,
      height: high,
      role: "img",
      "aria-labelledby": "map-title",
      class: wide ? "map wide" : "map narrow",
    },
    s("title", { id: "map-title" }, model.title),
    s(
      "defs",
      null,
      s(
        "marker",
        { id: "tip", viewBox: "0 0 8 8", refX: 6, refY: 4, markerWidth: 6, markerHeight: 6, orient: "auto" },
        s("path", { d: "M0 0L8 4L0 8Z" }),
      ),
      s(
        "marker",
        { id: "tip-lit", viewBox: "0 0 8 8", refX: 5, refY: 4, markerWidth: 4, markerHeight: 4, orient: "auto" },
        s("path", { d: "M0 0L8 4L0 8Z" }),
      ),
    ),
    pod(wide, border, deep, across),
    lines.all.map((path) => ink(path, "lane")),
    ink(route.path, "route"),
    Object.values(boxes).map((b) => drawBox(b, lit.has(b.name), model.decided && b.name === model.decided.gate, wide)),
    badge(model, boxes, wide, wide ? deep : across),
    route.stopped && cross(route.stopped),
    s("circle", { class: "packet", r: 7, cx: route.end.x, cy: route.end.y }),
  );
  return { picture, play: () => play(picture) };
}

/** The pod's outline and name. */
function pod(wide, border, deep, across) {
  const [x, y, w, h] = wide ? [border, 18, deep - border - 2, across - 24] : [2, border, across - 4, deep - border - 2];
  return s(
    "g",
    { class: "pod" },
    s("rect", { x, y, width: w, height: h, rx: 14 }),
    s("text", { x: wide ? x + w - 61 : x + w / 2, y: y + 20, "text-anchor": "middle" }, "the pod"),
  );
}

function drawBox(b, lit, decided, wide) {
  const classes = ["box", b.kind, b.foreign && "foreign", lit && "lit", decided && "decided"].filter(Boolean).join(" ");
  const gap = 16;
  const first = b.y - ((b.lines.length - 1) * gap) / 2 + 4;
  const most = (i) => Math.floor((b.w - 6) / (i === 0 ? 6.7 : 5.85));
  return s(
    "g",
    { class: classes },
    s("rect", { x: b.x - b.w / 2, y: b.y - b.h / 2, width: b.w, height: b.h, rx: b.kind === "gate" ? 6 : 10 }),
    b.lines.map((line, i) =>
      s(
        "text",
        {
          x: b.x,
          y: first + i * gap,
          "text-anchor": "middle",
          class: i === 0 ? "name" : "under",
        },
        short(line, most(i)),
      ),
    ),
    b.count !== undefined &&
      s(
        "text",
        {
          x: b.x,
          y: b.name.startsWith("in:") ? b.y + b.h / 2 + 13 : b.y - b.h / 2 - 5,
          "text-anchor": "middle",
          class: "count",
        },
        `${b.count} counted`,
      ),
  );
}

const short = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

/** The rule that decided, as a badge at its chain; where there is room, with its reason. */
function badge(model, boxes, wide, width) {
  const decided = model.decided;
  const b = decided && boxes[decided.gate];
  if (!b) return undefined;
  const above = decided.gate.startsWith("in:");
  const text = wide ? `${decided.id}  ${decided.text}` : decided.id;
  const w = text.length * 7.2 + 20;
  const x = clamp(b.x, w / 2 + 4, width - w / 2 - 4);
  const y = above || !wide ? b.y - b.h / 2 - (wide ? 18 : 14) : b.y + b.h / 2 + 20;
  return s(
    "g",
    { class: "badge" },
    s("rect", { x: x - w / 2, y: y - 11, width: w, height: 22, rx: 11 }),
    s(
      "text",
      { x, y: y + 4, "text-anchor": "middle" },
      s("tspan", { class: "id" }, decided.id),
      wide && s("tspan", { dx: 7 }, decided.text),
    ),
  );
}

function cross({ x, y }) {
  return s("path", { class: "cross", d: `M${x - 8} ${y - 8}l16 16M${x + 8} ${y - 8}l-16 16` });
}

/** All ways there are, and the packet's. */
function ways(model, boxes, wide, place, { at }) {
  const ins = model.gates.in.map((gate) => boxes[`in:${gate.name}`]);
  const outs = model.gates.out.map((gate) => boxes[`out:${gate.name}`]);
  const proxy = boxes.proxy;
  const point = (u, v) => place({ u, v });
  const laneIn = wide ? point(boxes.app.u - boxes.app.w / 2, at.in) : point(boxes.app.u - boxes.app.h / 2, at.in);
  const laneOut = wide ? point(boxes.app.u - boxes.app.w / 2, at.out) : point(boxes.app.u - boxes.app.h / 2, at.out);
  const netIn = wide
    ? point(boxes["network-in"].u + boxes["network-in"].w / 2, at.in)
    : point(boxes["network-in"].u + boxes["network-in"].h / 2, at.in);
  const netOut = wide
    ? point(boxes["network-out"].u + boxes["network-out"].w / 2, at.out)
    : point(boxes["network-out"].u + boxes["network-out"].h / 2, at.out);
  const line = (points) => points.map((p, i) => `${i ? "L" : "M"}${r(p.x)} ${r(p.y)}`).join("");
  // From a gate to the proxy, or from the proxy to where a lane starts: a curve that leaves and comes in along v.
  const curve = (a, b) => {
    const half = wide ? { x: a.x, y: (a.y + b.y) / 2 } : { x: (a.x + b.x) / 2, y: a.y };
    const other = wide ? { x: b.x, y: (a.y + b.y) / 2 } : { x: (a.x + b.x) / 2, y: b.y };
    return `C${r(half.x)} ${r(half.y)} ${r(other.x)} ${r(other.y)} ${r(b.x)} ${r(b.y)}`;
  };
  const toProxy = (gate, direction) => {
    const sign = direction === "in" ? 1 : -1;
    const a = wide ? { x: gate.x, y: gate.y + (sign * gate.h) / 2 } : { x: gate.x + (sign * gate.w) / 2, y: gate.y };
    const reach = wide ? proxy.w / 2 - 24 : proxy.h / 2 - 14;
    const along = clamp(wide ? gate.x - proxy.x : gate.y - proxy.y, -reach, reach);
    const b = wide
      ? { x: proxy.x + along, y: proxy.y - (sign * proxy.h) / 2 }
      : { x: proxy.x - (sign * proxy.w) / 2, y: proxy.y + along };
    return { a, b };
  };
  const firstOut = outs[0];
  const joins =
    firstOut &&
    (wide
      ? { x: firstOut.x + firstOut.w / 2 + 14, y: firstOut.y }
      : { x: firstOut.x, y: firstOut.y + firstOut.h / 2 + 14 });
  const fromProxy = wide ? { x: proxy.x + proxy.w / 2, y: proxy.y } : { x: proxy.x, y: proxy.y + proxy.h / 2 };
  const bend = wide ? { x: joins?.x ?? 0, y: fromProxy.y } : { x: fromProxy.x, y: joins?.y ?? 0 };

  const all = [line([netIn, laneIn]), line([laneOut, netOut])];
  const capture = (gates, direction) =>
    gates
      .filter((gate) => model.captures?.includes(gate.name.slice(direction.length + 1)))
      .map((gate) => {
        const { a, b } = toProxy(gate, direction);
        return `M${r(a.x)} ${r(a.y)}${curve(a, b)}`;
      });
  all.push(...capture(ins, "in"), ...capture(outs, "out"));
  if (joins) all.push(line([fromProxy, bend, joins]));

  // The packet's own way.
  const visited = [];
  let path = "";
  let end;
  let stopped;
  const go = (p) => {
    path += `${path ? "L" : "M"}${r(p.x)} ${r(p.y)}`;
    end = p;
  };
  // To a port of the proxy's own: past all chains, and back to it.
  const toOwn = () => {
    const last = ins.at(-1);
    const beside = 9; // the way from the proxy, where it begins
    if (wide) {
      const x = last ? last.x + last.w / 2 + 14 : proxy.x;
      const side = proxy.x + proxy.w / 2;
      go({ x, y: at.in });
      if (x > side) {
        go({ x, y: proxy.y - beside });
        go({ x: side, y: proxy.y - beside });
      } else go({ x, y: proxy.y - proxy.h / 2 });
    } else {
      const y = last ? last.y + last.h / 2 + 14 : proxy.y;
      const side = proxy.y + proxy.h / 2;
      go({ x: at.in, y });
      if (y > side) {
        go({ x: proxy.x - beside, y });
        go({ x: proxy.x - beside, y: side });
      } else go({ x: proxy.x - proxy.w / 2, y });
    }
    visited.push("proxy");
  };
  // To where it gets to from the chains on the way in.
  const arrive = () => {
    if (model.end === "proxy") return toOwn();
    if (model.end === "app") {
      go(laneIn);
      visited.push("app");
      return undefined;
    }
    // Not to the app: it is discarded here, or leaves the pod, which has no way of its own in the picture.
    const last = boxes[visited.at(-1)];
    const beyond = (by) =>
      wide ? { x: last.x + last.w / 2 + by, y: at.in } : { x: at.in, y: last.y + last.h / 2 + by };
    go(beyond(model.end === "discarded" ? 0 : 19));
    if (model.end === "discarded") stopped = beyond(19);
    return undefined;
  };
  const along = (gates, direction) => {
    for (const gate of gates) {
      if (gate.hook === "input" && (model.end === "discarded" || model.end === "through")) break; // routing comes before
      visited.push(gate.name);
      go(gate);
      if (model.decided?.gate === gate.name && (model.captured || model.end === "stopped")) {
        if (model.end === "stopped") {
          // behind the chain, where it would go on
          const on = direction === "in" ? 1 : -1;
          go(wide ? { x: gate.x + on * (gate.w / 2), y: gate.y } : { x: gate.x, y: gate.y + on * (gate.h / 2) });
          stopped = wide ? { x: end.x + on * 19, y: end.y } : { x: end.x, y: end.y + on * 19 };
          return false;
        }
        const { a, b } = toProxy(gate, direction);
        go(a);
        path += curve(a, b);
        end = b;
        visited.push("proxy");
        return false;
      }
    }
    return true;
  };
  if (model.start === "network") {
    visited.push("network-in");
    go(netIn);
    if (along(ins, "in")) arrive();
  } else {
    visited.push(model.start);
    if (model.start === "proxy" && joins) {
      go(fromProxy);
      go(bend);
      go(joins);
    } else go(laneOut);
    const on = along(outs, "out");
    if (on && model.self) {
      // Around by lo: out of the last gate, across, and in at the first. Either way may have none.
      const off = 15;
      const a = outs.at(-1) ?? { ...laneOut, w: 0, h: 0 };
      const b = ins[0] ?? { ...(wide ? { x: a.x, y: laneIn.y } : { x: laneIn.x, y: a.y }), w: 0, h: 0 };
      if (wide) {
        const x = Math.min(a.x - a.w / 2, b.x - b.w / 2) - off;
        go({ x, y: a.y });
        go({ x, y: b.y });
      } else {
        const y = Math.min(a.y - a.h / 2, b.y - b.h / 2) - off;
        go({ x: a.x, y });
        go({ x: b.x, y });
      }
      if (along(ins, "in")) arrive();
    } else if (on) {
      go(netOut);
      visited.push("network-out");
    }
  }
  return { all, route: { path, boxes: visited, end, stopped } };
}

const clamp = (value, least, most) => Math.max(least, Math.min(most, value));
const r = (value) => Math.round(value * 10) / 10;

/** Moves the packet along its way once. Who wants less motion sees it where it got to. */
function play(picture) {
  const route = picture.querySelector(".route");
  const packet = picture.querySelector(".packet");
  const length = route.getTotalLength();
  const rest = route.getPointAtLength(length);
  const put = ({ x, y }) => {
    packet.setAttribute("cx", x);
    packet.setAttribute("cy", y);
  };
  if (matchMedia("(prefers-reduced-motion: reduce)").matches || document.hidden) return put(rest);
  const takes = 900 + length * 1.6;
  let began;
  const step = (now) => {
    if (!picture.isConnected) return;
    began ??= now;
    const share = Math.min(1, (now - began) / takes);
    put(route.getPointAtLength(length * (share < 0.5 ? 2 * share * share : 1 - (2 - 2 * share) ** 2 / 2)));
    if (share < 1) requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
}
