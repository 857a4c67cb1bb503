"""Faults under load: real processes, real signals, bounded in count and time."""
