"""Rules decide. They never wait, and never read a clock, a file or the environment."""
