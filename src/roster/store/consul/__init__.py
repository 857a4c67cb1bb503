"""The registry in Consul: keys in its KV store, leases as sessions, nodes as services that its own DNS finds."""

from roster.store.consul.engine import ConsulStore

__all__ = ["ConsulStore"]
