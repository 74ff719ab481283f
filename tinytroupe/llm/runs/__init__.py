"""A run as an artefact: recorded, replayed, forked, explained and compared."""
