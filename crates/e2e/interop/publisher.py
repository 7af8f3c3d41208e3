"""Publishes messages: a publisher that knows nothing but docs/packets.md.

    python3 publisher.py URL PREFIX SOURCE

Sends for each severity one packet with a single line, as short as a line may be, and one packet with a hundred lines.
Waits for the broker's confirm of each, and prints the ids it sent, one on each line.
"""

import json
import secrets
import sys
import time

import pika

SEVERITIES = ["debug", "info", "warning", "error", "critical"]


def uuid_v7():
    """A UUID of version 7 (RFC 9562): 48 bits of milliseconds, version, variant, the rest random."""
    value = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    text = f"{value:032x}"
    return "-".join([text[:8], text[8:12], text[12:16], text[16:20], text[20:]])


url, prefix, source = sys.argv[1:]
connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
channel.confirm_delivery()  # basic_publish raises when the broker refuses or returns a message


def publish(severity, messages):
    body = b"".join(json.dumps(message).encode() + b"\n" for message in messages)
    properties = pika.BasicProperties(
        content_type="application/x-ndjson", type="warren.v1", delivery_mode=2, headers={"warren-count": len(messages)}
    )
    channel.basic_publish(f"{prefix}.{severity}", source, body, properties, mandatory=True)
    print("\n".join(message["id"] for message in messages))


for severity in SEVERITIES:
    publish(severity, [{"id": uuid_v7(), "severity": severity, "source": source, "body": "one alone"}])
    publish(
        severity,
        [
            {
                "id": uuid_v7(),
                "severity": severity,
                "source": source,
                "body": f"number {number} – ünïcode",
                "attributes": {"number": number, "nested": {"list": [1, 2.5, None, "x"]}},
                "occurred_at": "2026-11-22T13:00:00.123456Z",
            }
            for number in range(100)
        ],
    )
connection.close()
