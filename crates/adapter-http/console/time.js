// Times and numbers as people read them.

const UNITS = /** @type {const} */ ({ s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000, w: 604_800_000 });

export const RANGES = ["-15m", "-1h", "-6h", "-1d", "-7d", "-30d"];

/**
 * Reads a time: RFC 3339, `now`, or relative to now, such as `-15m`.
 *
 * @param {string} text
 * @param {number} [now]
 * @returns {number} milliseconds since 1970; NaN where it is no time
 */
export function instant(text, now = Date.now()) {
  if (text === "now" || text === "") return now;
  const relative = /^-(\d{1,6})([smhdw])$/.exec(text);
  if (relative) {
    return now - Number(relative[1]) * UNITS[/** @type {keyof typeof UNITS} */ (relative[2])];
  }
  return /^\d{4}-\d\d-\d\dT/.test(text) ? Date.parse(text) : NaN;
}

/**
 * Writes a time as the parts of a row: `11-29` and `20:03:04.123`.
 *
 * @param {string | number} time
 * @param {Zone} zone
 */
export function clock(time, zone) {
  const at = new Date(time);
  if (Number.isNaN(at.getTime())) return { year: "", date: "", time: String(time) };
  // As UTC, of a time that is moved for it.
  const away = zone === "utc" ? 0 : at.getTimezoneOffset() * UNITS.m;
  const text = new Date(at.getTime() - away).toISOString();
  return { year: text.slice(0, 4), date: text.slice(5, 10), time: text.slice(11, 23) };
}

/**
 * Writes a time in full, with its offset and all its digits.
 *
 * @param {string | number} time
 * @param {Zone} zone
 */
export function full(time, zone) {
  const at = new Date(time);
  if (Number.isNaN(at.getTime())) return String(time);
  const finer = typeof time === "string" ? (/\.\d{3}(\d+)/.exec(time)?.[1] ?? "") : "";
  const { year, date, time: text } = clock(time, zone);
  return `${year}-${date} ${text}${finer} ${zone === "utc" ? "UTC" : offset(at)}`;
}

/** @param {Date} at */
function offset(at) {
  const minutes = -at.getTimezoneOffset();
  return (minutes < 0 ? "−" : "+") + clock(Math.abs(minutes) * UNITS.m, "utc").time.slice(0, 5);
}

/** @param {number} seconds */
export function duration(seconds) {
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172_800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86_400)} d`;
}

/**
 * Writes a time for `<input type="datetime-local">`.
 *
 * @param {number} time
 * @param {Zone} zone
 */
export function toInput(time, zone) {
  const { year, date, time: text } = clock(time, zone);
  return `${year}-${date}T${text.slice(0, 8)}`;
}

/**
 * Reads such an input as RFC 3339; empty where it is not typed to its end.
 *
 * @param {string} value
 * @param {Zone} zone
 */
export function fromInput(value, zone) {
  const time = Date.parse(zone === "utc" ? `${value}Z` : value);
  return time >= 0 ? new Date(time).toISOString() : "";
}

/**
 * Returns when a message was taken, which a UUID of version 7 holds; NaN for another id.
 *
 * @param {string} id
 */
export function timeOfId(id) {
  return /^[0-9a-f]{8}-[0-9a-f]{4}-7/i.test(id) ? parseInt(id.slice(0, 8) + id.slice(9, 13), 16) : NaN;
}

/** @param {number} value */
export const number = (value) => value.toLocaleString("en");

/**
 * Writes how many there are of something: `1 packet`, `2 packets`.
 *
 * @param {number} count
 * @param {string} what
 */
export const many = (count, what) => `${number(count)} ${what}${count === 1 ? "" : "s"}`;

const COMPACT = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });

/**
 * Writes a number in little room: `12.3K`.
 *
 * @param {number} value
 */
export const short = (value) => (value < 1e4 ? number(Math.round(value)) : COMPACT.format(value));

/** @param {number} value */
export function rate(value) {
  return value > 0 && value < 9.95 ? value.toFixed(1) : short(value);
}

/** @param {number} bytes */
export function size(bytes) {
  if (bytes < 1024) return `${bytes} B`;
  if (bytes < 1024 * 1024) return `${(bytes / 1024).toFixed(1)} KiB`;
  return `${(bytes / 1024 / 1024).toFixed(1)} MiB`;
}
