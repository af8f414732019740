// What every page does with a script: the theme's switch, boxes that scroll by the keyboard, copying, the search.

const root = document.documentElement;

// The theme.
const toggle = document.querySelector("button.theme");
const system = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
const show = () => {
  toggle.setAttribute("aria-pressed", String(isDark()));
  // Pictures that the documents have for each theme follow the switch.
  for (const source of document.querySelectorAll("picture source[media]")) {
    source.dataset.media ??= source.media;
    const dark = source.dataset.media.includes("dark");
    source.media = root.dataset.theme ? (dark === isDark() ? "all" : "not all") : source.dataset.media;
  }
};
toggle.addEventListener("click", () => {
  const next = isDark() ? "light" : "dark";
  root.dataset.theme = next;
  try {
    localStorage.setItem("theme", next);
  } catch {} // a browser that keeps nothing
  show();
});
system.addEventListener("change", show);
show();
toggle.hidden = false;

// Code and tables that are wider than the page get the focus, so that keys scroll them.
const watch = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    const wide = target.scrollWidth > target.clientWidth;
    if (wide === target.hasAttribute("tabindex")) continue;
    if (!wide) {
      for (const name of ["tabindex", "role", "aria-label"]) target.removeAttribute(name);
      continue;
    }
    target.tabIndex = 0;
    target.setAttribute("role", "region");
    const what = { PRE: "Code", FIGURE: "Diagram" }[target.tagName] ?? "Table";
    const headings = [...document.querySelectorAll("main :is(h1, h2, h3)[id]")];
    const above = headings.findLast((h) => h.compareDocumentPosition(target) & Node.DOCUMENT_POSITION_FOLLOWING);
    const nth = [...document.querySelectorAll(":is(pre, .table, .diagram)")].indexOf(target) + 1;
    target.setAttribute("aria-label", `${what} ${nth}${above ? ` of “${above.firstChild.textContent.trim()}”` : ""}`);
  }
});
for (const box of document.querySelectorAll("main :is(pre, .table, .diagram)")) watch.observe(box);

// Copying: of a session at a prompt the commands, of everything else all of it.
const commands = (text) => {
  const typed = text.split("\n").filter((line) => line.startsWith("$ "));
  return typed.length ? typed.map((line) => line.slice(2)).join("\n") : text.trimEnd();
};
if (navigator.clipboard) {
  for (const box of document.querySelectorAll("main .code")) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy";
    button.textContent = "Copy";
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(commands(box.querySelector("code").textContent));
      button.textContent = "Copied";
      setTimeout(() => (button.textContent = "Copy"), 2000);
    });
    box.append(button);
  }
}

// Where one is on the page.
const toc = document.getElementById("toc");
if (toc) {
  const links = new Map([...toc.querySelectorAll("a")].map((a) => [a.hash.slice(1), a]));
  const headings = [...document.querySelectorAll("main :is(h2, h3)[id]")].filter((h) => links.has(h.id));
  const mark = () => {
    const here = headings.findLast((h) => h.getBoundingClientRect().top < 120) ?? headings[0];
    for (const [id, a] of links) a.classList.toggle("here", id === here?.id);
  };
  addEventListener("scroll", () => requestAnimationFrame(mark), { passive: true });
  mark();
  toc.addEventListener("click", (e) => {
    if (e.target.matches("a") && toc.matches(":popover-open")) toc.hidePopover();
  });
}
document.querySelector("#pages [aria-current]")?.scrollIntoView({ block: "nearest" });

// The search, of which all but the box comes when it is wanted.
const search = document.getElementById("search");
const find = document.getElementById("find");
find.addEventListener("focus", async () => (await import("./search.js")).start(search), { once: true });
addEventListener("keydown", (e) => {
  if (e.key !== "/" || e.ctrlKey || e.metaKey || e.altKey || e.target.closest?.("input, textarea, select, [contenteditable]")) return;
  e.preventDefault();
  find.focus();
});
search.hidden = false;
