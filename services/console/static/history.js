// Which columns History shows: a class for each hidden one, and a cookie, so that the page comes as it is wanted.

const COOKIE = "cdds_history_hidden";
const YEAR_SECONDS = 31536000;

function show(box) {
  document.getElementById("runs").classList.toggle(`hide-${box.value}`, !box.checked);
}

document.addEventListener("change", ({ target }) => {
  if (!target.matches("[data-column]")) return;
  show(target);
  const boxes = [...target.closest("[data-columns]").querySelectorAll("[data-column]")];
  const hidden = boxes.filter((box) => !box.checked).map((box) => box.value);
  const secure = location.protocol === "https:" ? "; secure" : "";
  document.cookie = `${COOKIE}=${hidden.join(".")}; path=/history; max-age=${YEAR_SECONDS}; samesite=lax${secure}`;
});

// A list that was asked for before the last choice comes as it was wanted then.
function showChosen() {
  const chosen = document.cookie.split("; ").find((cookie) => cookie.startsWith(`${COOKIE}=`));
  if (chosen === undefined) return;
  const hidden = chosen.slice(COOKIE.length + 1).split(".");
  for (const box of document.querySelectorAll("[data-column]")) {
    box.checked = !hidden.includes(box.value);
    show(box);
  }
}
for (const read of ["htmx:load", "refetched"]) document.addEventListener(read, showChosen);
