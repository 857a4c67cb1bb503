"""The same without async: the founding document's lines, and the shorter way."""

from roster.sync import MindBus, Orchestrator, Registry, select_best_node

with Registry.connect() as registry, MindBus.connect() as mindbus:
    nodes = registry.find_by_capability("write_article")
    target = select_best_node(nodes)  # the least loaded
    answer = mindbus.send_command(
        queue=target.mindbus_queue, action="write_article", params={"topic": "AI trends 2025"}
    )
    print(target["metadata"]["name"], answer.result(timeout=30)["article"])

with Orchestrator.connect() as orchestrator:  # finds, chooses, sends, waits, and fails over
    print(orchestrator.call("edit_text", {"text": "  many   spaces "})["edited_text"])
