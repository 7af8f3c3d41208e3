// What the server sends, as docs/api.md describes it. Not served: it is for whoever reads and checks the modules.

export type Severity = "debug" | "info" | "warning" | "error" | "critical";
export type Counts = Record<Severity, number>;
export type Json =
  null | boolean | number | string | import("./api.js").Exact | Json[] | { [key: string]: Json };

export interface Message {
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

export interface Page {
  messages: Message[];
  next: string | null;
  complete: boolean;
  reached: string | null;
}

export interface Histogram {
  bucket_minutes: number;
  from: string;
  until: string;
  buckets: { start: string; counts: Counts }[];
}

export interface Gap {
  missed: number | null;
  from: string;
  until: string;
  reason: string;
}

export interface Group {
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
}

export interface Groups {
  groups: Group[];
  missing?: string[];
}

export interface Stage {
  stage: "accepted" | "in_rabbitmq" | "queued" | "stored" | "dead";
  total?: Counts | null;
  per_second?: number | null;
  publishing?: number | null;
  spooled?: number | null;
  held?: number | null;
  messages?: number | null;
  packets?: number | null;
  duplicates?: number | null;
  letters?: number | null;
  in_spools?: number | null;
}

export interface Pipeline {
  at: string;
  stages: Stage[];
  missing: { stage: string; reason: string; hint: string }[];
}

export interface Letter {
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

export interface WholeLetter extends Letter {
  text: string | null;
  base64: string | null;
  cut: boolean;
}

export interface DryRun {
  dry_run: true;
  letters: number;
  by_reason: Record<string, number>;
  as_of: string;
}

export interface Job {
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
