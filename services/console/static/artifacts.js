// Files stay chosen while the list is filtered, sorted and paged; and several are downloaded one after another.

// --- selection: on other pages of the list, too, up to as many as the form says ---
const chosen = new Set();

function form() {
  return document.querySelector("[data-keeps-selection]");
}

function show() {
  const list = form();
  if (!list?.querySelector("[data-selected-count]")) return;
  const most = Number(list.dataset.keepsSelection);
  const boxes = [...list.querySelectorAll("tbody input[type=checkbox]")];
  for (const box of boxes) {
    box.checked = chosen.has(box.value);
    box.disabled = !box.checked && chosen.size >= most;
  }
  const here = boxes.filter((box) => box.checked).length;
  const elsewhere = chosen.size - here;
  const all = list.querySelector("[data-select-all]");
  if (all) {
    all.checked = here > 0 && here === boxes.length;
    all.indeterminate = here > 0 && here < boxes.length;
    all.disabled = here === 0 && chosen.size >= most;
  }
  const present = new Set(boxes.map((box) => box.value));
  list.querySelector("[data-elsewhere]").replaceChildren(
    ...[...chosen].filter((value) => !present.has(value)).map((value) => {
      const input = document.createElement("input");
      Object.assign(input, { type: "hidden", name: "artifact", value });
      return input;
    }),
  );
  for (const button of list.querySelectorAll("[data-needs]")) button.disabled = chosen.size === 0;
  list.querySelector("[data-clear-selection]").hidden = chosen.size === 0;
  list.querySelector("[data-selected-count]").textContent = [
    chosen.size ? `${chosen.size} selected` : "",
    elsewhere ? `${elsewhere} of them not on this page` : "",
    chosen.size >= most ? `${most} is the most at a time` : "",
  ].filter(Boolean).join("; ");
}

document.addEventListener("change", ({ target }) => {
  const list = target.closest("[data-keeps-selection]");
  if (!list) return;
  const most = Number(list.dataset.keepsSelection);
  const boxes = target.matches("[data-select-all]") ? [...list.querySelectorAll("tbody input[type=checkbox]")] : [target];
  for (const box of boxes) {
    if (!target.checked) chosen.delete(box.value);
    else if (chosen.size < most) chosen.add(box.value);
  }
  show();
});
document.addEventListener("click", ({ target }) => {
  if (!target.closest("[data-clear-selection]")) return;
  chosen.clear();
  show();
  form().querySelector("[data-select-all]")?.focus();
});

// --- what was deleted says so, and looks again until its bytes are gone ---
const deleted = new Set();

function followDeleted() {
  for (const path of deleted) {
    const row = document.getElementById(`artifact-${path.split("/")[1]}`);
    if (!row || row.matches(".gone, [data-asked]")) continue;
    row.dataset.asked = "";
    htmx.ajax("GET", `/artifacts/${path}/row`, { target: row, swap: "outerHTML", select: "unset" });
  }
}

document.addEventListener("files-deleted", ({ detail }) => {
  for (const path of detail.value) {
    deleted.add(path);
    chosen.delete(path.replace("/", "."));
  }
  show();
  followDeleted();
});
for (const read of ["htmx:load", "refetched"]) document.addEventListener(read, () => (show(), followDeleted()));
show();

// --- downloads: the exporter sends a few at a time, so they begin apart ---
const APART_MS = 700;
document.addEventListener("click", async ({ target }) => {
  const button = target.closest("[data-download-all]");
  if (!button) return;
  const links = [...button.closest("dialog").querySelectorAll("[data-download]")];
  const count = button.closest("dialog").querySelector("[data-download-count]");
  button.disabled = true;
  for (const [at, link] of links.entries()) {
    if (at) await new Promise((resolve) => setTimeout(resolve, APART_MS));
    if (!link.isConnected) return;
    // With a name, a refusal is a failed download instead of another page.
    const anchor = Object.assign(document.createElement("a"), { href: link.href, download: link.textContent });
    anchor.click();
    count.textContent = `${at + 1} of ${links.length} started`;
  }
});
