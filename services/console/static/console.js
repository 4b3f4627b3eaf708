// What HTML can't say by itself. Everything works on what is in the page now, and on what htmx brings later.

// --- selection: buttons that need one row, or some, are disabled until these are chosen ---
function select(form) {
  const boxes = [...form.querySelectorAll("tbody input[type=checkbox]")];
  const chosen = boxes.filter((box) => box.checked).length;
  for (const button of form.querySelectorAll("[data-needs]")) {
    button.disabled = button.dataset.needs === "one" ? chosen !== 1 : chosen === 0;
  }
  const all = form.querySelector("[data-select-all]");
  if (all) {
    all.checked = chosen > 0 && chosen === boxes.length;
    all.indeterminate = chosen > 0 && chosen < boxes.length;
  }
  const count = form.querySelector("[data-selected-count]");
  if (count) count.textContent = chosen ? `${chosen} selected` : "";
}

document.addEventListener("change", ({ target }) => {
  const form = target.closest("[data-selection]");
  if (!form) return;
  if (target.matches("[data-select-all]")) {
    for (const box of form.querySelectorAll("tbody input[type=checkbox]")) box.checked = target.checked;
  }
  select(form);
});

// What was chosen stays chosen when the list is read again, by a click or by itself.
let chosen = [];
function remember(list) {
  if (list.id === "jobs") chosen = [...list.querySelectorAll("tbody input:checked")].map((box) => box.value);
}
document.addEventListener("htmx:beforeSwap", ({ detail }) => remember(detail.target));
document.addEventListener("refetching", ({ detail }) => remember(detail.elt));

function prepare(root) {
  if (root.id === "jobs") {
    for (const box of root.querySelectorAll("tbody input[type=checkbox]")) box.checked = chosen.includes(box.value);
  }
  for (const form of root.querySelectorAll("[data-selection]")) select(form);
  if (root.matches?.("[data-selection]")) select(root);
}

// --- menus close when something else is used ---
document.addEventListener("click", ({ target }) => {
  for (const menu of document.querySelectorAll("details[open]:has(> .menu)")) {
    if (!menu.contains(target)) menu.open = false;
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  const menu = document.querySelector("details[open]:has(> .menu)");
  if (menu) {
    menu.open = false;
    menu.querySelector("summary").focus();
  }
});

// --- navigation on small screens, dialogs and notices ---
document.addEventListener("click", (event) => {
  const { target } = event;
  const toggle = target.closest("[data-toggle-navigation]");
  if (toggle) {
    const open = document.getElementById("navigation").classList.toggle("open");
    toggle.setAttribute("aria-expanded", String(open));
  }
  if (target.closest("dialog [data-close-dialog]")) {
    event.preventDefault();
    document.getElementById("dialog").close();
  }
  target.closest("[data-dismiss]")?.closest("[data-notice]").remove();
});
document.addEventListener("htmx:afterSwap", ({ detail }) => {
  const dialog = document.getElementById("dialog");
  if (detail.target === dialog && !dialog.open) dialog.showModal();
});
document.addEventListener("htmx:afterRequest", ({ detail }) => {
  // What is told in a notice would be behind the dialog.
  const told = detail.successful || detail.xhr.getResponseHeader("HX-Retarget") === "#notices";
  if (detail.elt.closest?.("[data-closes-dialog]") && told) document.getElementById("dialog").close();
});
const FADES_AFTER_MS = 6000;
new MutationObserver((changes) => {
  for (const node of changes.flatMap((change) => [...change.addedNodes])) {
    if (node.nodeType === Node.ELEMENT_NODE && node.matches("[data-fades]")) setTimeout(() => node.remove(), FADES_AFTER_MS);
  }
}).observe(document.getElementById("notices"), { childList: true });

// --- copying: the button says so; where the browser refuses, the text is selected instead ---
const COPIED_FOR_MS = 2000;
document.addEventListener("click", async ({ target }) => {
  const button = target.closest("[data-copy]");
  if (!button) return;
  try {
    await navigator.clipboard.writeText(button.dataset.copy);
  } catch {
    const text = button.parentElement.querySelector("code");
    if (text) getSelection().selectAllChildren(text);
    return;
  }
  button.dataset.copied = "";
  const said = Object.assign(document.createElement("span"), { className: "hidden", role: "status" });
  button.after(said);
  said.textContent = "Copied";
  setTimeout(() => {
    said.remove();
    delete button.dataset.copied;
  }, COPIED_FOR_MS);
});

// --- the first visit tells the time zone of this browser; user preferences may change it ---
if (!/(^|; )cdds_zone=/.test(document.cookie)) {
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const secure = location.protocol === "https:" ? "; secure" : "";
  document.cookie = `cdds_zone=${encodeURIComponent(zone)}; path=/; max-age=31536000; samesite=lax${secure}`;
}

// --- a sign-in link carries its token behind the #, which is sent nowhere ---
const token = document.getElementById("token");
if (token && location.hash.length > 1) {
  token.value = location.hash.slice(1);
  history.replaceState(null, "", location.pathname + location.search);
}

prepare(document);
document.addEventListener("htmx:load", ({ detail }) => prepare(detail.elt));
document.addEventListener("refetched", ({ detail }) => prepare(detail.elt));
