"""Real servers for tests, fault runs and benchmarks: started, killed, frozen, wiped."""

from servers.certificates import Certificates
from servers.consul import Consul
from servers.etcd import Etcd, EtcdCluster
from servers.postgres import Postgres
from servers.process import Server, ServerError
from servers.programs import ServerMissingError
from servers.rabbitmq import RabbitMQ, User
from servers.zookeeper import ZooKeeper

__all__ = [
    "Certificates",
    "Consul",
    "Etcd",
    "EtcdCluster",
    "Postgres",
    "RabbitMQ",
    "Server",
    "ServerError",
    "ServerMissingError",
    "User",
    "ZooKeeper",
]
