// Teaching: the form of a lesson, its tabs, and the numbers in an answer that lead to their sources.
"use strict";

(() => {
  const form = () => document.querySelector("[data-lesson]");

  function choose(tab) {
    for (const other of tab.parentElement.children) {
      const chosen = other === tab;
      other.setAttribute("aria-selected", String(chosen));
      other.tabIndex = chosen ? 0 : -1;
      document.getElementById(other.getAttribute("aria-controls")).hidden = !chosen;
    }
  }

  // What was written, or null where there is nothing; a file is sent first.
  async function lesson() {
    const box = form();
    const kind = box.querySelector("[role=tab][aria-selected=true]").dataset.tab;
    const found = { name: box.querySelector("[name=name]").value.trim() };
    if (kind === "text") found.text = box.querySelector("[name=text]").value;
    if (kind === "pairs")
      found.pairs = [...box.querySelectorAll(".pair")].map((pair) => [...pair.querySelectorAll("input")].map((e) => e.value));
    if (kind === "file") {
      const file = box.querySelector("[name=file]").files[0];
      if (!file) return void nanohydra.toast("Choose a file first.");
      let told = {};
      try {
        const answer = await fetch("/teach/file?name=" + encodeURIComponent(file.name), { method: "POST", body: file });
        told = await answer.json();
      } catch {
        // said below
      }
      if (!told.id) return void nanohydra.toast(told.error?.message || "The file could not be sent. It may be too large.");
      found.file = told.id;
    }
    return found;
  }

  // What was decided in the preview: keys of facts that are not to be taught.
  function decided() {
    const out = [...document.querySelectorAll("[data-preview] input[type=checkbox][name=fact]:not(:checked)")].map((e) => e.value);
    const old = [...document.querySelectorAll("[data-preview] input[type=radio][data-keeps=old]:checked")].map((e) => e.value);
    return [...out, ...old];
  }

  function clear() {
    const box = form();
    box?.querySelectorAll("input, textarea").forEach((e) => (e.value = ""));
    sessionStorage.removeItem("draft:teach");
  }

  document.addEventListener("click", (e) => {
    const tab = e.target.closest?.("[role=tab]");
    if (tab) choose(tab);
    const cite = e.target.closest?.("[data-cite]");
    if (cite) {
      e.preventDefault();
      cite.closest(".turn")?.querySelector(`[data-source="${cite.dataset.cite}"]`)?.click();
    }
  });

  document.addEventListener("keydown", (e) => {
    const tab = e.target.closest?.("[role=tab]");
    const step = { ArrowRight: 1, ArrowLeft: -1 }[e.key];
    if (!tab || !step) return;
    const tabs = [...tab.parentElement.children];
    const next = tabs[(tabs.indexOf(tab) + step + tabs.length) % tabs.length];
    choose(next);
    next.focus();
  });

  // A text that is being written stays in the tab over a reload.
  document.addEventListener("input", (e) => {
    const draft = e.target.dataset?.draft;
    if (draft) sessionStorage.setItem("draft:" + draft, e.target.value);
  });
  function start() {
    if (!document.querySelector("#app > *")) return setTimeout(start, 20); // not drawn yet
    document.querySelectorAll("[data-draft]").forEach((e) => (e.value ||= sessionStorage.getItem("draft:" + e.dataset.draft) || ""));
  }
  start();

  Object.assign(nanohydra, { lesson, decided, clear });
})();
