"""A program that knows RabbitMQ (pika) and CloudEvents (their SDK), and nothing of Roster. It does what its input says.

It runs in an environment of its own, `.interop`.
"""

from __future__ import annotations

import json
import os
import sys
import uuid
from typing import Any

import pika
from cloudevents.core.bindings import amqp, rabbitmq
from cloudevents.core.v1.event import CloudEvent

connection = pika.BlockingConnection(pika.URLParameters(os.environ["RABBITMQ_URL"]))
channel = connection.channel()
answers = channel.queue_declare("", exclusive=True).method.queue
events = channel.queue_declare("", exclusive=True).method.queue


def send(line: Any) -> Any:
    """Send a command made by the SDK, in one of its modes, and wait for the answer."""
    attributes = {"type": "ai.team.command", "source": "/outsider", **line.get("attributes", {})}
    event = CloudEvent(attributes, {"action": line["action"], "params": line["params"]})
    if line["mode"] == "amqp binary":
        made = amqp.to_binary_event(event)
        return _send(
            line, made.application_data, made.properties.get("content-type"), made.application_properties
        )
    if line["mode"] == "amqp structured":
        made = amqp.to_structured_event(event)
        return _send(line, made.application_data, made.properties["content-type"], {})
    sent = (rabbitmq.to_binary_event if line["mode"] == "rabbitmq binary" else rabbitmq.to_structured_event)(
        event
    )
    return _send(line, sent.body, sent.content_type, sent.headers)


def raw(line: Any) -> Any:
    """Send what may be anything."""
    return _send(line, line["body"].encode("latin-1"), line.get("content_type"), line.get("headers"))


def _send(line: Any, body: bytes, content_type: str | None, headers: Any) -> Any:
    about = pika.BasicProperties(content_type=content_type, headers=headers or None)
    if line.get("waits", True):
        about.reply_to, about.correlation_id = answers, f"mine-{uuid.uuid4()}"
    for name, value in line.get("properties", {}).items():
        setattr(about, name, value)
    channel.basic_publish(line.get("exchange", ""), line["queue"], body, about)
    if not line.get("waits", True):
        return None
    # Whatever comes first is the answer: this program knows nothing else.
    return {**_next(answers), "asked": about.correlation_id}


def listen(line: Any) -> Any:
    """Listen to what is published."""
    for pattern in line["patterns"]:
        channel.queue_bind(events, "mindbus.main", pattern)
    return "listening"


def heard(line: Any) -> Any:
    """Return the next event."""
    return _next(events)


def dead(line: Any) -> Any:
    """Return the next dead letter, and take it away."""
    for _, properties, body in channel.consume("mindbus.dead", inactivity_timeout=20):
        if properties is None:
            break
        channel.cancel()
        return {"headers": properties.headers, "body": body.decode("latin-1")}
    return None


def _next(queue: str) -> Any:
    for method, properties, body in channel.consume(queue, auto_ack=True, inactivity_timeout=20):
        if method is None:
            break
        channel.cancel()
        message = rabbitmq.RabbitMQMessage(properties.headers or {}, properties.content_type, body)
        event = rabbitmq.from_rabbitmq_event(message)
        return {
            "correlation": properties.correlation_id,
            "type": event.get_type(),
            "source": event.get_source(),
            "subject": event.get_subject(),
            "data": event.get_data(),
            "key": method.routing_key,
        }
    return {"type": "nothing came"}


DO = {"send": send, "raw": raw, "listen": listen, "heard": heard, "dead": dead}
print('"ready"', flush=True)
for asked in sys.stdin:
    said = json.loads(asked)
    print(json.dumps(DO[said["do"]](said)), flush=True)
