"""The founding document's orchestrator code, and what of it was changed to run on `roster.sync`.

Each line is the document's own (two spaces before it), or was taken out (`-`), or put in (`+`).
"""

FIND_AND_SEND = """
- import etcd3
+ from roster.sync import MindBus, Registry
-
- etcd = etcd3.client(host='localhost', port=2379)
+ registry = Registry.connect()
+ mindbus = MindBus.connect()

  # 2. Orchestrator находит узлы по capability
  def find_nodes_by_capability(capability_name):
      \"\"\"Находит все узлы с нужной capability\"\"\"
      nodes = []

-     for value, metadata in etcd.get_prefix('/ai-team/nodes/'):
-         passport = yaml.safe_load(value.decode('utf-8'))
+     for passport in registry.find():

          # Проверяем capabilities
          for cap in passport['spec'].get('capabilities', []):
              if cap['name'] == capability_name:
                  nodes.append(passport)
                  break

      return nodes

  # Поиск
  writers = find_nodes_by_capability('write_article')
  print(f"Found {len(writers)} writer nodes")

  # 3. Отправка команды найденному узлу
  target_node = writers[0]
  mindbus_queue = target_node['spec']['communication']['mindbus_queue']

  # Отправляем через MindBus
  mindbus.send_command(
      queue=mindbus_queue,
      action='write_article',
      params={'topic': 'AI trends 2025'}
  )
"""

CAPABILITY_BASED = """
+ from roster.sync import MindBus, Registry, select_best_node
+ registry = Registry.connect()
+ send_command = MindBus.connect().send_command
  # ✅ Capability-based search
  nodes = registry.find_by_capability('write_article')
  target = select_best_node(nodes)  # Load balancing
  send_command(queue=target.mindbus_queue, action='write_article')
"""

PROCESS_CARD = """
+ from roster.sync import MindBus, NoCapableNodesError, Registry, select_least_loaded
+ registry = Registry.connect()
+ mindbus = MindBus.connect()
  # Orchestrator
  capability = step['action']  # "write_article"
  nodes = registry.find_by_capability(capability)

  if not nodes:
      raise NoCapableNodesError(f"No nodes with capability: {capability}")

  # Выбираем узел (load balancing)
  target = select_least_loaded(nodes)

  # Отправляем команду через MindBus
  mindbus.send_command(
      queue=target.mindbus_queue,
      action=capability,
      params=step['params']
  )
"""

HEALTH = """
+ from datetime import datetime, timezone
+ from roster.sync import Registry
+ find_nodes_by_capability = Registry.connect().find_by_capability
  def is_node_healthy(passport):
      \"\"\"Проверяет живой ли узел\"\"\"
      last_heartbeat = datetime.fromisoformat(
          passport['status']['last_heartbeat'].replace('Z', '+00:00')
      )

      age = datetime.now(timezone.utc) - last_heartbeat

      # Мёртв если нет heartbeat > 1 минуты
      return age.total_seconds() < 60

  # Фильтруем только здоровые узлы
  writers = find_nodes_by_capability('write_article')
  healthy_writers = [n for n in writers if is_node_healthy(n)]
"""

ALL = {
    "find and send": FIND_AND_SEND,
    "capability-based": CAPABILITY_BASED,
    "process card": PROCESS_CARD,
    "health": HEALTH,
}


def program(snippet: str) -> str:
    """Return what is run: the lines that stayed, and those put in."""
    return "".join(f"{line[2:]}\n" for line in snippet.splitlines() if not line.startswith("-"))


def changes(snippet: str) -> list[str]:
    """Return the lines that were put in or taken out."""
    return [line[2:] for line in snippet.splitlines() if line[:1] in ("-", "+") and line[2:].strip()]
