// @ts-check
// Puts the page together.

import { get } from "./api.js";
import { Groups, Sources } from "./aside.js";
import { DeadLetters } from "./dead-letters.js";
import { byId, setText } from "./dom.js";
import { Histogram } from "./histogram.js";
import { listen } from "./keyboard.js";
import { Messages } from "./messages.js";
import { Pipeline } from "./pipeline.js";
import { Search } from "./search.js";
import { DEFAULTS, Store, preferences, toAddress } from "./store.js";
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

const isDead = () => store.state.view === "dead-letters";

function update() {
  const { state } = store;
  const dead = isDead();
  byId("view-messages").hidden = dead;
  byId("view-dead-letters").hidden = !dead;
  for (const [id, view] of [
    ["to-messages", "messages"],
    ["to-dead-letters", "dead-letters"],
  ]) {
    const link = byId(/** @type {string} */ (id));
    if (state.view === view) link.setAttribute("aria-current", "page");
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

byId("theme").addEventListener("click", () => preferences.toggleTheme());
byId("zone").addEventListener("click", () => preferences.toggleZone());
preferences.subscribe(() => {
  usePreferences();
  search.update(store.state);
  messages.redraw();
  histogram.redraw();
  deadLetters.redraw();
});

for (const [id, view] of [
  ["to-messages", "messages"],
  ["to-dead-letters", "dead-letters"],
]) {
  const link = /** @type {HTMLAnchorElement} */ (byId(/** @type {string} */ (id)));
  const there = { ...DEFAULTS, view: view ?? "" };
  link.href = toAddress(there);
  link.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.button !== 0) return;
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
  ({ name, version }) => setText(byId("version"), `${name} ${version}`),
  // The page says loudly enough by other means that the server does not answer.
  () => setText(byId("version"), ""),
);
