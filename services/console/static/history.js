// Which columns History shows: a class for each hidden one, and a cookie, so that the page comes as it is wanted.

const COOKIE = "cdds_history_hidden";
const YEAR_SECONDS = 31536000;

document.addEventListener("change", ({ target }) => {
  if (!target.matches("[data-column]")) return;
  document.getElementById("runs").classList.toggle(`hide-${target.value}`, !target.checked);
  const boxes = [...target.closest("[data-columns]").querySelectorAll("[data-column]")];
  const hidden = boxes.filter((box) => !box.checked).map((box) => box.value);
  const secure = location.protocol === "https:" ? "; secure" : "";
  document.cookie = `${COOKIE}=${hidden.join(".")}; path=/history; max-age=${YEAR_SECONDS}; samesite=lax${secure}`;
});
