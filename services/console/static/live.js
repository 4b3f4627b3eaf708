// Keeps open pages up to date: takes in what `/live` sends, without disturbing who reads, types or listens.

const TARGETS = "[data-progress], [data-run-state], [data-run-status], [data-job-status], [data-refetch]";
const RETRY_MS = { first: 1000, longest: 60000 };
const REFETCH_MS = 3000;
const SPREAD_MS = 2000;

let source = null;
let retry = RETRY_MS.first;
let waiting = 0;
let missed = false;

// --- one connection, while the page can be seen: browsers have six for an address, and hidden pages need none ---
function connect() {
  if (source || document.hidden || !document.querySelector(TARGETS)) return;
  clearTimeout(waiting);
  source = new EventSource("/live");
  source.addEventListener("open", () => {
    retry = RETRY_MS.first;
    hint(false);
    if (missed) refetch(() => true, Math.random() * SPREAD_MS);
    missed = false;
  });
  source.addEventListener("error", () => {
    missed = true;
    if (source.readyState !== EventSource.CLOSED) return;
    disconnect();
    hint(true);
    waiting = setTimeout(connect, retry);
    retry = Math.min(retry * 2, RETRY_MS.longest);
  });
  source.addEventListener("changed", ({ data }) => change(data));
  source.addEventListener("runs", ({ data }) => {
    const { concerned, everything } = JSON.parse(data);
    refetch((wanted) => everything || (wanted === "runs" && concerned.length > 0) || concerned.includes(wanted), 0);
  });
  source.addEventListener("stale", () => hint(true));
  source.addEventListener("fresh", () => hint(false));
}

function disconnect() {
  source?.close();
  source = null;
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    if (source) missed = true;
    disconnect();
  } else connect();
});
window.addEventListener("pagehide", disconnect);
document.addEventListener("htmx:load", connect);

function hint(stale) {
  const element = document.getElementById("stale");
  if (element) element.hidden = !stale;
}

// --- changes: each template names the elements that become what is in it ---
function change(html) {
  const changes = document.createElement("template");
  changes.innerHTML = html;
  for (const template of changes.content.children) {
    const { becomes, contains, ends } = template.dataset;
    for (const element of document.querySelectorAll(becomes ?? contains ?? ends)) {
      if (ends) {
        keepFocus(element);
        element.remove();
      } else if (contains) {
        becomeChildren(element, template.content.cloneNode(true));
      } else {
        const before = stateOf(element);
        const now = become(element, template.content.firstElementChild.cloneNode(true));
        if (stateOf(now) !== before) announce(`${titleOf(now)}: ${stateOf(now)}`);
      }
    }
  }
}

function stateOf(element) {
  return (element.matches(".state") ? element : element.querySelector(".state"))?.textContent ?? "";
}

function titleOf(element) {
  const row = element.closest("tr");
  return (row?.querySelector("th a") ?? row?.querySelector("th") ?? document.querySelector("h1")).textContent.trim();
}

function announce(text) {
  const line = document.createElement("p");
  line.textContent = text;
  document.getElementById("announcements")?.replaceChildren(line);
}

// Who has the focus on something that goes is not thrown back to the beginning of the page.
function keepFocus(element) {
  if (!element.contains(document.activeElement)) return;
  const near = element.closest("td, dd, li, section")?.querySelector("a, button");
  (near ?? document.getElementById("main")).focus({ preventScroll: true });
}

// --- an element becomes another one and stays itself where both are alike: focus, choices, bars that slide ---
const MORPHING = {
  callbacks: {
    beforeNodeRemoved: (node) => {
      if (node.nodeType === Node.ELEMENT_NODE) keepFocus(node);
    },
    afterNodeAdded: (node) => {
      if (node.nodeType === Node.ELEMENT_NODE) window.htmx.process(node);
    },
    // What is open, and what is chosen, is the reader's.
    beforeAttributeUpdated: (name) => name !== "open",
  },
};

function become(node, fresh) {
  const [now] = Idiomorph.morph(node, fresh, { morphStyle: "outerHTML", ...MORPHING });
  window.htmx.process(now);
  return now;
}

function becomeChildren(node, fresh) {
  Idiomorph.morph(node, fresh, { morphStyle: "innerHTML", ...MORPHING });
}

// --- parts of pages that are read again: `data-refetch` says after what, as "runs", a job's or a run's id, "return" ---
const due = new Map();

function refetch(concerned, delay) {
  for (const element of document.querySelectorAll("[data-refetch]")) {
    if (!concerned(element.dataset.refetch) || due.has(element.id)) continue;
    const since = performance.now() - Number(element.dataset.refetched ?? -REFETCH_MS);
    due.set(element.id, setTimeout(() => read(element.id), Math.max(delay, REFETCH_MS - since, 0)));
  }
}

async function read(id) {
  const before = document.getElementById(id);
  const address = location.href;
  if (before && document.getElementById("dialog").open) {
    due.set(id, setTimeout(() => read(id), REFETCH_MS));
    return;
  }
  due.delete(id);
  if (!before) return;
  before.dataset.refetched = performance.now();
  const answer = await fetch(address, { headers: { "HX-Request": "true" } }).catch(() => null);
  if (answer?.headers.has("HX-Redirect")) location.assign(answer.headers.get("HX-Redirect"));
  if (!answer?.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById(id);
  const now = document.getElementById(id);
  if (!fresh || !now || location.href !== address) return;
  fresh.dataset.refetched = now.dataset.refetched;
  const html = document.createElement("template");
  html.content.append(document.importNode(fresh, true));
  document.dispatchEvent(new CustomEvent("refetching", { detail: { elt: now } }));
  become(now, html.content.firstElementChild);
  document.dispatchEvent(new CustomEvent("refetched", { detail: { elt: now } }));
}

connect();
