"""Keys: from an environment variable or a file that one names; never shown."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from tinytroupe.llm.errors import ConfigError

OPENAI_KEY_VARIABLES = ("OPENAI_API_KEY",)
AZURE_KEY_VARIABLES = ("AZURE_OPENAI_KEY", "AZURE_OPENAI_API_KEY")
SECRET_VARIABLES = (*OPENAI_KEY_VARIABLES, *AZURE_KEY_VARIABLES)
FILE_SUFFIX = "_FILE"

_SHOWN_LETTERS = 4
_LONG_ENOUGH = 20


@dataclass(frozen=True, slots=True)
class Secret:
    """A text that shows itself to nobody who does not ask for it."""

    _text: str
    origin: str
    """The variable it came from, and the file if that named one."""

    def reveal(self) -> str:
        """Returns the text itself."""
        return self._text

    def mask(self) -> str:
        """Says that it is set; of a long one also the last four characters."""
        tail = self._text[-_SHOWN_LETTERS:] if len(self._text) >= _LONG_ENOUGH else ""
        return f"set (…{tail})" if tail else "set"

    def __repr__(self) -> str:
        return f"<Secret from {self.origin}>"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a secret is not pickled; read it again where it is needed")


def find_secret(
    variables: tuple[str, ...], environ: Mapping[str, str] | None = None
) -> Secret | None:
    """Looks for a secret in each variable, then in the file that `<variable>_FILE` names.

    Returns:
        The secret, or None when no variable is set.

    Raises:
        ConfigError: A named file cannot be read, or is empty, or holds several lines.
    """
    environ = os.environ if environ is None else environ
    for variable in variables:
        if text := environ.get(variable, "").strip():
            return Secret(text, variable)
        if path := environ.get(variable + FILE_SUFFIX, "").strip():
            return Secret(
                _read_file(path, variable + FILE_SUFFIX), f"{variable}{FILE_SUFFIX} {path}"
            )
    return None


def _read_file(path: str, variable: str) -> str:
    try:
        with open(os.path.expanduser(path), encoding="utf-8-sig") as file:
            text = file.read().strip()
    except OSError as error:
        raise ConfigError(
            f"{path}, which {variable} names, cannot be read: {error.strerror or error}"
        ) from error
    except UnicodeDecodeError:
        # The error would quote the bytes of the secret.
        raise ConfigError(f"{path}, which {variable} names, is not a text in UTF-8") from None
    if not text or len(text.split()) != 1:
        raise ConfigError(f"{path}, which {variable} names, must hold the key and nothing else")
    return text
