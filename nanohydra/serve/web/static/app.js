// What has to happen in the browser at once: keys, scrolling, drafts, theme, copying. Everything else is the server's.
"use strict";

window.nanohydra = (() => {
  const root = document.documentElement;
  const composer = () => document.querySelector("[data-composer]");
  const draftKey = () => "draft:" + location.pathname;

  function toast(text) {
    const box = document.querySelector(".toasts");
    if (!box) return;
    const word = document.createElement("div");
    word.textContent = text;
    box.append(word);
    setTimeout(() => word.remove(), 3000 + 60 * text.length);
  }

  // The text that was written, which then is the server's; null where there is none.
  function take() {
    const area = composer();
    const stop = document.querySelector("[data-stop]");
    if (!area || !area.value.trim() || (stop && stop.offsetParent)) return null;
    const text = area.value;
    area.value = "";
    sessionStorage.removeItem(draftKey());
    follow = true;
    return text;
  }

  function giveBack(text) {
    const area = composer();
    if (area && !area.value) area.value = text;
  }

  // Another conversation is shown: its address goes into the history.
  function opened(address, replace) {
    // A new chat gets its address with its first message, unless the reader has gone elsewhere meanwhile.
    if (replace) return void (location.pathname === "/" && history.replaceState({}, "", address));
    if (location.pathname !== address) history.pushState({}, "", address);
    delete root.dataset.sidebar;
    follow = true;
    restoreDraft();
    if (matchMedia("(min-width: 821px)").matches) composer()?.focus();
  }

  function restoreDraft() {
    const area = composer();
    if (area) area.value = sessionStorage.getItem(draftKey()) || "";
  }

  function focusEnd(id) {
    const area = document.getElementById(id);
    area?.focus();
    area?.setSelectionRange(area.value.length, area.value.length);
  }

  function copy(text, button) {
    const label = button.querySelector("span:not(:has(svg))") || (button.dataset.copy === undefined ? null : button);
    const done = () => {
      if (!label) return toast("Copied.");
      const before = label.textContent;
      label.textContent = "Copied";
      setTimeout(() => (label.textContent = before), 1400);
    };
    if (navigator.clipboard) navigator.clipboard.writeText(text).then(done, () => toast("The browser did not allow copying."));
    else toast("Copying needs https, or this machine's own browser.");
  }

  // -- the conversation stays at its end while the reader is there

  let follow = true;
  function stick() {
    const scroller = document.querySelector("[data-stick]");
    if (!scroller) return;
    scroller.addEventListener("scroll", () => {
      follow = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 60;
    });
    const toEnd = () => follow && (scroller.scrollTop = scroller.scrollHeight);
    new MutationObserver(toEnd).observe(scroller, { childList: true, subtree: true, characterData: true });
    new ResizeObserver(toEnd).observe(scroller);
    toEnd();
  }

  // -- charts: the values under the pointer

  function readout(chart, clientX) {
    const svg = chart.querySelector("svg");
    const plot = JSON.parse(chart.dataset.plot || "null");
    if (!svg || !plot) return;
    const box = svg.getBoundingClientRect();
    const x = ((clientX - box.left) / box.width) * plot.width;
    const lines = [];
    let at = null;
    for (const line of plot.lines) {
      let best = null;
      for (const point of line.points) if (best === null || Math.abs(point[0] - x) < Math.abs(best[0] - x)) best = point;
      if (best) lines.push([line, best]);
      if (best && (at === null || Math.abs(best[0] - x) < Math.abs(at[0] - x))) at = best;
    }
    clearReadout(chart);
    if (!at) return;
    const word = document.createElement("div");
    word.className = "panel readout";
    word.append(Object.assign(document.createElement("b"), { textContent: at[2] }));
    for (const [line, point] of lines) {
      const row = document.createElement("div");
      const dot = document.createElement("i");
      dot.style.cssText = `display:inline-block;width:9px;height:9px;border-radius:50%;margin-right:7px;background:${line.colour}`;
      row.append(dot, `${line.name} ${point[3]}`);
      word.append(row);
    }
    const left = (at[0] / plot.width) * box.width;
    word.style[left > box.width / 2 ? "right" : "left"] = (left > box.width / 2 ? box.width - left : left) + 14 + "px";
    chart.append(word);
    const rule = document.createElementNS("http://www.w3.org/2000/svg", "line");
    for (const [k, v] of Object.entries({ x1: at[0], x2: at[0], y1: plot.top, y2: plot.bottom, class: "cursor" })) rule.setAttribute(k, v);
    svg.append(rule);
  }

  function clearReadout(chart) {
    chart.querySelectorAll(".readout, .cursor").forEach((e) => e.remove());
  }

  // -- events of the whole page

  document.addEventListener("click", (e) => {
    const to = (selector) => e.target.closest(selector);
    if (to("[data-sidebar]")) "sidebar" in root.dataset ? delete root.dataset.sidebar : (root.dataset.sidebar = "open");
    if (to("[data-theme-toggle]")) {
      root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
      localStorage.setItem("theme", root.dataset.theme);
    }
    const toggle = to("[data-panel-toggle]");
    if (toggle) {
      const panel = document.querySelector("[data-panel]");
      panel.hidden = !panel.hidden;
      toggle.setAttribute("aria-expanded", String(!panel.hidden));
    }
    const text = to("[data-copy-text]");
    if (text) copy(text.dataset.copyText, text);
    const code = to("[data-copy]");
    if (code) copy(code.closest("figure").querySelector("code").textContent, code);
    document.querySelectorAll("details.menu[open]").forEach((menu) => {
      if (!menu.querySelector("summary").contains(e.target)) menu.open = false;
    });
    if (e.target.tagName === "DIALOG") e.target.close();
  });

  document.addEventListener("keydown", (e) => {
    if (e.key === "Escape") {
      const menu = document.querySelector("details.menu[open]");
      const cancel = document.activeElement?.closest(".editor")?.querySelector("[data-cancel]");
      if (document.querySelector("dialog[open]")) return;
      if (menu) (menu.open = false), menu.querySelector("summary").focus();
      else if (cancel) cancel.click();
      else if ("sidebar" in root.dataset) delete root.dataset.sidebar;
      else {
        const stop = document.querySelector("[data-stop]");
        if (stop?.offsetParent) stop.click();
      }
    } else if ((e.ctrlKey || e.metaKey) && !e.shiftKey && e.key.toLowerCase() === "k") {
      const search = document.querySelector("[data-search]");
      if (search) {
        e.preventDefault();
        root.dataset.sidebar = "open";
        search.focus();
      }
    } else if ((e.ctrlKey || e.metaKey) && e.shiftKey && e.key.toLowerCase() === "o") {
      const begin = document.querySelector("[data-new]");
      if (begin) e.preventDefault(), begin.click();
    }
  });

  document.addEventListener("input", (e) => {
    if (e.target.matches("[data-composer]")) sessionStorage.setItem(draftKey(), e.target.value);
    const output = e.target.type === "range" && e.target.parentElement.querySelector("output");
    if (output) output.textContent = String(Number(e.target.value));
  });

  document.addEventListener("pointermove", (e) => {
    const chart = e.target.closest?.(".chart[data-plot]");
    document.querySelectorAll(".chart[data-plot]").forEach((other) => other !== chart && clearReadout(other));
    if (chart) readout(chart, e.clientX);
  });

  window.addEventListener("popstate", () => window.emitEvent?.("goto", location.pathname));

  function start() {
    if (!document.querySelector("#app > *")) return setTimeout(start, 20); // not drawn yet
    restoreDraft();
    stick();
    if (matchMedia("(min-width: 821px)").matches) composer()?.focus();
  }
  start();

  return { toast, take, giveBack, opened, focusEnd };
})();
