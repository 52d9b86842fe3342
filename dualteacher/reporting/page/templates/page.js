"use strict";
document.documentElement.classList.add("live");

// Theme: follows the system until the reader picks one.
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

const say = (text) => { document.getElementById("said").textContent = text; };

// Tables: a click on a heading sorts, a second click reverses the order. NaN sorts last either way.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => head.querySelector("button")?.addEventListener("click", () => {
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
    say(`Sorted by ${head.textContent.trim()}, ${up ? "ascending" : "descending"}`);
  }));
  const words = table.closest(".tablebox").querySelector("input[type=search]");
  words?.addEventListener("input", () => {
    const wanted = words.value.toLowerCase().split(/\s+/);
    for (const row of body.rows) row.hidden = !wanted.every((word) => row.textContent.toLowerCase().includes(word));
    say(`${[...body.rows].filter((row) => !row.hidden).length} of ${body.rows.length} rows`);
  });
}

// Legends: highlight one method in all panels of a block.
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

// Galleries: each side of the slider shows the image, its ground truth or a run's prediction.
for (const gallery of document.querySelectorAll(".gallery")) {
  const form = gallery.querySelector("form"), { left, right, errors, shade } = form.elements;
  const figures = [...gallery.querySelectorAll(".compare")];
  const show = () => {
    gallery.classList.toggle("marking", errors.checked);
    gallery.style.setProperty("--shade", shade.value / 100);
    for (const figure of figures) {
      const text = { left: "image", right: "image" };
      for (const layer of figure.querySelectorAll(".mask")) {
        for (const side of [left, right]) {
          const chosen = layer.dataset.key === side.value;
          layer.classList.toggle(side.name, chosen);
          if (chosen) text[side.name] = layer.querySelector("p").textContent;
        }
      }
      const [before, after] = figure.querySelectorAll(".scores span");
      before.textContent = text.left;
      after.textContent = text.right;
    }
  };
  form.addEventListener("input", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  for (const figure of figures) {
    const stage = figure.querySelector(".stage"), slider = figure.querySelector(".slider");
    const cut = () => {
      stage.style.setProperty("--cut", `${slider.value}%`);
      slider.setAttribute("aria-valuetext", `left ${slider.value} %: ${left.selectedOptions[0].text}, right: ${right.selectedOptions[0].text}`);
    };
    const drag = (event) => {
      const box = stage.getBoundingClientRect();
      slider.value = 100 * (event.clientX - box.left) / box.width;
      cut();
    };
    slider.addEventListener("input", cut);
    form.addEventListener("input", cut);
    stage.addEventListener("pointerdown", (event) => { stage.setPointerCapture(event.pointerId); drag(event); });
    stage.addEventListener("pointermove", (event) => { if (stage.hasPointerCapture(event.pointerId)) drag(event); });
    cut();
  }
  show();
}

// Runs: a link to a run's sheet opens it as a dialog; Escape, the Close button or a click outside closes it.
(() => {
  const sheet = (hash) => hash.startsWith("#run-") ? document.getElementById(hash.slice(1)) : null;
  const place = (hash) => history.replaceState(null, "", hash || location.pathname + location.search);
  const open = (dialog) => {
    document.querySelector("dialog[open]")?.close();
    dialog.showModal();
    dialog.scrollTop = 0;
    place(`#${dialog.id}`);
  };
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[href^='#']"), target = link && sheet(link.hash);
    if (target) { event.preventDefault(); open(target); }
    else if (event.target.matches("dialog, dialog .close")) event.target.closest("dialog").close();
    else if (link) link.closest("dialog")?.close();
  });
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.addEventListener("close", () => { if (location.hash === `#${dialog.id}`) place(""); });
    dialog.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: "Previous", ArrowRight: "Next" }[event.key];
      const link = step && !event.target.closest("pre") && dialog.querySelector(`.bar a[aria-label^="${step}"]`);
      if (link) { event.preventDefault(); link.click(); }
    });
  }
  addEventListener("hashchange", () => { const target = sheet(location.hash); if (target) open(target); });
  if (sheet(location.hash)) open(sheet(location.hash));
})();

// Folded sections: a link to one opens it.
(() => {
  const unfold = (hash) => {
    const fold = hash.length > 1 && document.getElementById(hash.slice(1))?.querySelector("details.fold");
    if (fold) fold.open = true;
  };
  document.addEventListener("click", (event) => { const link = event.target.closest("a[href^='#']"); if (link) unfold(link.hash); });
  addEventListener("hashchange", () => unfold(location.hash));
  unfold(location.hash);
})();

// Contents: mark the section in view.
(() => {
  const links = new Map([...document.querySelectorAll("nav li a")].map((link) => [link.hash.slice(1), link]));
  const watch = new IntersectionObserver((entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => {
    links.forEach((link) => link.removeAttribute("aria-current"));
    links.get(entry.target.id)?.setAttribute("aria-current", "location");
  }), { rootMargin: "-20% 0px -70% 0px" });
  document.querySelectorAll("main > section").forEach((section) => watch.observe(section));
})();

// Printing: open all details, then restore them.
(() => {
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    closed.forEach((details) => { details.open = true; });
  });
  addEventListener("afterprint", () => closed.forEach((details) => { details.open = false; }));
})();
