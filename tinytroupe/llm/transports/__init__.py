"""Transports move one request to one endpoint and back."""
