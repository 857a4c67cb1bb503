"""An agent: its passport says what it can do, the functions do it. Run it from the clone's directory."""

from roster import Context, Node

node = Node.load("examples/passports/writer-001.yaml")


@node.capability("write_article")
async def write_article(topic: str, context: Context, style: str = "plain") -> dict:
    context.progress(step="outline")
    return {"article": f"All about {topic}.", "metadata": {"style": style}}


@node.capability("edit_text")
def edit_text(text: str) -> dict:  # a plain function runs on a thread of its own
    return {"edited_text": " ".join(text.split())}


node.run()  # until SIGTERM; then it finishes what it has, and leaves
