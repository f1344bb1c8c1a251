(() => {
"use strict";
const root = document.documentElement;
root.classList.add("js");
const $ = (id) => document.getElementById(id);
const all = (selector, within) => Array.from((within || document).querySelectorAll(selector));
const findings = all(".finding");
const chips = all(".chip");
const search = $("q");
const count = $("count");
const wholeCount = count ? count.textContent : "";
const texts = new Map();
const FACETS = ["verdict", "cause", "state", "tool"];

// The hash is either the id of an element, or the filters as verdict=...&q=...
const readHash = () => {
  const raw = location.hash.slice(1);
  return raw.includes("=") ? new URLSearchParams(raw) : new URLSearchParams();
};
const anchorInHash = () => {
  const raw = location.hash.slice(1);
  return raw.includes("=") ? readHash().get("at") : raw;
};
const filters = () => {
  const params = new URLSearchParams();
  for (const chip of chips) {
    if (chip.getAttribute("aria-pressed") === "true") params.append(chip.dataset.facet, chip.dataset.value);
  }
  if (search && search.value.trim()) params.set("q", search.value.trim());
  return params;
};
const textOf = (finding) => {
  if (!texts.has(finding)) texts.set(finding, finding.textContent.toLowerCase());
  return texts.get(finding);
};
const apply = () => {
  const params = filters();
  const words = (params.get("q") || "").toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const finding of findings) {
    const fits = FACETS.every((facet) => {
      const wanted = params.getAll(facet);
      return !wanted.length || wanted.some((value) => finding.dataset[facet].includes(`|${value}|`));
    }) && words.every((word) => textOf(finding).includes(word));
    finding.hidden = !fits;
    shown += fits;
  }
  const isFiltered = params.toString() !== "";
  if (count) count.textContent = isFiltered ? `${shown} of ${findings.length} kinds shown` : wholeCount;
  if ($("clear")) $("clear").hidden = !isFiltered;
};
const writeHash = (at) => {
  const params = filters();
  const isFiltered = params.toString() !== "";
  if (at && isFiltered) params.set("at", at);
  const hash = isFiltered ? params.toString() : at || "";
  history.replaceState(null, "", hash ? `#${hash}` : location.href.split("#")[0]);
};
const restore = () => {
  const params = readHash();
  for (const chip of chips) {
    chip.setAttribute("aria-pressed", String(params.getAll(chip.dataset.facet).includes(chip.dataset.value)));
  }
  if (search) search.value = params.get("q") || "";
  apply();
  const target = $(anchorInHash() || "");
  if (target) goTo(target);
};
const goTo = (target) => {
  if (target.tagName === "DETAILS") target.open = true;
  for (let up = target.parentElement; up; up = up.parentElement) {
    if (up.tagName === "DETAILS") up.open = true;
  }
  target.scrollIntoView();
  const place = target.tagName === "DETAILS" ? target.querySelector("summary") : target;
  place.focus({preventScroll: true});
};

for (const chip of chips) {
  chip.addEventListener("click", () => {
    chip.setAttribute("aria-pressed", String(chip.getAttribute("aria-pressed") !== "true"));
    apply();
    writeHash();
  });
}
if (search) search.addEventListener("input", () => { apply(); writeHash(); });
if ($("clear")) {
  $("clear").addEventListener("click", () => {
    for (const chip of chips) chip.setAttribute("aria-pressed", "false");
    search.value = "";
    apply();
    writeHash();
    search.focus();
  });
}
for (const link of all('a[href^="#"]')) {
  link.addEventListener("click", (event) => {
    const target = $(link.getAttribute("href").slice(1));
    if (!target) return;
    event.preventDefault();
    writeHash(target.id);
    goTo(target);
  });
}
addEventListener("hashchange", restore);

// The clipboard is not everywhere open to a page from disk; selecting and copying is.
const copyBySelection = (code) => {
  const range = document.createRange();
  range.selectNodeContents(code);
  const selection = getSelection();
  selection.removeAllRanges();
  selection.addRange(range);
  let isCopied = false;
  try { isCopied = document.execCommand("copy"); } catch { isCopied = false; }
  if (isCopied) selection.removeAllRanges();
  return isCopied;
};
const copy = async (button) => {
  const code = button.parentElement.querySelector("code");
  let isCopied = false;
  try {
    await navigator.clipboard.writeText(code.textContent);
    isCopied = true;
  } catch {
    isCopied = copyBySelection(code);
  }
  button.textContent = isCopied ? "Copied" : "Press Ctrl+C";
  setTimeout(() => { button.textContent = "Copy"; }, 2500);
};
for (const button of all(".copy")) button.addEventListener("click", () => copy(button));

const visible = () => findings.filter((finding) => !finding.hidden);
const current = () => {
  const within = document.activeElement && document.activeElement.closest(".finding");
  return within && !within.hidden ? within : null;
};
const move = (by) => {
  const list = visible();
  if (!list.length) return;
  const at = list.indexOf(current());
  const next = at < 0 ? (by > 0 ? 0 : list.length - 1) : Math.min(Math.max(at + by, 0), list.length - 1);
  const summary = list[next].querySelector("summary");
  summary.focus({preventScroll: true});
  summary.scrollIntoView({block: "nearest"});
};
const keys = $("keys");
const showKeys = () => { if (!keys.open) keys.showModal(); };
$("show-keys").addEventListener("click", showKeys);
const actions = {
  j: () => move(1),
  k: () => move(-1),
  o: () => { const one = current(); if (one) one.open = !one.open; },
  c: () => { const button = current() && current().querySelector(".copy"); if (button) copy(button); },
  e: () => { for (const finding of visible()) finding.open = true; },
  E: () => { for (const finding of visible()) finding.open = false; },
  "/": () => { if (search) search.focus(); },
  "?": showKeys,
};
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || keys.open) return;
  const isTyping = /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName);
  if (isTyping) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (Object.hasOwn(actions, event.key)) {
    event.preventDefault();
    actions[event.key]();
  }
});

let closed = [];
addEventListener("beforeprint", () => {
  closed = all("details:not([open])");
  for (const one of closed) one.open = true;
});
addEventListener("afterprint", () => { for (const one of closed) one.open = false; });
restore();
})();
