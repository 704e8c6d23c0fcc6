"""Retrieval: search under a scope."""
