"""The bus on RabbitMQ."""

from roster.bus.amqp.engine import AmqpBus

__all__ = ["AmqpBus"]
