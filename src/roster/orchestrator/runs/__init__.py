"""Runs of process cards: walked step by step, on record, and finished by another process where one dies.

`walking` walks a card over a `world`; `durable` is the world whose process may die, on `engine`; `executor` is one process's
part; `book` is what people read and write; `runs` is the public face.
"""
