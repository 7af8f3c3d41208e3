// @ts-check
// The keys, and the page that tells them.

import { byId, h } from "./dom.js";

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
export function listen(actions) {
  /** @type {HTMLDialogElement} */
  const help = byId("help");
  byId("keys").append(
    ...KEYS.flatMap(([key, meaning]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, meaning)]),
  );
  const showHelp = () => (help.open ? help.close() : help.showModal());
  byId("help-button").addEventListener("click", showHelp);
  byId("help-close").addEventListener("click", showHelp);

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
