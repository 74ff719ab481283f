"""What the rehearsal says to a request that a real server would refuse."""

from __future__ import annotations


class Refusal(Exception):
    """The request cannot be answered; the transport or the server says so in its own way.

    Attributes:
        message: What is wrong, and what to do.
        status: The HTTP status that a server answers with.
        code: OpenAI's error code, such as `model_not_found`; None: none fits.
        param: The part of the request that is at fault; None: no single one.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        code: str | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.param = param

    def to_wire(self) -> dict[str, object]:
        """Returns the error object of OpenAI's API."""
        return error_object(self.message, "invalid_request_error", self.code, self.param)


def error_object(
    message: str, kind: str, code: str | None = None, param: str | None = None
) -> dict[str, object]:
    """Returns an error in the shape of OpenAI's API."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
