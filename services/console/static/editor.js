// The editor: what was typed is not lost by leaving, rows can be added, and links to inputs open what they are folded in.

// --- leaving with something unsaved is asked about; what was changed back is not unsaved ---
const written = (form) => new URLSearchParams(new FormData(form)).toString();
for (const form of document.querySelectorAll("[data-guarded]")) {
  let saving = false;
  let before = form.hasAttribute("data-changed") ? null : written(form);
  addEventListener("beforeunload", (event) => {
    if (!saving && written(form) !== before) event.preventDefault();
  });
  form.addEventListener("submit", () => {
    saving = true;
  });
  // Leaving a page that comes back from the browser's cache begins again.
  addEventListener("pageshow", () => {
    saving = false;
  });
  for (const link of form.querySelectorAll("a[data-discards]")) {
    link.addEventListener("click", () => {
      saving = true;
    });
  }
}

// --- another row of inputs like the last one ---
document.addEventListener("click", ({ target }) => {
  if (!target.closest("[data-add-row]")) return;
  const last = [...target.closest("[data-rows]").querySelectorAll("[data-row]")].at(-1);
  const row = last.cloneNode(true);
  for (const input of row.querySelectorAll("input")) input.value = "";
  last.after(row);
  row.querySelector("input").focus();
});

// --- a link to an input opens the section that it is folded in, and puts the focus there ---
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[href^='#']");
  const input = link && document.getElementById(link.hash.slice(1));
  if (!input || link.classList.contains("skip")) return;
  event.preventDefault();
  for (let folded = input.closest("details"); folded; folded = folded.parentElement.closest("details")) folded.open = true;
  input.focus();
  input.scrollIntoView({ block: "center" });
});
