"""Between requests and HTTP: pure functions, no SDK, no socket."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import orjson

from tinytroupe.llm.errors import BadRequest, ConfigError, MalformedResponse
from tinytroupe.llm.request import Attempt, Kind, Request
from tinytroupe.llm.response import Response, parse_response
from tinytroupe.llm.rules.classify import classify_failure
from tinytroupe.llm.rules.setting_names import ARGUMENTS, SettingNames
from tinytroupe.llm.transports.secrets import find_secret

PATHS: dict[Kind, str] = {
    "chat": "/chat/completions",
    "completion": "/completions",
    "embedding": "/embeddings",
}
"""Where OpenAI's API answers each kind of request."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back over HTTP."""

    status: int
    headers: Mapping[str, str]
    """With lower-case names."""
    content: bytes


def inflate(headers: Mapping[str, str], content: bytes) -> bytes:
    """Returns a body as it was before it was compressed.

    Raises:
        MalformedResponse: It is not what the headers say.
    """
    encoding = headers.get("content-encoding", "identity").lower()
    if encoding in ("identity", ""):
        return content
    try:
        if encoding == "gzip":
            return zlib.decompress(content, zlib.MAX_WBITS | 16)
    except zlib.error as error:
        raise MalformedResponse("the body is not whole, or not compressed as it says") from error
    raise MalformedResponse(f"the body is compressed as {encoding!r}, which was not asked for")


@lru_cache(maxsize=64)
def check_address(url: str) -> str:
    """Returns an endpoint's address without a slash at its end.

    Raises:
        ConfigError: It is no address that HTTP can reach.
    """
    try:
        parts = urlsplit(url.strip())
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        whole = False
    if not whole:
        raise ConfigError(
            f"{url!r} is not an address: it begins with http:// or https:// and names a host, "
            "as in http://127.0.0.1:8000/v1"
        )
    return url.strip().rstrip("/")


def find_key(given: str | None, variables: tuple[str, ...], names: SettingNames) -> str:
    """Returns an endpoint's key without space around it; empty: there is none.

    Args:
        given: What was given; None or empty: the variables are looked at, and the files
            that they name with `_FILE` behind them.
        variables: Of the environment, in order.
        names: What the setting is called that was given.

    Raises:
        ConfigError: It cannot be sent in a header, or a file cannot be read; the
            message does not show it.
    """
    if given:
        origin, key = names.locate(names.api_key), given.strip()
    elif secret := find_secret(variables):
        origin, key = secret.origin, secret.reveal().strip()
    else:
        return ""
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(
            f"the key for the endpoint ({origin}) has spaces, line ends or letters in it that no "
            "key has; perhaps more than the key was copied"
        )
    return key


def list_faults(*steps: Callable[[], object]) -> list[str]:
    """Takes steps of setting an endpoint up; returns what the errors of those that fail say."""
    faults = []
    for step in steps:
        try:
            step()
        except ConfigError as error:
            faults.append(error.message)
    return faults


def is_installed(package: str) -> bool:
    """Tells whether a package can be found. It is not imported, only what it lies in."""
    try:
        return find_spec(package) is not None
    except (ModuleNotFoundError, ValueError):
        return False


class Proxies:
    """The proxies that the environment names, looked up once for each address."""

    def __init__(self) -> None:
        self._found: dict[str, str | None] = {}

    def find(self, url: str) -> str | None:
        """Returns the proxy for an address, or None."""
        address = url[: url.find("/", 8)]
        if address not in self._found:
            self._found[address] = _find_proxy(url)
        return self._found[address]


def _find_proxy(url: str) -> str | None:
    parts = urlsplit(url)
    proxies = getproxies()
    if not proxies or proxy_bypass(parts.hostname or ""):
        return None
    return proxies.get(parts.scheme) or proxies.get("all")


def read_reply(
    attempt: Attempt,
    reply: Reply,
    *,
    endpoint: str,
    seconds: float,
    now_epoch_seconds: float,
    names: SettingNames = ARGUMENTS,
) -> Response:
    """Makes the response out of a reply.

    Args:
        attempt: What was asked.
        reply: What came.
        endpoint: The endpoint's name.
        seconds: How long the attempt took.
        now_epoch_seconds: When the reply came.
        names: What the endpoint's settings are called.

    Raises:
        MalformedResponse: The body is not an answer.
        LLMAPIError: The status is a failure, or the body is an error object in spite of it.
    """
    headers, content = reply.headers, reply.content
    if not 200 <= reply.status < 300:
        raise classify_failure(reply.status, headers, content, now_epoch_seconds, names)
    request = attempt.call.request
    request_id = headers.get("x-request-id") or headers.get("apim-request-id")
    try:
        response = parse_response(
            request.kind,
            content,
            endpoint=endpoint,
            attempts=attempt.number,
            seconds=seconds,
            request_id=request_id,
        )
    except MalformedResponse as error:
        if _is_error_object(content):
            raise classify_failure(None, headers, content, now_epoch_seconds, names) from error
        error.request_id = request_id
        raise
    if request.kind == "embedding":
        check_vectors(request, response)
    return response


def check_vectors(request: Request, response: Response) -> None:
    """Checks that there is one vector for each text, as long as was asked for.

    Raises:
        MalformedResponse: There are more or fewer.
        BadRequest: The endpoint does not heed `dimensions`.
    """
    vectors = response.embeddings
    if len(vectors) != len(request.texts):
        raise MalformedResponse(
            f"{len(request.texts)} texts were sent, {len(vectors)} vectors came back",
            request_id=response.request_id,
        )
    wanted = request.parameters.get("dimensions")
    if wanted is not None and any(len(vector) != wanted for vector in vectors):
        raise BadRequest(
            f"vectors of {wanted} numbers were asked for and {len(vectors[0])} came back: the "
            "endpoint does not heed dimensions for this model",
            request_id=response.request_id,
        )


def check_kind(attempt: Attempt, known: Mapping[Kind, str]) -> str:
    """Returns the path for the attempt's kind of request.

    Raises:
        BadRequest: The endpoint does not serve this kind.
    """
    kind = attempt.call.request.kind
    if kind not in known:
        raise BadRequest(f"this endpoint does not serve requests of kind {kind}")
    return known[kind]


def _is_error_object(content: bytes) -> bool:
    try:
        body = orjson.loads(content)
    except ValueError:
        return False
    return isinstance(body, dict) and bool(body.get("error"))
