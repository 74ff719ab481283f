"""Answers without a model: for tests, dry runs and demonstrations."""

from tinytroupe.llm.transports.rehearsal.faults import Fault
from tinytroupe.llm.transports.rehearsal.transport import Rehearsal, RehearsalTransport

__all__ = ["Fault", "Rehearsal", "RehearsalTransport"]
