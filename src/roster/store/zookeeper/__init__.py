"""The engine on ZooKeeper: keys are znodes, leases are sessions."""

from roster.store.zookeeper.engine import ZookeeperStore

__all__ = ["ZookeeperStore"]
