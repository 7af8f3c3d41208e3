// What a shop that sells online might say in an hour in which its card provider has a bad time.

/** @typedef {{ severity: string, source: string, body: string, attributes: Record<string, unknown> }} Record_ */

/** How long the story is, and when in it the provider is slow, minutes before its end. */
const MINUTES = 60;
const INCIDENT = { from: 19, until: 12 };

/**
 * Makes numbers that are the same each time.
 *
 * @param {number} seed
 */
function chances(seed) {
  let state = seed;
  return () => {
    // Marsaglia's xorshift of 32 bits.
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
}

const chance = chances(20261122);

/** @param {number} least @param {number} most */
const whole = (least, most) => least + Math.floor(chance() * (most - least + 1));

/** @template T @param {readonly T[]} choices @returns {T} */
const one = (choices) => /** @type {T} */ (choices[Math.floor(chance() * choices.length)]);

const order = () => whole(48_100, 48_900);
const customer = () => `c-${whole(1000, 9999)}`;
const trace = () => Array.from({ length: 4 }, () => whole(0x1000, 0xffff).toString(16)).join("");

/** What is said on every day, each with how often. */
const USUAL = /** @type {readonly (readonly [number, () => Record_])[]} */ ([
  [
    30,
    () => ({
      severity: "info",
      source: "shop.web",
      body: one(["GET /products/{id}", "GET /cart", "POST /cart/items", "GET /search", "GET /"]),
      attributes: {
        "http.status": one([200, 200, 200, 200, 304]),
        duration_ms: whole(4, 96),
        trace_id: trace(),
      },
    }),
  ],
  [
    14,
    () => ({
      severity: "debug",
      source: "search.indexer",
      body: `indexed ${whole(20, 400)} products in ${whole(30, 300)} ms`,
      attributes: { shard: whole(0, 5), segment: `s${whole(100, 999)}` },
    }),
  ],
  [
    10,
    () => ({
      severity: "debug",
      source: "shop.cache",
      body: one(["hit", "hit", "hit", "miss", "evicted the oldest entries"]),
      attributes: { key: `product:${whole(100, 990)}`, ttl_s: whole(10, 600) },
    }),
  ],
  [
    9,
    () => ({
      severity: "info",
      source: "billing.api",
      body: "card charged",
      attributes: { order: order(), customer: customer(), amount: whole(500, 25_000) / 100, currency: "EUR" },
    }),
  ],
  [
    8,
    () => ({
      severity: "info",
      source: "auth.gateway",
      body: one(["signed in", "signed in", "token refreshed", "signed out"]),
      attributes: { customer: customer(), method: one(["password", "passkey", "passkey"]) },
    }),
  ],
  [
    6,
    () => ({
      severity: "info",
      source: "mail.sender",
      body: "confirmation sent",
      attributes: { order: order(), template: "order-confirmed", provider: "smtp-2" },
    }),
  ],
  [
    5,
    () => ({
      severity: "info",
      source: "warehouse.sync",
      body: `stock levels taken over, ${whole(2, 80)} changed`,
      attributes: { site: one(["Graz", "Leipzig", "Lille"]), lag_s: whole(1, 9) },
    }),
  ],
  [
    2,
    () => ({
      severity: "warning",
      source: "auth.gateway",
      body: "wrong password, third time in a row",
      attributes: { customer: customer(), ip: `203.0.113.${whole(2, 250)}` },
    }),
  ],
  [
    1.2,
    () => ({
      severity: "warning",
      source: "shop.web",
      body: "slow request: GET /search",
      attributes: { "http.status": 200, duration_ms: whole(1100, 2900), trace_id: trace() },
    }),
  ],
  [
    0.5,
    () => ({
      severity: "error",
      source: "billing.api",
      body: "card declined",
      attributes: {
        order: order(),
        customer: customer(),
        reason: one(["insufficient_funds", "expired_card"]),
      },
    }),
  ],
]);

/** What is said, beside that, while the provider is slow. */
const TROUBLE = /** @type {typeof USUAL} */ ([
  [
    12,
    () => ({
      severity: "warning",
      source: "billing.api",
      body: "card provider slow, trying again",
      attributes: {
        order: order(),
        attempt: whole(1, 3),
        duration_ms: whole(3000, 9000),
        provider: "cards-eu-1",
      },
    }),
  ],
  [
    9,
    () => ({
      severity: "error",
      source: "billing.api",
      body: "payment failed: card provider timed out after 10 s",
      attributes: {
        order: order(),
        customer: customer(),
        provider: "cards-eu-1",
        http: { status: 504 },
        trace_id: trace(),
      },
    }),
  ],
  [
    4,
    () => ({
      severity: "error",
      source: "shop.checkout",
      body: "checkout abandoned: payment not confirmed",
      attributes: { order: order(), customer: customer(), step: "payment", trace_id: trace() },
    }),
  ],
  [
    0.6,
    () => ({
      severity: "critical",
      source: "billing.api",
      body: "circuit breaker open for cards-eu-1, payments go to cards-eu-2",
      attributes: { provider: "cards-eu-1", failures: whole(40, 90), window_s: 60 },
    }),
  ],
]);

/** @param {typeof USUAL} choices */
function said(choices) {
  let left = chance() * choices.reduce((sum, [weight]) => sum + weight, 0);
  for (const [weight, say] of choices) {
    left -= weight;
    if (left < 0) return say();
  }
  return /** @type {(typeof USUAL)[number]} */ (choices[0])[1]();
}

/** Makes what is said now, on a usual day. */
export const usual = () => said(USUAL);

/** Makes what is said now in the middle of the incident. */
export const troubled = () => said([...USUAL, ...TROUBLE]);

/** Makes what a store refuses that takes no negative amount. */
export const refunds = () =>
  Array.from({ length: 14 }, () => ({
    severity: one(["warning", "error", "error"]),
    source: one(["billing.refunds", "billing.refunds", "shop.checkout"]),
    body: one(["refund booked", "voucher returned"]),
    attributes: { order: order(), customer: customer(), amount: -whole(500, 9_000) / 100, currency: "EUR" },
  }));

/**
 * Makes an id of the time at which a message was taken.
 *
 * @param {number} time milliseconds since 1970
 */
function idAt(time) {
  const hex = time.toString(16).padStart(12, "0");
  const random = Array.from({ length: 19 }, () => whole(0, 15).toString(16)).join("");
  return `${hex.slice(0, 8)}-${hex.slice(8)}-7${random.slice(0, 3)}-8${random.slice(3, 6)}-${random.slice(6, 18)}`;
}

/**
 * Makes an hour of messages up to now, as a program would send them that was cut off from the network.
 *
 * @param {number} now milliseconds since 1970
 */
export function story(now) {
  const messages = [];
  for (let minute = MINUTES; minute > 0; minute--) {
    const trouble = minute <= INCIDENT.from && minute > INCIDENT.until;
    const count = Math.round(150 + 60 * Math.sin((MINUTES - minute) / 9) + whole(0, 40) + (trouble ? 60 : 0));
    const times = Array.from({ length: count }, () => Math.floor(now - (minute - chance()) * 60_000));
    for (const time of times.sort((a, b) => a - b)) {
      const record = trouble ? troubled() : usual();
      messages.push({ ...record, id: idAt(time), occurred_at: new Date(time).toISOString() });
    }
  }
  return messages;
}
