// Elements. Text becomes text nodes: nothing in these modules hands a text to a reader of HTML.

/**
 * Makes an element: `on…` are listeners, the rest are attributes.
 *
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag
 * @param {Properties} [properties]
 * @param {...Child} children
 * @returns {HTMLElementTagNameMap[T]}
 */
export function h(tag, properties = {}, ...children) {
  return filled(document.createElement(tag), properties, children);
}

/**
 * Makes a button that submits nothing.
 *
 * @param {Properties} properties
 * @param {...Child} children
 */
export const button = (properties, ...children) =>
  h("button", { type: "button", ...properties }, ...children);

/**
 * @template {keyof SVGElementTagNameMap} T
 * @param {T} tag
 * @param {Properties} [properties]
 * @param {...Child} children
 * @returns {SVGElementTagNameMap[T]}
 */
export function svg(tag, properties = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), properties, children);
}

/**
 * @template {Element} E
 * @param {E} element
 * @param {Properties} properties
 * @param {Child[]} children
 */
function filled(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== false) {
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
  element.append(...children.filter((child) => typeof child === "string" || child instanceof Node));
  return element;
}

/**
 * @template {HTMLElement} [E=HTMLElement]
 * @param {string} id
 * @param {new () => E} [kind]
 * @returns {E}
 */
export function byId(id, kind) {
  const found = document.getElementById(id);
  if (found instanceof (kind ?? HTMLElement)) return /** @type {E} */ (found);
  throw new Error(`the page has no #${id}`);
}

/**
 * @param {string} id
 * @param {() => void} act
 * @param {string} [focus] what has the focus from then on, where the button hides itself
 */
export function onClick(id, act, focus) {
  byId(id).addEventListener("click", () => {
    if (focus) byId(focus).focus({ preventScroll: true });
    act();
  });
}

/**
 * Changes a text where it is another, so that nothing is read aloud again.
 *
 * @param {Element} element
 * @param {string} text
 */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const PATHS = {
  open: "M6 4l4 4-4 4",
  include: "M8 3.5v9M3.5 8h9",
  exclude: "M3.5 8h9",
};

/** @param {keyof typeof PATHS} name */
export function icon(name) {
  return svg(
    "svg",
    { class: "icon", viewBox: "0 0 16 16", "aria-hidden": "true" },
    svg("path", { d: PATHS[name] }),
  );
}

/**
 * Makes what is in a place like `children`. Elements with the same `data-key` stay, with their listeners, and what is the
 * same in them: whoever presses one just then, has the focus there, reads it or marks its text loses nothing.
 *
 * @param {HTMLElement} place
 * @param {HTMLElement[]} children
 */
export function refill(place, children) {
  const focused = place.contains(document.activeElement);
  const before = new Map(Array.from(place.children, (child) => [child.getAttribute("data-key"), child]));
  const wanted = children.map((child) => {
    const kept = before.get(child.dataset.key ?? "");
    if (!kept) return child;
    liken(kept, child);
    return kept;
  });
  for (const child of before.values()) if (!wanted.includes(child)) child.remove();
  // Only what is elsewhere is moved.
  wanted.forEach(
    (child, n) => child === place.children[n] || place.insertBefore(child, place.children[n] ?? null),
  );
  if (focused && !place.contains(document.activeElement)) place.querySelector("button")?.focus();
}

/**
 * Makes an element like another one, and touches nothing else in it.
 *
 * @param {Element} kept
 * @param {Element} wanted
 */
function liken(kept, wanted) {
  for (const name of kept.getAttributeNames()) wanted.hasAttribute(name) || kept.removeAttribute(name);
  for (const { name, value } of wanted.attributes) kept.setAttribute(name, value);
  const before = Array.from(kept.childNodes);
  for (const part of Array.from(wanted.childNodes)) {
    const old = before.shift();
    if (old?.isEqualNode(part)) continue;
    if (old instanceof Text && part instanceof Text) old.data = part.data;
    else if (old instanceof Element && part instanceof Element && old.tagName === part.tagName)
      liken(old, part);
    else if (old) old.replaceWith(part);
    else kept.append(part);
  }
  for (const old of before) old.remove();
}

/** @type {Timer} */
let fading;

/**
 * Says something for a moment, to eyes and to screen readers.
 *
 * @param {string} text
 */
export function toast(text) {
  const place = byId("toast");
  place.textContent = text;
  place.classList.add("shown");
  clearTimeout(fading);
  fading = setTimeout(() => place.classList.remove("shown"), 2_500);
}

/**
 * @param {string} text
 * @param {string} what for the message that it is there
 */
export async function copy(text, what) {
  toast((await copied(text)) ? `Copied ${what}` : "This browser does not let the page copy");
}

/** @param {string} text */
async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Only pages from https and from this machine may; on others the old way works.
    const area = h("textarea", { class: "unseen", "aria-label": "Copied text" });
    area.value = text;
    const before = document.activeElement;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    if (before instanceof HTMLElement) before.focus();
    return done;
  }
}

/** @param {Problem} problem */
export function problemText(problem) {
  return h(
    "span",
    {},
    h("strong", {}, problem.title || problem.detail),
    problem.title && problem.detail && `: ${problem.detail}`,
    problem.hint && h("span", { class: "quiet" }, ` ${problem.hint}`),
  );
}
