// Puts the page together, and listens to the keys.

import { about } from "./api.js";
import { DeadLetters } from "./dead-letters.js";
import { byId, h, onClick, setText } from "./dom.js";
import { Histogram } from "./histogram.js";
import { Messages } from "./messages.js";
import { Groups, Pipeline } from "./pipeline.js";
import { Search, Sources } from "./search.js";
import { DEFAULTS, Store, preferences } from "./store.js";
import { short } from "./time.js";

const store = new Store();
const search = new Search(store);
const messages = new Messages(store, search);
const histogram = new Histogram(store, (counts) => search.showCounts(counts));
const sources = new Sources(store);
const groups = new Groups();
const deadLetters = new DeadLetters(store);
new Pipeline((letters) => {
  const badge = byId("dead-badge");
  badge.hidden = !letters;
  setText(badge, letters ? short(letters) : "");
});

/** @type {NodeListOf<HTMLAnchorElement>} */
const links = document.querySelectorAll("a[data-view]");

const isDead = () => store.state.view === "dead-letters";
const page = () => (isDead() ? deadLetters : messages);

function update() {
  const { state } = store;
  const dead = isDead();
  byId("view-messages").hidden = dead;
  byId("view-dead-letters").hidden = !dead;
  for (const link of links) {
    if (link.dataset.view === state.view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = dead ? "Dead letters · Warren" : state.q ? `${state.q} · Warren` : "Warren";
  groups.show(!dead);
  search.update(state);
  messages.update(state);
  histogram.update(state);
  sources.update(state);
  deadLetters.update(state);
}

function toggleErrors() {
  const severity = "error,critical";
  store.set({ severity: store.state.severity === severity ? "" : severity });
}

function usePreferences() {
  const { theme, isDark, zone } = preferences;
  document.documentElement.style.colorScheme = theme;
  byId("theme").setAttribute("aria-pressed", String(isDark));
  setText(byId("zone"), zone === "utc" ? "UTC" : "Local");
  byId("zone").setAttribute("aria-label", `Times are ${zone === "utc" ? "UTC" : "local"}; change`);
}

onClick("theme", () => preferences.toggleTheme());
onClick("zone", () => preferences.toggleZone());
preferences.subscribe(() => {
  usePreferences();
  search.update(store.state);
  messages.redraw();
  histogram.redraw();
  deadLetters.redraw();
});

for (const link of links) {
  const there = { ...DEFAULTS, view: link.dataset.view ?? "" };
  link.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    store.set(there);
  });
}

const help = byId("help", HTMLDialogElement);
const showHelp = () => (help.open ? help.close() : help.showModal());
onClick("help-button", showHelp);
onClick("help-close", showHelp);

/**
 * What each key does, and in words; `false` leaves it to the browser.
 *
 * @type {Record<string, [words: string, act: () => unknown]>}
 */
const KEYS = {
  "/": ["search", () => (isDead() ? byId("letter-source") : search).focus()],
  j: ["the next row, which is newer", () => page().move(1)],
  k: ["the row before, which is older", () => page().move(-1)],
  Enter: ["open the row, or close it", () => !isDead() && messages.toggle()],
  " ": ["pause, or go on", () => !isDead() && messages.pause()],
  e: ["only error and critical, or all severities", toggleErrors],
  g: ["go on at the newest message", () => !isDead() && messages.resume()],
  "?": ["this help", showHelp],
  Escape: ["close what is open, leave the field", () => void (search.closeHelp() || page().close())],
};

/** How keys are called that have another name. */
const CALLED = /** @type {Record<string, string>} */ ({ " ": "Space", Escape: "Esc" });

byId("keys").append(
  ...Object.entries(KEYS).flatMap(([key, [words]]) => [
    h("dt", {}, h("kbd", {}, CALLED[key] ?? key)),
    h("dd", {}, words),
  ]),
);

document.addEventListener("keydown", (event) => {
  const { key } = event;
  const target = event.target instanceof HTMLElement ? event.target : document.body;
  const act = KEYS[key]?.[1];
  if (!act || event.ctrlKey || event.metaKey || event.altKey || event.isComposing || event.defaultPrevented)
    return;
  if (document.querySelector("dialog[open]") && key !== "?") return;
  if (target.matches("input, textarea, select")) {
    if (key !== "Escape") return;
    target.blur();
  }
  // These have a use for the keys themselves.
  if ((key === "Enter" || key === " ") && target.closest("button, a, pre, .table, [role=slider]")) return;
  // A search field would empty itself at Esc.
  if (act() !== false) event.preventDefault();
});

usePreferences();
update();
store.subscribe(update);

about().then(
  ({ service, version }) => setText(byId("version"), `${service} ${version}`),
  // It is said elsewhere that the server does not answer.
  () => setText(byId("version"), ""),
);
