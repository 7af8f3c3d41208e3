"""Counts messages by severity: a consumer that knows nothing but docs/packets.md.

    python3 consumer.py URL EXCHANGE... --count N [--pattern PATTERN]

Binds a queue of its own to each exchange, prints "bound" on a line of its own, consumes until N messages have come,
and prints how many there were of each severity as one JSON object.
"""

import argparse
import collections
import json

import pika

parser = argparse.ArgumentParser()
parser.add_argument("url")
parser.add_argument("exchanges", nargs="+")
parser.add_argument("--count", type=int, required=True)
parser.add_argument("--pattern", default="#")
arguments = parser.parse_args()

connection = pika.BlockingConnection(pika.URLParameters(arguments.url))
channel = connection.channel()
queue = channel.queue_declare("", exclusive=True).method.queue
for exchange in arguments.exchanges:
    channel.queue_bind(queue, exchange, routing_key=arguments.pattern)
print("bound", flush=True)

counts = collections.Counter()
seen = set()
channel.basic_qos(prefetch_count=64)
for method, properties, body in channel.consume(queue, inactivity_timeout=60):
    if method is None:
        raise SystemExit(f"nothing more came after {sum(counts.values())} messages")
    if properties.type not in (None, "", "warren.v1"):
        raise SystemExit(f"a packet of type {properties.type!r}, which this program does not know")
    lines = [line for line in body.split(b"\n") if line.strip()]
    if properties.headers and "warren-count" in properties.headers:
        assert properties.headers["warren-count"] == len(lines), (properties.headers, len(lines))
    for line in lines:
        message = json.loads(line)
        identity = message.get("idempotency", message["id"]).partition("/")[0]
        if identity not in seen:
            seen.add(identity)
            counts[message["severity"]] += 1
    channel.basic_ack(method.delivery_tag)
    if sum(counts.values()) >= arguments.count:
        break

channel.cancel()
connection.close()
print(json.dumps(counts, sort_keys=True))
