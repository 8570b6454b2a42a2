"""The store in memory: for one process, for trying things out, and the measure of what the other stores do."""

from .store import Clock, MemoryDatabase, MemoryStore, steady_clock

__all__ = ["Clock", "MemoryDatabase", "MemoryStore", "steady_clock"]
