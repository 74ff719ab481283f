"""Stores keep entries: key → the response that was paid for."""
