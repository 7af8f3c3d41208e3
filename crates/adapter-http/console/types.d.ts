// What the server sends, as docs/api.md describes it, and at the end what modules want of each other. Not served: it is for
// whoever reads and checks the modules, which know these names without importing them.

type Exact = import("./api.js").Exact;
type Problem = import("./api.js").Problem;
type Search = import("./search.js").Search;
type State = { -readonly [key in keyof typeof import("./store.js").DEFAULTS]: string };
type Store = import("./store.js").Store;

type Severity = "debug" | "info" | "warning" | "error" | "critical";
type Counts = Record<Severity, number>;
type Json = null | boolean | number | string | Exact | Json[] | { [key: string]: Json };

interface Message {
  id: string;
  severity: Severity;
  source: string;
  body: string;
  attributes: { [key: string]: Json };
  occurred_at: string;
  received_at: string;
  /** Absent in what the live tail brings: it is told before it is stored. */
  stored_at?: string;
}

interface Page {
  messages: Message[];
  next: string | null;
  complete: boolean;
  reached: string | null;
}

interface HistogramAnswer {
  bucket_minutes: number;
  from: string;
  until: string;
  buckets: { start: string; counts: Counts }[];
}

interface Gap {
  missed: number | null;
  from: string;
  until: string;
  reason: string;
}

interface Group {
  group: string;
  state: string;
  at: string;
  /** `null` where it is not known, as of groups that count in other processes. */
  received: Counts | null;
  total: number | null;
  duplicates: number | null;
  per_second: Counts | null;
  last_seen: Record<Severity, string | null> | null;
  lag: { packets: number; messages: number | null; oldest_seconds: number | null } | null;
  unacknowledged: { packets: number; messages: number | null } | null;
}

interface GroupsAnswer {
  groups: Group[];
  missing?: string[];
}

interface Stage {
  stage: "accepted" | "in_rabbitmq" | "queued" | "stored" | "dead";
  total?: Counts | null;
  per_second?: number | null;
  spooled?: number | null;
  messages?: number | null;
  packets?: number | null;
  duplicates?: number | null;
  letters?: number | null;
  in_spools?: number | null;
}

interface PipelineAnswer {
  at: string;
  stages: Stage[];
  /** Accepted, and neither stored nor dead; `null` where it is not known. */
  in_flight: { at_least: number | null; at_most: number | null };
  missing: { stage: string; reason: string; hint: string }[];
}

interface Letter {
  id: string;
  reason: string;
  detail: string;
  severity: Severity | null;
  source: string | null;
  exchange: string;
  routing_key: string;
  queue: string;
  attempts: number;
  first_at: string;
  last_at: string;
  bytes: number;
  message_type: string | null;
  content_encoding: string | null;
}

interface WholeLetter extends Letter {
  text: string | null;
  base64: string | null;
  cut: boolean;
}

interface DryRun {
  dry_run: true;
  letters: number;
  by_reason: Record<string, number>;
  as_of: string;
}

interface Job {
  id: string;
  action: "redrive" | "purge";
  state: "running" | "done" | "cancelled";
  began_at: string;
  ended_at: string | null;
  total: number;
  done: number;
  unreadable: number;
  failed: number;
  changed: number;
  left: number;
  waiting: string | null;
  reasons: string[];
}

/** What is wrong, as the server says it (RFC 9457). */
interface Fault {
  status: number;
  title: string;
  detail: string;
  hint: string;
  /** Which parameter of the request is wrong, where one is. */
  parameter: string;
  /** Where in it the fault begins, in characters from 1; 0 where that is not told. */
  column: number;
  length: number;
}

interface About {
  service: string;
  version: string;
  /** Where messages are posted to, or what stands for it where it is not known. */
  intake: { url: string; known: boolean };
}

/** An event of the live tail. */
interface ServerEvent {
  event: string;
  data: string;
}

interface TailListener {
  onmessage: (message: Message) => void;
  ongap: (gap: Gap) => void;
  onstate: (state: "connecting" | "live" | "waiting" | "refused" | "off", problem?: Problem) => void;
}

/** One direction of the list. */
interface Direction {
  /** Where to go on. */
  after: string;
  /** Whether there is nothing more. */
  done: boolean;
  busy: boolean;
  /** How many answers in a row held nothing. */
  empty: number;
  /** How far was looked. */
  reached: string;
}

interface FeedHooks {
  /** Rows have come or gone. */
  onrows: () => void;
  /** Messages wait. */
  onwaiting: () => void;
  /** What is the matter, or that nothing is any more. */
  onproblem: (problem: Problem | null) => void;
  /** The message that should be open is not there. */
  onmissing: (problem: Problem) => void;
  /** The message that should be open was taken at another time than what is listed. */
  onoutside: (message: Message) => void;
  /** How the tail does. */
  ontail: (state: string, problem?: Problem) => void;
}

interface ListHooks {
  /** Makes the element of a row, closed. */
  draw: (row: Row) => HTMLElement;
  /** Makes what an open row shows. */
  details: (row: Row) => HTMLElement | null;
  /** A row was clicked. */
  ontoggle: (row: Row) => void;
  /** Somebody has scrolled away from the newest row. */
  onleave: () => void;
  /** The newest row was scrolled to. */
  onarrive: () => void;
  /** The oldest row is near. */
  onbeginning: () => void;
  /** The newest row is near. */
  onend: () => void;
}

interface RowActions {
  /** Adds a term to the query. */
  term: (term: string) => void;
  /** Shows only this severity, or all others. */
  severity: (severity: string, without: boolean) => void;
  /** Shows only this source, or all others. */
  source: (source: string, without: boolean) => void;
  /** Shows what else happened at that time. */
  around: (message: Message) => void;
}

/** What a job is to mean. */
type Wish = { ids: string[] } | { filter: Record<string, string> } | { all: true };

interface MessageRow {
  kind: "message";
  key: string;
  /** How many characters its body and its attributes have. */
  weight: number;
  message: Message;
}

interface GapRow {
  kind: "gap";
  key: string;
  weight: number;
  gap: Gap;
  busy: boolean;
  /** Where fetching goes on. */
  after: string;
}

type Row = MessageRow | GapRow;

type Zone = "local" | "utc";

/** What an element can have in it. */
type Child = Node | string | null | undefined | false;
type Properties = Record<string, string | number | boolean | undefined | ((event: any) => void)>;

type Timer = ReturnType<typeof setTimeout> | undefined;
