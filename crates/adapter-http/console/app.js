// @ts-check
// Puts the page together, and listens to the keys.

import { get } from "./api.js";
import { Groups, Sources } from "./aside.js";
import { DeadLetters } from "./dead-letters.js";
import { byId, h, onClick, setText } from "./dom.js";
import { Histogram } from "./histogram.js";
import { Messages } from "./messages.js";
import { Pipeline } from "./pipeline.js";
import { Search } from "./search.js";
import { DEFAULTS, Store, preferences } from "./store.js";
import { short } from "./time.js";

/** @type {readonly (readonly [string, string])[]} */
const KEYS = [
  ["/", "search"],
  ["j", "the next row, which is newer"],
  ["k", "the row before, which is older"],
  ["Enter", "open the row, or close it"],
  ["Space", "pause, or go on"],
  ["e", "only error and critical, or all severities"],
  ["g", "go on at the newest message"],
  ["?", "this help"],
  ["Esc", "close what is open, leave the field"],
];

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

function usePreferences() {
  const { theme, isDark, zone } = preferences;
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
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

listen({
  search: () => (isDead() ? byId("letter-source") : search).focus(),
  move: (step) => (isDead() ? deadLetters : messages).move(step),
  toggle: () => !isDead() && messages.toggle(),
  pause: () => !isDead() && messages.pause(),
  errors: () =>
    store.set({ severity: store.state.severity === "error,critical" ? "" : "error,critical", open: "" }),
  newest: () => !isDead() && messages.resume(),
  escape: () => search.closeHelp() || (isDead() ? deadLetters : messages).close(),
});

usePreferences();
update();
store.subscribe(update);

get("/version").then(
  ({ service, version }) => setText(byId("version"), `${service} ${version}`),
  // The page says loudly enough by other means that the server does not answer.
  () => setText(byId("version"), ""),
);

/**
 * @typedef {object} Actions
 * @property {() => void} search
 * @property {(step: number) => void} move
 * @property {() => void} toggle
 * @property {() => void} pause
 * @property {() => void} errors
 * @property {() => void} newest
 * @property {() => void} escape
 */

/** @param {Actions} actions */
function listen(actions) {
  /** @type {HTMLDialogElement} */
  const help = byId("help");
  byId("keys").append(
    ...KEYS.flatMap(([key, meaning]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, meaning)]),
  );
  const showHelp = () => (help.open ? help.close() : help.showModal());
  onClick("help-button", showHelp);
  onClick("help-close", showHelp);

  /** @type {Record<string, () => void>} */
  const bound = {
    "/": actions.search,
    j: () => actions.move(1),
    k: () => actions.move(-1),
    Enter: actions.toggle,
    " ": actions.pause,
    e: actions.errors,
    g: actions.newest,
    "?": showHelp,
  };

  document.addEventListener("keydown", (event) => {
    const target = event.target instanceof HTMLElement ? event.target : document.body;
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || event.defaultPrevented) return;
    if (event.key === "Escape") {
      if (document.querySelector("dialog[open]")) return;
      actions.escape();
      if (!target.matches("input, select")) return;
      // A search field would empty itself.
      event.preventDefault();
      target.blur();
      return;
    }
    if (target.matches("input, textarea, select")) return;
    if (document.querySelector("dialog[open]") && event.key !== "?") return;
    // A button, a link and the histogram have a use for these keys themselves.
    if ((event.key === "Enter" || event.key === " ") && target.closest("button, a, summary, [role=slider]"))
      return;
    const action = bound[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  });
}
