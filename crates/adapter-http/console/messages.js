// The page of messages.

import { Problem, about } from "./api.js";
import { button, byId, copy, h, onClick, problemText, setText, toast } from "./dom.js";
import { Feed, newest } from "./feed.js";
import { List } from "./list.js";
import { around, gapLine, messageDetails, messageLine } from "./row.js";
import { DEFAULTS, SEVERITIES, preferences, severityText, withTerm, words } from "./store.js";
import { clock, number, rate } from "./time.js";

/** How often the rate is counted, and a screen reader hears of new messages, milliseconds. */
const RATE_EVERY = 1_000;
const TELL_EVERY = 5_000;

export class Messages {
  #store;
  #search;
  #feed;
  #list;
  #loaded = "";
  /** Whether scrolling has paused, and so scrolling to the end goes on. */
  #byScroll = false;
  #tail = { state: "off", problem: /** @type {Problem | undefined} */ (undefined) };
  #problem = /** @type {Problem | null} */ (null);
  #heard = { count: 0, rate: 0, at: 0 };
  #told = 0;
  #emptiness = 0;

  /**
   * @param {Store} store
   * @param {Search} search
   */
  constructor(store, search) {
    this.#store = store;
    this.#search = search;
    this.#feed = new Feed({
      onrows: () => this.#rowsChanged(),
      onwaiting: () => this.#drawStatus(),
      onproblem: (problem) => this.#problemChanged(problem),
      onmissing: (problem) => toast(problem.detail || problem.title),
      onoutside: (message) => this.#store.set({ ...around(message), part: "" }, "replace"),
      ontail: (state, problem) => {
        this.#tail = { state, problem };
        this.#drawStatus();
      },
    });
    this.#list = new List(byId("list"), {
      draw: (row) => this.#draw(row),
      details: (row) => this.#details(row),
      ontoggle: (row) => this.toggle(row.key),
      onleave: () => this.#left(),
      onarrive: () => this.#arrived(),
      onbeginning: () => void this.#feed.more("older"),
      onend: () => void this.#feed.more("newer"),
    });
    onClick("pause", () => this.pause());
    onClick("pill", () => this.resume(), "list");
    onClick("further", () => this.#further(), "list");
    onClick("retry", () => (this.#feed.ready ? this.#further() : this.#reload(this.#store.state)), "list");
    setInterval(() => this.#measure(), RATE_EVERY);
  }

  /** @param {State} state */
  update(state) {
    const { view, q, severity, source, from, until, part } = state;
    const wanted = view === "messages" ? [q, severity, source, from, until, part].join("\n") : "";
    const paused = state.paused !== "";
    if (wanted !== this.#loaded) {
      this.#loaded = wanted;
      if (wanted) this.#reload(state);
      else this.#feed.stop();
      return;
    }
    if (!wanted) return;
    if (this.#feed.paused && !paused) this.#goOn();
    this.#feed.paused = paused;
    this.#list.open(state.open);
    this.#drawStatus();
  }

  redraw() {
    this.#list.redraw();
    this.#drawStatus();
  }

  pause() {
    if (this.#store.state.paused) this.resume();
    else this.#hold(false);
  }

  resume() {
    this.#store.set({ paused: "", open: "" }, "replace");
  }

  /** @param {string} [key] */
  toggle(key = this.#list.selected) {
    if (!key || this.#feed.rows.get(key)?.kind !== "message") return;
    const open = this.#store.state.open === key ? "" : key;
    // What is read must not move away.
    if (open) this.#hold(true);
    this.#store.set({ open }, "replace");
  }

  /** @param {number} step */
  move(step) {
    this.#hold(true);
    this.#list.move(step);
  }

  /** Closes the open row; tells whether there was one. */
  close() {
    const { open } = this.#store.state;
    if (open) this.#store.set({ open: "" }, "replace");
    return open !== "";
  }

  /**
   * Holds the list where it is.
   *
   * @param {boolean} byScroll
   */
  #hold(byScroll) {
    if (!this.#feed.live) {
      this.#list.follow = false;
      return;
    }
    this.#byScroll = byScroll && (this.#byScroll || !this.#feed.paused);
    this.#list.follow = false;
    this.#store.set({ paused: "1" }, "replace");
  }

  #left() {
    if (this.#feed.live && !this.#feed.paused) this.#hold(true);
  }

  #arrived() {
    if (this.#feed.paused && this.#byScroll && this.#feed.attached && !this.#store.state.open) this.resume();
  }

  #goOn() {
    this.#byScroll = false;
    if (!this.#feed.newer.done) {
      this.#reload(this.#store.state);
      return;
    }
    this.#list.toEnd();
    this.#feed.resume();
  }

  /** @param {State} state */
  #reload(state) {
    const { open } = state;
    this.#problem = null;
    this.#emptiness += 1;
    this.#byScroll = false;
    this.#feed.paused = state.paused !== "";
    this.#list.follow = !open;
    this.#list.open(open);
    byId("empty").hidden = true;
    this.#feed.load(state);
  }

  #rowsChanged() {
    const { rows, ready, older, newer } = this.#feed;
    const first = byId("list").classList.contains("loading") && ready;
    byId("list").classList.toggle("loading", !ready);
    this.#list.show(rows.items);
    const { open } = this.#store.state;
    if (first && open) this.#list.select(open, "center");
    this.#drawStatus();
    const empty =
      ready && rows.items.length === 0 && older.done && newer.done && this.#feed.waiting.count === 0;
    if (!empty) {
      byId("empty").hidden = true;
      this.#emptiness += 1;
    } else if (byId("empty").hidden) {
      void this.#drawEmpty();
    }
    // Where nothing can be scrolled nothing else would ask for more.
    const { clientHeight, scrollHeight } = byId("list");
    if (ready && scrollHeight <= clientHeight) {
      void this.#feed.more("older");
      void this.#feed.more("newer");
    }
  }

  /** Goes on where nothing was found. */
  #further() {
    for (const way of /** @type {const} */ (["older", "newer"])) {
      if (this.#feed.isTired(way)) void this.#feed.further(way);
    }
  }

  /** @param {Problem | null} problem */
  #problemChanged(problem) {
    const here = this.#search.showProblem(problem) ? null : problem;
    this.#problem = here;
    const place = byId("problem");
    place.hidden = here === null;
    if (here) byId("problem-text").replaceChildren(problemText(here));
    this.#drawStatus();
  }

  #measure() {
    const { heard } = this.#feed;
    const { count, rate: before, at } = this.#heard;
    const now = performance.now();
    // Smoothed, so that it can be read; and a page that nobody sees is seldom asked.
    const smooth = (before + ((heard - count) * 1_000) / (now - at)) / 2;
    this.#heard = { count: heard, rate: smooth < 0.05 ? 0 : smooth, at: now };
    if (this.#feed.live) this.#drawStatus();
  }

  #drawStatus() {
    const { live, paused, waiting, attached, rows, older, ready } = this.#feed;
    const tail = this.#tail;
    const status = byId("tail");
    status.hidden = !live;
    status.className = `tail ${paused && tail.state === "live" ? "paused" : tail.state}`;
    const states = /** @type {Record<string, string>} */ ({
      live: "Live",
      connecting: "Connecting…",
      waiting: "Reconnecting…",
      refused: "No live tail",
      off: "",
    });
    setText(byId("tail-text"), paused && tail.state === "live" ? "Paused" : (states[tail.state] ?? ""));
    status.title = tail.problem ? [tail.problem.title, tail.problem.detail].filter(Boolean).join(": ") : "";
    setText(byId("tail-rate"), tail.state === "live" ? `${rate(this.#heard.rate)} /s` : "");
    const pause = byId("pause");
    pause.hidden = !live || tail.state === "refused";
    setText(pause, paused ? "Go on" : "Pause");
    pause.setAttribute("aria-pressed", String(paused));

    const count = waiting.count;
    const pill = byId("pill");
    const show = live && paused && count > 0;
    pill.hidden = !show && !(live && paused && ready && !attached);
    setText(pill, show ? `↓ ${number(count)} new` : "↓ To the newest");
    if (show && Date.now() - this.#told > TELL_EVERY) {
      this.#told = Date.now();
      setText(byId("spoken"), `${number(count)} new messages`);
    }

    const { zone } = preferences;
    const first = rows.first;
    const second = (/** @type {string} */ time) => {
      const at = clock(time, zone);
      return `${at.date} ${at.time.slice(0, 8)}`;
    };
    const back = first?.kind === "message" ? second(first.message.occurred_at) : "";
    const reached = older.reached ? second(older.reached) : "";
    const tired = this.#feed.isTired("older");
    let reach = "";
    if (older.busy) reach = reached ? `Searching, now at ${reached}…` : "Fetching…";
    else if (tired && reached) reach = `Nothing more since ${reached}.`;
    else if (ready && older.done && rows.items.length > 0) reach = "Everything of this range is here.";
    else if (back) reach = `Back to ${back}; scroll up for more.`;
    setText(byId("reach"), reach);
    byId("further").hidden = !(tired || this.#feed.isTired("newer")) || this.#problem !== null;
    setText(byId("shown"), rows.items.length > 0 ? `${number(rows.items.length)} loaded` : "");
  }

  /** Finds out why nothing is here, and says it. */
  async #drawEmpty() {
    const turn = ++this.#emptiness;
    try {
      const any = await newest();
      const said = any ? this.#nothingFound(any) : welcome((await about()).intake);
      if (turn !== this.#emptiness) return;
      byId("empty").replaceChildren(...said);
      byId("empty").hidden = false;
    } catch (error) {
      if (turn === this.#emptiness) this.#problemChanged(Problem.of(error));
    }
  }

  /** @param {Message} any */
  #nothingFound(any) {
    const { q, severity, source } = this.#store.state;
    const filtered = q !== "" || severity !== "" || source !== "";
    const at = clock(any.occurred_at, preferences.zone);
    const set = (/** @type {Partial<State>} */ patch) => () => {
      byId("list").focus({ preventScroll: true });
      this.#store.set(patch);
    };
    return [
      h("h2", {}, filtered ? "No message is like this" : "No message in this range"),
      h("p", {}, `The newest message of all is of ${at.year}-${at.date} ${at.time}.`),
      h(
        "p",
        { class: "actions" },
        filtered && button({ onclick: set({ q: "", severity: "", source: "" }) }, "Drop the filters"),
        button({ onclick: set({ from: "-30d", until: "", part: "" }) }, "Look at the last 30 days"),
        button(
          { onclick: set({ ...around(any), q: "", severity: "", source: "", part: "" }) },
          "Show the newest",
        ),
      ),
    ];
  }

  /** @param {Row} row */
  #draw(row) {
    const { zone } = preferences;
    if (row.kind === "gap") return gapLine(row, zone, () => void this.#fill(row));
    return messageLine(row, zone, words(this.#store.state.q));
  }

  /** @param {GapRow} row */
  async #fill(row) {
    const filling = this.#feed.fill(row);
    this.#list.redraw();
    await filling;
    this.#list.redraw();
  }

  /** @param {Row} row */
  #details(row) {
    if (row.kind === "gap") return null;
    const store = this.#store;
    return messageDetails(row.message, preferences.zone, words(store.state.q), {
      term: (term) => store.set({ q: withTerm(store.state.q, term) }),
      severity: (severity, without) => {
        const chosen = SEVERITIES.filter((other) => (other === severity) !== without);
        store.set({ severity: severityText(new Set(chosen)) });
      },
      source: (source, without) =>
        store.set(without ? { q: withTerm(store.state.q, `-source:${source}`) } : { source }),
      around: (message) => store.set({ ...DEFAULTS, ...around(message) }),
    });
  }
}

/**
 * What is shown while there is no message at all.
 *
 * @param {About["intake"]} intake
 */
function welcome({ url, known }) {
  const command = `curl -d '{"body":"Hello, Warren!"}' ${url}`;
  const unknown =
    "Messages are sent to an ingest-api, not here. With its address in this command, one appears:";
  return [
    h("h2", {}, "No message yet"),
    h("p", {}, known ? "Send one, and it appears here:" : unknown),
    h(
      "div",
      { class: "command" },
      h("pre", { tabindex: "0", "aria-label": "Command" }, command),
      button({ onclick: () => void copy(command, "the command") }, "Copy"),
    ),
    known
      ? h("p", {}, h("a", { href: new URL("../docs/", url).href }, "What else can be sent, and how"))
      : h("p", {}, "Set as pipeline.intake_url, the address is shown here."),
  ];
}
