"""Every error that can leave this package.

Each one names the event, carries what the server said, and can be pickled,
so it crosses process pools whole. None carries a key or a whole prompt.
"""

from __future__ import annotations

from collections.abc import Mapping

BODY_EXCERPT_LENGTH = 500


class LLMError(Exception):
    """The base of every error of this package.

    Attributes:
        message: What happened, in one sentence or a few.
        model: The model that was asked, or None when no model was involved.
        lane: Who was asking, or None when nobody was named.
        attempts: Tries on the wire that were made for the call (0: none).
        history: One line for each other failure of the same call, in order.
        partial: What had arrived of a streamed answer before it broke.
        endpoint: The name of the endpoint that failed; empty where there is but one.
        elsewhere: Whether another endpoint may answer the same call.
        should_retry: Whether another attempt can help, where that was said (by the
            server's `x-should-retry`, say); None: the error's class decides.
        runs: What functions a model had run, in order, where the error left `run_tools`
            after that: `tinytroupe.llm.talk.tools.ToolRun`.
    """

    runs: tuple[object, ...] = ()

    def __init__(
        self,
        message: str,
        *,
        model: str | None = None,
        lane: str | None = None,
        attempts: int = 0,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.model = model
        self.lane = lane
        self.attempts = attempts
        self.history: tuple[str, ...] = ()
        self.partial = ""
        self.endpoint = ""
        self.elsewhere = False
        self.should_retry: bool | None = None

    def __str__(self) -> str:
        context = [f"model {self.model}"] if self.model else []
        if self.endpoint:
            context.append(f"endpoint {self.endpoint}")
        if self.lane:
            context.append(f"lane {self.lane}")
        if self.attempts > 1:
            context.append(f"{self.attempts} attempts")
        text = f"{self.message} ({', '.join(context)})" if context else self.message
        if self.history:
            text += "; later attempts: " + "; ".join(self.history)
        return text

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.args, dict(self.__dict__))


def _rebuild(
    cls: type[LLMError], args: tuple[object, ...], state: Mapping[str, object]
) -> LLMError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class ConfigError(LLMError):
    """A setting, a key or a configuration file cannot be used."""


class TemplateError(LLMError):
    """A template cannot be found, read, compiled or rendered."""


class ParseError(LLMError):
    """An answer does not have the shape that was asked for.

    Attributes:
        wanted: What should have been there, such as `a JSON object`; empty: not told.
        line: Where in the answer the trouble is, from 1; None: in the answer as a whole.
        column: From 1; None where `line` is.
        excerpt: What the answer says there, with `▸` at the place.
        answer: The text that could not be read; empty: not told.
    """

    def __init__(
        self,
        message: str,
        *,
        wanted: str = "",
        place: tuple[int, int] | None = None,
        excerpt: str = "",
        answer: str = "",
        model: str | None = None,
        lane: str | None = None,
        attempts: int = 0,
    ) -> None:
        super().__init__(message, model=model, lane=lane, attempts=attempts)
        self.wanted = wanted
        self.line: int | None
        self.column: int | None
        self.line, self.column = place or (None, None)
        self.excerpt = excerpt
        self.answer = answer


class StoreError(LLMError):
    """The store of answers cannot be opened or read."""


class BudgetExceeded(LLMError):
    """The next call could cost more than the budget has left."""


class CacheMiss(LLMError):
    """The cache is in mode `only` and holds no answer for this request."""


class ReplayMiss(LLMError):
    """The tape that is being replayed holds no answer for this call."""


class ToolRoundsExceeded(LLMError):
    """A model went on calling tools beyond the rounds that it was given.

    Attributes:
        messages: The conversation, the model's last calls included.
        response: The last `Response`, whose tool calls were not run.
    """

    def __init__(
        self,
        message: str,
        *,
        runs: tuple[object, ...] = (),
        messages: tuple[object, ...] = (),
        response: object = None,
        model: str | None = None,
        lane: str | None = None,
        attempts: int = 0,
    ) -> None:
        super().__init__(message, model=model, lane=lane, attempts=attempts)
        self.runs = runs
        self.messages = messages
        self.response = response


class LLMAPIError(LLMError):
    """The endpoint answered, and the answer is a failure.

    Attributes:
        status: HTTP status, or None when the failure came without one.
        code: The server's own error code, such as `model_not_found`.
        request_id: The server's name for the exchange, for a support ticket.
        retry_after_seconds: How long the server asks to wait, if it said so.
        body: The beginning of the body, at most 500 characters.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        request_id: str | None = None,
        retry_after_seconds: float | None = None,
        should_retry: bool | None = None,
        body: str = "",
        model: str | None = None,
        lane: str | None = None,
        attempts: int = 0,
    ) -> None:
        super().__init__(message, model=model, lane=lane, attempts=attempts)
        self.status = status
        self.code = code
        self.request_id = request_id
        self.retry_after_seconds = retry_after_seconds
        self.should_retry = should_retry
        self.body = body[:BODY_EXCERPT_LENGTH]


class InvalidRequestError(LLMAPIError):
    """The request itself is at fault: asking again cannot help."""


class BadRequest(InvalidRequestError):
    """The request is malformed, found out before or after it was sent."""


class ContextTooLong(InvalidRequestError):
    """The messages do not fit into the model's context."""


class AuthenticationFailed(InvalidRequestError):
    """The key is missing, wrong, or not allowed to do this."""


class QuotaExhausted(InvalidRequestError):
    """The account has no money or quota left."""


class ModelNotFound(InvalidRequestError):
    """The endpoint does not know the model or deployment."""


class ContentFiltered(InvalidRequestError):
    """The provider's content filter refused the prompt or the answer."""


class NonTerminalError(LLMAPIError):
    """The failure may pass: another attempt can help."""


class RateLimited(NonTerminalError):
    """Too many requests or tokens for now (429)."""


class ServerFault(NonTerminalError):
    """The server failed (408, 409, 5xx), or says that it is overloaded."""


class MalformedResponse(NonTerminalError):
    """What came back is not an answer: broken, empty or meaningless."""


class LLMConnectionError(LLMError):
    """The endpoint did not answer."""


class ConnectionFailed(LLMConnectionError):
    """The connection could not be made, or broke before the answer was whole."""


class TimedOut(LLMConnectionError):
    """The answer, or a place in the queue, did not come within the deadline.

    Attributes:
        queued: Whether it waited for its turn at an endpoint, which was not asked.
    """

    queued = False
