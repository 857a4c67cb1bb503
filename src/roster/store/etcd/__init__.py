"""etcd as a store: a thin client of its own on gRPC."""

from roster.store.etcd.engine import EtcdStore

__all__ = ["EtcdStore"]
