"""Apps for other frameworks; nothing else in the package knows them."""
