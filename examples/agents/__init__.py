"""The agents of the examples: each module makes a node of a passport, and runs it with `python -m examples.agents.NAME`."""
