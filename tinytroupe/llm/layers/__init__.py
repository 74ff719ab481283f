"""Layers wrap a handler with one concern each. `client.build_chain` puts them in order."""
