// The list: the rows that can be seen are in the page.

import { h } from "./dom.js";

/** Rows beyond the edges that are drawn, too: nothing flickers. */
const MARGIN = 6;

/** How close to an end of the list more is fetched, rows. */
const NEAR = 30;

/** How long after a finger its click may come, milliseconds. */
const LATE = 300;

export class List {
  /** Whether the newest row is kept in sight. */
  follow = true;
  /** @type {Row[]} */
  #rows = [];
  /** What is listed next; not while something is pressed: rows must not move under a finger. */
  #latest = this.#rows;
  /** @type {Map<Row, HTMLElement>} */
  #drawn = new Map();
  #scroller;
  #hooks;
  #sizer = h("div", { class: "sizer", role: "presentation" });
  #window = h("div", { class: "window", role: "presentation" });
  #rowHeight = 22;
  /** The row that is open, and how much taller it is for that. */
  #open = "";
  #extra = 0;
  /** What it shows, so that it is the same when it comes into sight again. */
  #details = /** @type {HTMLElement | null} */ (null);
  /** The row with the focus. */
  #selected = "";
  /** What is at the upper edge, and stays there when rows come or go above it. */
  #anchor = { key: "", distance: 0 };
  /** Where it was last scrolled to. */
  #top = 0;
  /** Whether something is pressed, and where. */
  #held = false;
  #pressed = 0;
  #lifted = /** @type {Timer} */ (undefined);
  #resized = new ResizeObserver(() => this.#resize());

  /**
   * @param {HTMLElement} scroller
   * @param {ListHooks} hooks
   */
  constructor(scroller, hooks) {
    this.#scroller = scroller;
    this.#hooks = hooks;
    this.#sizer.append(this.#window);
    scroller.append(this.#sizer);
    scroller.addEventListener("scroll", () => this.#scrolled());
    scroller.addEventListener("wheel", ({ deltaY }) => deltaY < 0 && this.#leave(), { passive: true });
    scroller.addEventListener("keydown", ({ key }) => /^(ArrowUp|PageUp|Home)$/.test(key) && this.#leave());
    scroller.addEventListener("pointerdown", ({ button, clientY, target }) => {
      clearTimeout(this.#lifted);
      // A press on its scrollbar may end without a word.
      this.#held = button === 0 && target !== scroller;
      this.#pressed = clientY;
    });
    scroller.addEventListener(
      "touchmove",
      ({ touches: [at] }) => at && at.clientY > this.#pressed && this.#leave(),
      { passive: true },
    );
    for (const end of ["pointerup", "pointercancel"]) {
      addEventListener(end, () => (this.#lifted = setTimeout(() => this.#release(), LATE)));
    }
    this.#window.addEventListener("click", (event) => {
      this.#clicked(event);
      this.#release();
    });
    this.#window.addEventListener("focusin", (event) => this.#focused(event));
    this.#resized.observe(scroller);
    this.#resize();
  }

  get selected() {
    return this.#selected;
  }

  /** @param {Row[]} rows */
  show(rows) {
    this.#latest = [...rows];
    // A feed has to have articles.
    this.#scroller.setAttribute("role", rows.length > 0 ? "feed" : "region");
    if (!this.#held) this.#layOut();
  }

  /** Draws every row anew. */
  redraw() {
    if (this.#window.contains(document.activeElement)) this.#scroller.focus({ preventScroll: true });
    this.#window.replaceChildren();
    this.#drawn.clear();
    this.#details = null;
    this.#layOut();
  }

  /**
   * Opens a row, and closes the one that was open.
   *
   * @param {string} key empty for none
   */
  open(key) {
    if (key === this.#open) return;
    const before = this.#open;
    this.#open = key;
    this.#extra = 0;
    this.#details = null;
    this.#refurnish(before, key);
    this.#layOut();
    if (key && !this.follow) this.#reveal(this.#openIndex);
  }

  /**
   * Marks a row, and brings it into sight.
   *
   * @param {string} key
   * @param {"nearest" | "center"} [place]
   */
  select(key, place = "nearest") {
    const index = this.#indexOf(key);
    if (index < 0) return;
    this.#mark(key);
    if (place === "center") this.#scrollTo(this.#topOf(index) - this.#scroller.clientHeight / 3);
    this.#reveal(index);
    const row = this.#rows[index];
    const element = row && this.#drawn.get(row);
    if (element && !element.contains(document.activeElement)) element.focus({ preventScroll: true });
  }

  /** @param {number} step */
  move(step) {
    const at = this.#indexOf(this.#selected);
    const from = at < 0 ? this.#indexAt(this.#scroller.scrollTop + this.#scroller.clientHeight - 1) + 1 : at;
    const to = Math.max(0, Math.min(this.#rows.length - 1, from + (at < 0 ? -1 : step)));
    const row = this.#rows[to];
    if (row) this.select(row.key);
  }

  toEnd() {
    this.follow = true;
    this.#layOut();
  }

  /** @param {number} index */
  #reveal(index) {
    if (index < 0) return;
    const { clientHeight, scrollTop } = this.#scroller;
    const top = this.#topOf(index);
    const bottom = this.#topOf(index + 1);
    if (top < scrollTop) this.#scrollTo(top);
    else if (bottom > scrollTop + clientHeight) this.#scrollTo(Math.min(top, bottom - clientHeight));
    this.#render();
  }

  #rowOf(/** @type {string} */ key) {
    return this.#rows[this.#indexOf(key)];
  }

  #indexOf(/** @type {string} */ key) {
    return key ? this.#rows.findIndex((row) => row.key === key) : -1;
  }

  get #openIndex() {
    return this.#indexOf(this.#open);
  }

  /** @param {number} index */
  #topOf(index) {
    const open = this.#openIndex;
    return index * this.#rowHeight + (open >= 0 && index > open ? this.#extra : 0);
  }

  /** @param {number} y */
  #indexAt(y) {
    const open = this.#openIndex;
    const index = Math.floor(y / this.#rowHeight);
    if (open < 0 || index <= open) return Math.max(0, index);
    return Math.max(open, Math.floor((y - this.#extra) / this.#rowHeight));
  }

  /** Goes to where the reader was, and draws. */
  #layOut() {
    this.#rows = this.#latest;
    // A row that has gone takes what it showed with it.
    if (this.#openIndex < 0) this.#extra = 0;
    const anchor = this.#anchor;
    this.#sizer.style.height = `${this.#topOf(this.#rows.length)}px`;
    if (this.follow) {
      this.#scrollTo(this.#scroller.scrollHeight);
      this.#top = this.#scroller.scrollTop;
    } else {
      const index = this.#indexOf(anchor.key);
      if (index >= 0) this.#scrollTo(this.#topOf(index) + anchor.distance);
    }
    this.#render();
  }

  /** @param {number} top */
  #scrollTo(top) {
    this.#scroller.scrollTop = top;
    this.#hold();
  }

  /** Remembers what is at the upper edge. */
  #hold() {
    const top = this.#scroller.scrollTop;
    const index = this.#indexAt(top);
    this.#anchor = { key: this.#rows[index]?.key ?? "", distance: top - this.#topOf(index) };
  }

  #render() {
    const { scrollTop, clientHeight } = this.#scroller;
    const first = Math.max(0, this.#indexAt(scrollTop) - MARGIN);
    const last = Math.min(this.#rows.length, this.#indexAt(scrollTop + clientHeight) + 1 + MARGIN);
    const wanted = this.#rows.slice(first, last);
    const keep = new Set(wanted);
    for (const [row, element] of this.#drawn) {
      if (keep.has(row)) continue;
      if (element.contains(document.activeElement)) this.#scroller.focus({ preventScroll: true });
      element.remove();
      this.#drawn.delete(row);
    }
    this.#window.style.transform = `translateY(${this.#topOf(first)}px)`;
    /** @type {ChildNode | null} */
    let next = this.#window.firstChild;
    for (const row of wanted) {
      let element = this.#drawn.get(row);
      if (!element) {
        element = this.#hooks.draw(row);
        element.dataset.key = row.key;
        this.#drawn.set(row, element);
        this.#furnish(row, element);
      }
      if (element === next) next = next.nextSibling;
      else this.#window.insertBefore(element, next);
    }
    this.#measure();
  }

  /**
   * Gives an element the details and the mark that its state asks for.
   *
   * @param {Row} row
   * @param {HTMLElement} element
   */
  #furnish(row, element) {
    const open = row.key === this.#open;
    const selected = row.key === this.#selected;
    element.classList.toggle("opened", open);
    element.classList.toggle("selected", selected);
    element.tabIndex = selected ? 0 : -1;
    const button = element.querySelector(".disclose");
    button?.setAttribute("aria-expanded", String(open));
    const shown = element.querySelector(".details");
    if (open && !shown) {
      this.#details ??= this.#hooks.details(row);
      if (this.#details) {
        element.append(this.#details);
        this.#resized.observe(this.#details);
      }
    } else if (!open && shown) {
      this.#resized.unobserve(shown);
      if (shown.contains(document.activeElement)) element.focus({ preventScroll: true });
      shown.remove();
    }
  }

  #measure() {
    const row = this.#rowOf(this.#open);
    const element = row && this.#drawn.get(row);
    if (!element) return;
    const extra = Math.max(0, element.offsetHeight - this.#rowHeight);
    if (extra === this.#extra) return;
    this.#extra = extra;
    this.#sizer.style.height = `${this.#topOf(this.#rows.length)}px`;
    this.#hold();
  }

  #resize() {
    const height = parseFloat(getComputedStyle(this.#scroller).getPropertyValue("--row"));
    if (height) this.#rowHeight = height;
    this.#layOut();
  }

  #scrolled() {
    const { scrollTop, clientHeight, scrollHeight } = this.#scroller;
    const below = scrollHeight - clientHeight - scrollTop;
    // A list that has become lower is away from its end, too.
    if (below > this.#rowHeight && scrollTop < this.#top) this.#leave();
    this.#hold();
    this.#render();
    // A finger begins with a pixel or two.
    if (!this.follow && below < 2 && scrollTop > this.#top) this.#hooks.onarrive();
    this.#top = scrollTop;
    if (scrollTop < NEAR * this.#rowHeight) this.#hooks.onbeginning();
    if (below < NEAR * this.#rowHeight) this.#hooks.onend();
  }

  #leave() {
    if (!this.follow || this.#scroller.scrollHeight <= this.#scroller.clientHeight) return;
    this.follow = false;
    this.#hooks.onleave();
  }

  /** @param {string} key */
  #mark(key) {
    const before = this.#selected;
    this.#selected = key;
    this.#refurnish(before, key);
  }

  #refurnish(/** @type {string[]} */ ...keys) {
    for (const row of keys.map((key) => this.#rowOf(key))) {
      const element = row && this.#drawn.get(row);
      if (element) this.#furnish(row, element);
    }
  }

  #keyAt(/** @type {Event} */ { target }) {
    return (target instanceof Element && target.closest("[data-key]")?.getAttribute("data-key")) || "";
  }

  #release() {
    this.#held = false;
    this.#layOut();
  }

  /** @param {MouseEvent} event */
  #clicked(event) {
    const row = this.#rowOf(this.#keyAt(event));
    const target = /** @type {Element} */ (event.target);
    if (!row || !target.closest(".line")) return;
    // Whoever marks a text wants to copy it, not to open the row.
    if (!target.closest(".disclose") && (target.closest("button") || !getSelection()?.isCollapsed)) return;
    this.#mark(row.key);
    this.#hooks.ontoggle(row);
  }

  /** @param {FocusEvent} event */
  #focused(event) {
    const key = this.#keyAt(event);
    if (key && key !== this.#selected) this.#mark(key);
  }
}
