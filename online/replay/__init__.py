"""Replaying a source: who may write it, how far it has come, and when each of its trades is due."""
