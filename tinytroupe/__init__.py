"""The layer that every model call of an agent simulation goes through.

Importing this package reads nothing, prints nothing and opens nothing.
The doors are `tinytroupe.openai_utils` (the names TinyTroupe users know)
and `tinytroupe.llm` (everything else).
"""

__version__ = "0.1.0"
