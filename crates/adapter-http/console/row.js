// One row, open or not, and as something to paste.

import { Problem, about, get, print } from "./api.js";
import { button, copy, h, icon, toast } from "./dom.js";
import { DEFAULTS, attributeTerm, flattened, parts, toAddress } from "./store.js";
import { clock, full, many, number, timeOfId } from "./time.js";

/** How much of a body, and of how many attributes, a closed row shows, characters. */
const MOST_BODY = 400;
const MOST_ATTRIBUTES = 5;
const MOST_VALUE = 60;

/** How many attributes an open row shows at once. */
const MOST_FIELDS = 200;

/** How much an open row shows before it is asked for all, characters. */
const MOST_SHOWN = 20_000;

/** @param {Json} value */
const written = (value) => (typeof value === "string" ? value : print(value));

/**
 * @param {string} text
 * @param {number} most
 */
const cut = (text, most) => (text.length > most ? `${text.slice(0, most)}…` : text);

/**
 * @param {string} text
 * @param {string[]} words
 */
const marked = (text, words) =>
  parts(text, words).map((part) => (part.hit ? h("mark", {}, part.text) : part.text));

/**
 * @param {MessageRow} row
 * @param {Zone} zone
 * @param {string[]} words what is looked for in its body
 */
export function messageLine({ key, message }, zone, words) {
  const at = clock(message.occurred_at, zone);
  const attributes = flattened(message.attributes);
  const shown = attributes
    .slice(0, MOST_ATTRIBUTES)
    .map(({ key: name, value }) =>
      h(
        "bdi",
        { class: "attribute" },
        h("span", { class: "key" }, `${name}=`),
        h("bdi", {}, cut(written(value), MOST_VALUE)),
      ),
    );
  const more = attributes.length - shown.length;
  return h(
    "article",
    { class: `row ${message.severity}`, "aria-labelledby": `line-${key}` },
    h(
      "div",
      { class: "line", id: `line-${key}` },
      button(
        { class: "disclose", tabindex: "-1", "aria-label": "Details", "aria-expanded": "false" },
        icon("open"),
      ),
      h("time", { datetime: message.occurred_at }, h("span", { class: "date" }, `${at.date} `), at.time),
      h("span", { class: "severity" }, message.severity),
      h("span", { class: "source" }, message.source),
      h(
        "span",
        { class: "text" },
        h("bdi", { class: "body" }, ...marked(cut(message.body, MOST_BODY), words)),
        ...shown,
        more > 0 && h("span", { class: "attribute" }, `+${more}`),
      ),
    ),
  );
}

/** Why messages are missing. */
const WHY = /** @type {Record<string, string>} */ ({
  slow_reader: "they came faster than this page took them",
  rate_limited: "more is watched than the server may send",
  late_reader: "they came while this page was away",
  other_process: "the server was started again, or another one answers",
  unattended: "nobody was listening",
  broker_lost: "the server had no connection to the broker",
  overrun: "more came than the server reads for live tails",
  store_behind: "they were sent before this page listened, and stored much later",
});

/** @param {Gap} gap */
export function gapText({ missed, reason }) {
  const verb = missed === null ? "may be" : missed === 1 ? "is" : "are";
  return `${missed === null ? "Messages" : many(missed, "message")} ${verb} missing here: ${WHY[reason] ?? reason}`;
}

/**
 * @param {GapRow} row
 * @param {Zone} zone
 * @param {() => void} onload somebody wants what is missing
 */
export function gapLine({ gap, busy }, zone, onload) {
  const [from, until] = [clock(gap.from, zone), clock(gap.until, zone)];
  return h(
    "article",
    { class: "row gap", "aria-label": "A gap" },
    h(
      "div",
      { class: "line" },
      h("span", { class: "text" }, `${gapText(gap)}, ${from.time} – ${until.time}`),
      button(
        { class: "small", onclick: onload, disabled: busy },
        busy ? "Fetching…" : "Fetch what is stored",
      ),
    ),
  );
}

/**
 * @param {Message} message
 * @param {Zone} zone
 * @param {string[]} words
 * @param {RowActions} actions
 */
export function messageDetails(message, zone, words, actions) {
  const { id, severity, source, body, occurred_at, received_at, stored_at } = message;
  const attributes = flattened(message.attributes);
  const link = new URL(toAddress({ ...DEFAULTS, ...around(message) }), location.origin).href;
  const small = (/** @type {string} */ label, /** @type {() => void} */ onclick) =>
    button({ class: "small", onclick }, label);
  const time = (/** @type {string} */ at) => h("time", { datetime: at }, full(at, zone));
  const fields = () => {
    const drawn = attributes.splice(0, MOST_FIELDS).flatMap(({ key, value, findable }) => {
      const term = attributeTerm(key, /** @type {string | Exact} */ (value));
      return field(
        key,
        written(value),
        findable ? (without) => actions.term((without ? "-" : "") + term) : undefined,
      );
    });
    more.textContent = `${number(attributes.length)} more`;
    return drawn;
  };
  const more = small("", () => {
    others[0]?.before(...fields());
    if (attributes.length > 0) return;
    more.closest("article")?.focus({ preventScroll: true });
    for (const part of others) part.remove();
  });
  const others = field("others", more);
  return h(
    "div",
    { class: "details" },
    h(
      "div",
      { class: "actions", role: "group", "aria-label": "Message" },
      small("Neighbours in time", () => actions.around(message)),
      h("span", { class: "label" }, "Copy"),
      small("link", () => void copy(link, "the link")),
      small("curl", () => void copyCurl(message)),
      small("JSON", () => void copy(asJson(message), "JSON")),
      small("text", () => void copy(asText(message), "the text")),
    ),
    wholeText(body, words),
    h(
      "dl",
      { class: "fields" },
      ...field("severity", severity, (without) => actions.severity(severity, without)),
      ...field("source", source, (without) => actions.source(source, without)),
      ...fields(),
      ...(attributes.length > 0 ? others : []),
      ...field("occurred", time(occurred_at)),
      ...field("received", time(received_at)),
      ...field("stored", stored_at ? time(stored_at) : whenStored(id, time)),
      ...field("id", id),
    ),
  );
}

/**
 * Asks when a message of the live tail was stored.
 *
 * @param {string} id
 * @param {(at: string) => Node} time
 */
function whenStored(id, time) {
  const place = h("span", {}, "…");
  get(`/v1/messages/${encodeURIComponent(id)}`).then(
    ({ message }) => place.replaceChildren(time(message.stored_at)),
    (error) => place.replaceChildren(error.status === 404 ? "not yet" : error.title),
  );
  return place;
}

/**
 * Shows a text in full, or its beginning where it is very long.
 *
 * @param {string} text
 * @param {string[]} words
 */
export function wholeText(text, words) {
  const pre = h(
    "pre",
    { class: "whole", tabindex: "0", "aria-label": "Text" },
    ...marked(text.slice(0, MOST_SHOWN), words),
  );
  if (text.length <= MOST_SHOWN) return pre;
  const more = button(
    {
      class: "small",
      onclick: () => {
        pre.textContent = text;
        pre.focus({ preventScroll: true });
        more.remove();
      },
    },
    `Show all ${number(text.length)} characters`,
  );
  return h("div", {}, pre, more);
}

/**
 * Draws a name and a value, which can be looked for.
 *
 * @param {string} name
 * @param {string | Node} value
 * @param {((without: boolean) => void)} [filter]
 */
export function field(name, value, filter) {
  if (!filter) return [h("dt", {}, name), h("dd", {}, h("bdi", { class: "value" }, value))];
  const what = `${name} ${typeof value === "string" ? cut(value, MOST_VALUE) : ""}`;
  const pick = (/** @type {boolean} */ without) => {
    const title = without ? "Only without" : "Only with";
    const properties = { class: "pick", onclick: () => filter(without), title: `${title} this` };
    return button({ ...properties, "aria-label": `${title} ${what}` }, icon(without ? "exclude" : "include"));
  };
  return [
    h("dt", {}, name),
    h(
      "dd",
      {},
      pick(false),
      pick(true),
      button({ class: "value", onclick: () => filter(false), title: "Only with this" }, h("bdi", {}, value)),
    ),
  ];
}

/** What every shell takes as one argument, characters. */
const MOST_ARGUMENT = 100_000;

/** How much time about a message its link shows, milliseconds. */
const AROUND = 15 * 60_000;

/** @param {Message} message */
export function asJson(message) {
  return print(message, 2);
}

/** @param {Message} message */
export function asText(message) {
  const lines = [`${message.occurred_at} ${message.severity} ${message.source} ${message.body}`];
  for (const { key, value } of flattened(message.attributes)) {
    lines.push(`    ${key}=${written(value)}`);
  }
  return lines.join("\n");
}

/** @param {Message} message */
async function copyCurl(message) {
  try {
    const { url, known } = (await about()).intake;
    const what = known ? "sends it again" : "has a place for the address of ingest-api";
    await copy(asCurl(message, url), `a curl that ${what}`);
  } catch (error) {
    toast(`It is not known where messages are sent to: ${Problem.of(error).title}`);
  }
}

/**
 * Writes a command that sends the same again, without the id, under which it is stored once.
 *
 * @param {Message} message
 * @param {string} address where messages are posted to
 */
export function asCurl({ severity, source, body, attributes, occurred_at }, address) {
  const json = print({ severity, source, body, attributes, occurred_at });
  const head = "curl -H 'content-type: application/json'";
  if (json.length > MOST_ARGUMENT) {
    // A line that begins with a brace cannot end the document early.
    return `${head} --data-binary @- ${address} <<'END'\n${json}\nEND\n`;
  }
  return `${head} -d '${json.replaceAll("'", "'\\''")}' ${address}`;
}

/**
 * Returns the part of the address that shows a message among its neighbours in time.
 *
 * @param {Message} message
 */
export function around(message) {
  const taken = timeOfId(message.id);
  const time = Number.isNaN(taken) ? Date.parse(message.received_at) : taken;
  return {
    from: new Date(time - AROUND).toISOString(),
    until: new Date(time + AROUND).toISOString(),
    open: message.id,
  };
}
