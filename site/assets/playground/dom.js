// Small helpers to make elements. Text is always set as text: nothing that the library or a file says becomes markup.

const svgSpace = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked" || name === "hidden") element[name] = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(
    ...children.flat(Infinity).filter((child) => child !== undefined && child !== null && child !== false),
  );
  return element;
}

/** An HTML element with attributes, listeners (onclick: …) and children. */
export function h(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** An SVG element. */
export function s(tag, attributes, ...children) {
  return fill(document.createElementNS(svgSpace, tag), attributes, children);
}

/** The element of the page with this id. */
export const at = (id) => document.getElementById(id);

/** Gives an element other children, and keeps the focus where it was if the same control is there again. */
export function replace(element, ...children) {
  const focused = element.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  element.replaceChildren(...children.flat(Infinity).filter((child) => child));
  if (focused) element.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
}

/** Calls a function once, a moment after the last of many calls. */
export function later(milliseconds, f) {
  let timer;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(f, milliseconds, ...values);
  };
}

/**
 * Tabs as ARIA's pattern has them: one of them is in the order of the Tab key, the arrow keys go from one to the next.
 * The markup is there already: buttons with role=tab and aria-controls in an element with role=tablist.
 */
export function tabs(list, onselect) {
  const all = [...list.querySelectorAll("[role=tab]")];
  const select = (tab, focus) => {
    for (const each of all) {
      const chosen = each === tab;
      each.setAttribute("aria-selected", String(chosen));
      each.tabIndex = chosen ? 0 : -1;
      at(each.getAttribute("aria-controls")).hidden = !chosen;
    }
    if (focus) tab.focus();
    onselect?.(tab.dataset.tab);
  };
  for (const [i, tab] of all.entries()) {
    tab.addEventListener("click", () => select(tab));
    tab.addEventListener("keydown", (event) => {
      const next = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: all.length - 1 }[event.key];
      if (next === undefined) return;
      event.preventDefault();
      select(all[(next + all.length) % all.length], true);
    });
  }
  return (name, focus) => select(all.find((tab) => tab.dataset.tab === name) ?? all[0], focus);
}
