// The search. Its index is asked for when somebody is about to search.

const most = 12; // results

// fold is a text as words are compared.
const fold = (text) => text.toLowerCase();

// score is how well a section answers the words: 0 if one of them is nowhere in it.
function score(section, words) {
  let sum = 0;
  for (const word of words) {
    const inText = section.folded.text.indexOf(word);
    let best = inText < 0 ? 0 : 1;
    if (section.folded.title.includes(word)) best = Math.max(best, section.anchor ? 2 : 12);
    const inHeading = section.folded.heading.indexOf(word);
    if (inHeading >= 0) best = 8;
    if (inHeading === 0 || section.folded.heading[inHeading - 1] === " ") best = 10;
    if (section.folded.heading === word) best = 20;
    if (!best) return 0;
    // Often is better, up to a point; a long section has everything in it.
    if (inText >= 0) best += Math.min(3, section.folded.text.split(word).length - 1) / (1 + section.text.length / 2000);
    sum += best;
  }
  return sum;
}

async function load(root) {
  const answer = await fetch(root + "search.json");
  if (!answer.ok) throw new Error(`search.json: ${answer.status}`);
  const { pages, sections } = await answer.json();
  return sections.map(([page, anchor, heading, text]) => ({
    url: root + pages[page].url + (anchor ? "#" + anchor : ""),
    title: pages[page].title,
    anchor,
    heading,
    text,
    folded: { title: fold(pages[page].title), heading: fold(heading), text: fold(text) },
  }));
}

// marked is text with the words in <mark>.
function marked(text, words) {
  const out = document.createDocumentFragment();
  const folded = fold(text);
  let at = 0;
  while (at < text.length) {
    const next = words
      .map((word) => [folded.indexOf(word, at), word.length])
      .filter(([i]) => i >= 0)
      .sort((a, b) => a[0] - b[0] || b[1] - a[1])[0];
    if (!next) break;
    out.append(text.slice(at, next[0]));
    const mark = document.createElement("mark");
    mark.textContent = text.slice(next[0], next[0] + next[1]);
    out.append(mark);
    at = next[0] + next[1];
  }
  out.append(text.slice(at));
  return out;
}

// excerpt is where a section speaks of the words.
function excerpt(section, words) {
  const first = Math.min(...words.map((w) => section.folded.text.indexOf(w)).filter((i) => i >= 0));
  if (!Number.isFinite(first)) return section.text.slice(0, 140);
  const begin = Math.max(0, section.text.lastIndexOf(" ", Math.max(0, first - 40)));
  return (begin ? "…" : "") + section.text.slice(begin, begin + 160).trim();
}

// start makes the box work, which has the focus.
export function start(box) {
  const input = box.querySelector("input");
  const panel = box.querySelector("#results");
  const list = box.querySelector("#found");
  const tally = box.querySelector("#tally");
  const root = box.dataset.root;
  let sections;
  let chosen = -1;

  const choose = (n) => {
    const options = list.children;
    options[chosen]?.setAttribute("aria-selected", "false");
    chosen = options.length ? (n + options.length) % options.length : -1;
    const option = options[chosen];
    if (!option) return input.removeAttribute("aria-activedescendant");
    option.setAttribute("aria-selected", "true");
    option.scrollIntoView({ block: "nearest" });
    input.setAttribute("aria-activedescendant", option.id);
  };
  const close = () => {
    panel.hidden = true;
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
    chosen = -1;
  };
  const find = async () => {
    const words = fold(input.value).split(/\s+/).filter(Boolean);
    if (!words.length) return close();
    try {
      sections ??= load(root);
      const all = await sections;
      if (words.join(" ") !== fold(input.value).split(/\s+/).filter(Boolean).join(" ")) return; // more was typed
      const found = all
        .map((section) => ({ section, points: score(section, words) }))
        .filter((f) => f.points > 0)
        .sort((a, b) => b.points - a.points);
      list.replaceChildren(...found.slice(0, most).map(({ section }, i) => item(section, words, i)));
      tally.textContent = found.length ? (found.length > most ? `${most} of ${found.length} places` : "") : "Nothing found";
    } catch (err) {
      sections = undefined;
      list.replaceChildren();
      tally.textContent = `The search does not work: ${err.message}`;
    }
    list.hidden = !list.children.length;
    panel.hidden = false;
    input.setAttribute("aria-expanded", String(!list.hidden));
    chosen = -1;
    if (!list.hidden) choose(0);
  };
  const item = (section, words, i) => {
    const a = document.createElement("a");
    a.id = `found-${i}`;
    a.role = "option";
    a.href = section.url;
    a.tabIndex = -1;
    a.setAttribute("aria-selected", "false");
    const heading = document.createElement("strong");
    heading.append(marked(section.heading, words));
    a.append(heading);
    if (section.heading !== section.title) {
      const where = document.createElement("small");
      where.textContent = section.title;
      a.append(" ", where);
    }
    const text = document.createElement("span");
    text.append(marked(excerpt(section, words), words));
    a.append(text);
    a.addEventListener("pointermove", () => chosen !== i && choose(i));
    return a;
  };

  const prepare = () => (sections ??= load(root)).catch(() => (sections = undefined));
  input.addEventListener("focus", prepare);
  prepare();
  input.addEventListener("input", find);
  input.addEventListener("keydown", (e) => {
    if (e.key === "ArrowDown" || e.key === "ArrowUp") {
      e.preventDefault();
      if (panel.hidden) find();
      else choose(chosen + (e.key === "ArrowDown" ? 1 : -1));
    } else if (e.key === "Enter") {
      const link = list.children[chosen];
      if (panel.hidden || !link) return;
      e.preventDefault();
      link.click();
      close();
    } else if (e.key === "Escape" && !panel.hidden) {
      e.preventDefault();
      close();
    }
  });
  box.addEventListener("focusout", (e) => {
    if (!box.contains(e.relatedTarget)) close();
  });
  panel.addEventListener("mousedown", (e) => e.preventDefault()); // which would take the focus
  list.addEventListener("click", close);
  find(); // what was typed before
}
