"""The store in memory: for one process, for trials, and the reference for how the other stores behave."""

from .clock import Clock, WallClock
from .database import MemoryDatabase
from .store import MemoryStore

__all__ = ["Clock", "MemoryDatabase", "MemoryStore", "WallClock"]
