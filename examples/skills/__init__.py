"""What the agents of the examples can do: plain functions over text and tables, without input or output."""
