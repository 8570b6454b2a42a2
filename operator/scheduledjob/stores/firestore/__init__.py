"""The store in Firestore: nothing to run, paid for by documents read and written."""

from .store import FirestoreStore

__all__ = ["FirestoreStore"]
