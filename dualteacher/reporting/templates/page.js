"use strict";

// Theme: the system's until the reader chooses.
(() => {
  const root = document.documentElement, button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
  const label = () => { button.textContent = dark() ? "Light" : "Dark"; button.setAttribute("aria-label", `${button.textContent} theme`); };
  try { const kept = localStorage.getItem("theme"); if (kept === "dark" || kept === "light") root.dataset.theme = kept; } catch {}
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    try { localStorage.setItem("theme", root.dataset.theme); } catch {}
    label();
  });
  system.addEventListener("change", label);
  label();
})();

// Tables: a press on a head sorts, a second one turns the order round; unknown values stay last.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const up = head.ariaSort ? head.ariaSort === "descending" : !head.classList.contains("number");
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = (row) => row.cells[column].dataset.sort ?? row.cells[column].textContent.trim();
    const compare = (a, b) => {
      const x = key(a), y = key(b), p = Number(x), q = Number(y);
      if (x === "nan" || y === "nan") return (x === "nan") - (y === "nan");
      return (Number.isNaN(p) || Number.isNaN(q) ? x.localeCompare(y) : p - q) * (up ? 1 : -1);
    };
    body.append(...[...body.rows].sort(compare));
  }));
}

// Legends: pick one method out of all panels of a block.
for (const legend of document.querySelectorAll(".legend")) {
  const buttons = [...legend.querySelectorAll("button")], marks = legend.parentElement.querySelectorAll("[data-method]");
  const show = (method) => marks.forEach((mark) => { mark.style.opacity = method && mark.dataset.method !== method ? 0.12 : ""; });
  legend.addEventListener("click", (event) => {
    const pressed = event.target.closest("button");
    if (!pressed) return;
    const on = pressed.getAttribute("aria-pressed") !== "true";
    buttons.forEach((button) => button.setAttribute("aria-pressed", String(on && button === pressed)));
    show(on ? pressed.dataset.pick : null);
  });
}

// Galleries: one run at a time, so that changing runs shows what changes in the same place.
document.querySelectorAll(".gallery").forEach((gallery, number) => {
  const figures = [...gallery.querySelectorAll("figure")];
  if (figures.length < 2) return;
  const tabs = document.createElement("div");
  tabs.className = "tabs";
  tabs.setAttribute("role", "tablist");
  const select = (index, focus) => figures.forEach((figure, i) => {
    figure.hidden = i !== index;
    const tab = tabs.children[i];
    tab.setAttribute("aria-selected", String(i === index));
    tab.tabIndex = i === index ? 0 : -1;
    if (focus && i === index) tab.focus();
  });
  figures.forEach((figure, i) => {
    const tab = document.createElement("button");
    tab.type = "button";
    tab.textContent = figure.querySelector("figcaption").textContent;
    tab.setAttribute("role", "tab");
    figure.id = `gallery-${number}-${i}`;
    figure.setAttribute("role", "tabpanel");
    figure.setAttribute("aria-label", tab.textContent);
    tab.setAttribute("aria-controls", figure.id);
    tab.addEventListener("click", () => select(i));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (step) { event.preventDefault(); select((i + step + figures.length) % figures.length, true); }
    });
    tabs.append(tab);
  });
  figures[0].before(tabs);
  gallery.classList.add("tabbed");
  select(0);
});

// Contents: mark the section being read.
(() => {
  const links = new Map([...document.querySelectorAll("nav li a")].map((link) => [link.hash.slice(1), link]));
  const watch = new IntersectionObserver((entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => {
    links.forEach((link) => link.removeAttribute("aria-current"));
    links.get(entry.target.id)?.setAttribute("aria-current", "location");
  }), { rootMargin: "-20% 0px -70% 0px" });
  document.querySelectorAll("main > section").forEach((section) => watch.observe(section));
})();

addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((details) => { details.open = true; }));
