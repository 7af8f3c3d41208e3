// @ts-check
// What belongs to whoever looks, and not to what is looked at: it is kept in this browser.

/** @import { Zone } from "./time.js" */

/** @type {Set<() => void>} */
const listeners = new Set();

/** @param {string} key */
function stored(key) {
  try {
    return localStorage.getItem(`warren.${key}`) ?? "";
  } catch {
    // Storage may be switched off; then a choice lasts as long as the page.
    return "";
  }
}

/**
 * @param {string} key
 * @param {string} value
 */
function keep(key, value) {
  try {
    localStorage.setItem(`warren.${key}`, value);
  } catch {
    // As above.
  }
  for (const listener of listeners) listener();
}

/** @type {Zone} */
let zone = stored("zone") === "utc" ? "utc" : "local";
let theme = stored("theme");

export const preferences = {
  /** The zone in which times are written. */
  get zone() {
    return zone;
  },

  toggleZone() {
    zone = zone === "utc" ? "local" : "utc";
    keep("zone", zone);
  },

  /** `light`, `dark`, or empty for what the system says. */
  get theme() {
    return theme === "light" || theme === "dark" ? theme : "";
  },

  get isDark() {
    return this.theme ? this.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  },

  toggleTheme() {
    theme = this.isDark ? "light" : "dark";
    keep("theme", theme);
  },

  /** @param {() => void} listener */
  subscribe(listener) {
    listeners.add(listener);
  },
};
