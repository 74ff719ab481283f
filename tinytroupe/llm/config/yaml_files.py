"""Reads YAML as plain data: nothing that it names is ever made or run."""

from __future__ import annotations

from typing import Any

from tinytroupe.llm.errors import ConfigError


def read_yaml(text: str, where: str) -> object:
    """Returns what a YAML text holds: mappings, lists, texts, numbers, dates, None.

    Args:
        text: One document.
        where: How an error names the text.

    Raises:
        ConfigError: It is not YAML, wants a Python object to be made, names a
            key twice, or PyYAML is not installed.
    """
    try:
        import yaml
    except ImportError as error:
        raise ConfigError(
            f"{where} is YAML, which needs one more package: pip install 'tinytroupe[yaml]'"
        ) from error

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen: set[str] = set()
            for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
                if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                    if key.value in seen:
                        raise ConfigError(
                            f"{where}, line {key.start_mark.line + 1}: {key.value} stands twice"
                        )
                    seen.add(key.value)
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(text, Loader)
    except yaml.constructor.ConstructorError as error:
        raise ConfigError(
            f"{where}{_say_line(error)}: it asks for something other than plain data "
            f"({error.problem}); this is refused, and nothing of it was run"
        ) from error
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or error
        raise ConfigError(f"{where}{_say_line(error)}: this is not YAML: {problem}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: this YAML cannot be read: {error}") from error


_MERGE = "tag:yaml.org,2002:merge"


def _say_line(error: Any) -> str:
    mark = getattr(error, "problem_mark", None)
    return f", line {mark.line + 1}" if mark is not None else ""
