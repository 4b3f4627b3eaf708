// A private key does not even leave the browser, and a theme is put on at once.

const REFUSED = "This holds a private key, and was not sent. Choose only the certificate; if the key went anywhere else, treat it as known.";

async function holdsKey(field) {
  if (field.type !== "file") return field.value.includes("PRIVATE KEY");
  return field.files.length > 0 && (await field.files[0].text()).includes("PRIVATE KEY");
}

async function check(field) {
  if (await holdsKey(field)) {
    field.value = "";
    field.setAttribute("aria-invalid", "true");
    document.getElementById(`${field.id}-error`).textContent = REFUSED;
    field.focus();
    return false;
  }
  return true;
}

function clear(field) {
  field.removeAttribute("aria-invalid");
  document.getElementById(`${field.id}-error`).textContent = "";
}

document.addEventListener("input", ({ target }) => {
  // Emptied by us a moment ago, the field keeps the reason.
  if (!target.matches("[data-no-private-key]") || !target.value) return;
  for (const field of target.form.querySelectorAll("[data-no-private-key]")) clear(field);
  check(target);
});

// What was typed or chosen is looked at once more before it goes.
document.addEventListener("htmx:confirm", async (event) => {
  const fields = [...event.detail.elt.querySelectorAll("[data-no-private-key]")];
  if (!fields.length) return;
  event.preventDefault();
  for (const field of fields) if (!(await check(field))) return;
  event.detail.issueRequest();
});

// Where the certificates are read again the focus goes to what is wrong, or to their title.
document.addEventListener("htmx:afterSettle", ({ detail }) => {
  if (detail.target.id !== "certificates" && detail.elt.id !== "certificates") return;
  const section = document.getElementById("certificates");
  (section.querySelector("[aria-invalid=true]") ?? section.querySelector("h2")).focus();
});

document.addEventListener("change", ({ target }) => {
  if (target.name === "theme") document.documentElement.dataset.theme = target.value;
});
