"""The founding document's programs, and what of them was changed: where the server is, and how long things take.

Each line is the document's own (two spaces before it), or was taken out (`-`), or put in (`+`). They run in an environment
of their own (scripts/setup-interop), on the libraries that the document names: python-etcd3, Consul's client, PyYAML.
"""

from __future__ import annotations

START = """
+ import os, sys, threading, time, yaml
+ from datetime import datetime, timezone
"""

# An agent whose test was killed goes with it.
LEASH = """
+ threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
"""

ETCD = """
  import etcd3

- etcd = etcd3.client(host='localhost', port=2379)
+ etcd = etcd3.client(host=os.environ['ETCD_HOST'], port=int(os.environ['ETCD_PORT']))
"""

PASSPORT = """
  # Загружаем паспорт
  with open('node_passport.yaml') as f:
      passport = yaml.safe_load(f)
"""

REGISTER = """
  # Регистрируем в etcd
  key = f"/ai-team/nodes/{passport['metadata']['namespace']}/{passport['metadata']['name']}"
  etcd.put(key, yaml.dump(passport))

  # Устанавливаем TTL (heartbeat)
- lease = etcd.lease(ttl=30)  # 30 секунд
+ lease = etcd.lease(ttl=int(os.environ['TTL']))
  etcd.put(key, yaml.dump(passport), lease=lease)
"""

HEARTBEAT = """
  # Agent отправляет heartbeat каждые 10 секунд
  import time

- lease = etcd.lease(ttl=30)  # Умрёт через 30 сек без обновления
+ lease = etcd.lease(ttl=int(os.environ['TTL']))

  while True:
      # Обновляем status
      passport['status']['last_heartbeat'] = datetime.utcnow().isoformat() + 'Z'
      passport['status']['state'] = 'ready'

      # Обновляем в etcd (с lease)
      etcd.put(key, yaml.dump(passport), lease=lease)

      # Heartbeat раз в 10 секунд
-     time.sleep(10)
+     time.sleep(float(os.environ['BEAT']))
"""

HEARTBEAT_WITH_REFRESH = HEARTBEAT.replace(
    "      # Heartbeat раз", "+     lease.refresh()\n      # Heartbeat раз"
)

REGISTER_WITHOUT_LEASE = """
  # Регистрируем в etcd
  key = f"/ai-team/nodes/{passport['metadata']['namespace']}/{passport['metadata']['name']}"
  etcd.put(key, yaml.dump(passport))
"""

FIND = """
  # 2. Orchestrator находит узлы по capability
  def find_nodes_by_capability(capability_name):
      \"\"\"Находит все узлы с нужной capability\"\"\"
      nodes = []

      for value, metadata in etcd.get_prefix('/ai-team/nodes/'):
          passport = yaml.safe_load(value.decode('utf-8'))

          # Проверяем capabilities
          for cap in passport['spec'].get('capabilities', []):
              if cap['name'] == capability_name:
                  nodes.append(passport)
                  break

      return nodes
"""

HEALTH = """
  def is_node_healthy(passport):
      \"\"\"Проверяет живой ли узел\"\"\"
      last_heartbeat = datetime.fromisoformat(
          passport['status']['last_heartbeat'].replace('Z', '+00:00')
      )

      age = datetime.now(timezone.utc) - last_heartbeat

      # Мёртв если нет heartbeat > 1 минуты
      return age.total_seconds() < 60
"""

# A line in: a capability. A line out: what the document's orchestrator makes of it.
ANSWER = """
+ import json
+ for line in sys.stdin:
-     writers = find_nodes_by_capability('write_article')
+     writers = find_nodes_by_capability(line.strip())
      healthy_writers = [n for n in writers if is_node_healthy(n)]
+     print(json.dumps([writers, [n['metadata']['name'] for n in healthy_writers]], default=str), flush=True)
"""

CONSUL = """
  # С Consul API почти то же самое
  import consul

- c = consul.Consul(host='localhost', port=8500)
+ c = consul.Consul(host=os.environ['CONSUL_HOST'], port=int(os.environ['CONSUL_PORT']))
"""

CONSUL_KEY = """
  key = f"/ai-team/nodes/{passport['metadata']['namespace']}/{passport['metadata']['name']}"
"""

# Consul's keys have no leading slash, and its clients refuse one.
CONSUL_KEY_WITHOUT_SLASH = """
- key = f"/ai-team/nodes/{passport['metadata']['namespace']}/{passport['metadata']['name']}"
+ key = f"ai-team/nodes/{passport['metadata']['namespace']}/{passport['metadata']['name']}"
"""

CONSUL_PUT = """
  c.kv.put(key, yaml.dump(passport))
"""

CONSUL_HEARTBEAT = """
  while True:
      # Обновляем status
      passport['status']['last_heartbeat'] = datetime.utcnow().isoformat() + 'Z'
      passport['status']['state'] = 'ready'

-     # Обновляем в etcd (с lease)
-     etcd.put(key, yaml.dump(passport), lease=lease)
+     c.kv.put(key, yaml.dump(passport))

      # Heartbeat раз в 10 секунд
-     time.sleep(10)
+     time.sleep(float(os.environ['BEAT']))
"""

CONSUL_FIND = FIND.replace(
    "      for value, metadata in etcd.get_prefix('/ai-team/nodes/'):\n"
    "          passport = yaml.safe_load(value.decode('utf-8'))\n",
    "-     for value, metadata in etcd.get_prefix('/ai-team/nodes/'):\n"
    "-         passport = yaml.safe_load(value.decode('utf-8'))\n"
    "+     for item in c.kv.get('ai-team/nodes/', recurse=True)[1] or []:\n"
    "+         passport = yaml.safe_load(item['Value'].decode('utf-8'))\n",
)

AGENT_AS_PRINTED = START + LEASH + ETCD + PASSPORT + REGISTER + HEARTBEAT
AGENT_THAT_REFRESHES = START + LEASH + ETCD + PASSPORT + REGISTER + HEARTBEAT_WITH_REFRESH
AGENT_THAT_PUTS_ONCE = START + ETCD + PASSPORT + REGISTER_WITHOUT_LEASE
ORCHESTRATOR = START + ETCD + FIND + HEALTH + ANSWER

CONSUL_AGENT_AS_PRINTED = START + CONSUL + PASSPORT + CONSUL_KEY + CONSUL_PUT
CONSUL_AGENT_THAT_PUTS_ONCE = START + CONSUL + PASSPORT + CONSUL_KEY_WITHOUT_SLASH + CONSUL_PUT
CONSUL_AGENT = START + LEASH + CONSUL + PASSPORT + CONSUL_KEY_WITHOUT_SLASH + CONSUL_PUT + CONSUL_HEARTBEAT
CONSUL_ORCHESTRATOR = START + CONSUL + CONSUL_FIND + HEALTH + ANSWER
