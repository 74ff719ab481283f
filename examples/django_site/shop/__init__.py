"""The shop: its orders, and the assistant that customers chat with."""
