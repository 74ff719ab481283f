"""Reads the source text of a tool without running any of it."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Optional, Union

from tinytroupe.llm.errors import BadRequest

Function = ast.FunctionDef | ast.AsyncFunctionDef

_PLAIN: Mapping[str, Any] = {
    **{kind.__name__: kind for kind in (str, int, float, bool, list, dict)},
    "List": list,
    "Dict": dict,
    "Any": Any,
}
_MODULES = ("typing", "t")


@dataclass(frozen=True, slots=True)
class SourceFunction:
    """The function of a source text, as far as it can be told without running it."""

    name: str
    docstring: str | None
    signature: inspect.Signature
    """With types that are plain. Where an annotation is not, the type is Any."""
    unread: Mapping[str, str]
    """Parameter → annotation that is not plain."""

    def make_function(self, run: Callable[..., Any]) -> Callable[..., Any]:
        """Returns a function that looks like this one and calls `run`."""

        def function(*positional: Any, **named: Any) -> Any:
            return run(*positional, **named)

        function.__name__ = function.__qualname__ = self.name
        function.__doc__ = self.docstring
        function.__annotations__ = {
            parameter.name: parameter.annotation
            for parameter in self.signature.parameters.values()
            if parameter.annotation is not parameter.empty
        }
        function.__signature__ = self.signature  # type: ignore[attr-defined]
        return function


def read_source(source: str, tool_name: str) -> SourceFunction:
    """Finds the function that is meant: the one named like the tool, else the only public one.

    A dash in the tool's name is an underscore in the function's.

    Raises:
        BadRequest: The source is not Python, or it is not clear which function is meant.
    """
    try:
        tree = ast.parse(source)
        # `return` outside of a function, say, is found only here.
        compile(tree, "<tool>", "exec", dont_inherit=True)
        return _describe(_choose(tree, tool_name))
    except SyntaxError as error:
        raise BadRequest(
            f"the code of the tool {tool_name} is not Python: line {error.lineno}: {error.msg}"
        ) from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise BadRequest(
            f"the code of the tool {tool_name} cannot be read: {error or 'it is nested too deeply'}"
        ) from error


def _choose(tree: ast.Module, tool_name: str) -> Function:
    functions = {node.name: node for node in tree.body if isinstance(node, Function)}
    for name in (tool_name, tool_name.replace("-", "_")):
        if name in functions:
            return functions[name]
    public = [name for name in functions if not name.startswith("_")]
    if len(public) == 1:
        return functions[public[0]]
    if not public:
        raise BadRequest(f"the code of the tool {tool_name} defines no public function")
    raise BadRequest(
        f"the code of the tool {tool_name} defines the functions {', '.join(public)}; name the "
        "one that is meant like the tool, or begin the names of the others with an underscore"
    )


def _describe(function: Function) -> SourceFunction:
    unread: dict[str, str] = {}
    parameters = []
    for argument, kind, default in _list_arguments(function.args):
        hint: Any = inspect.Parameter.empty
        if argument.annotation is not None:
            try:
                hint = _read_type(argument.annotation)
            except _NotPlain:
                hint, unread[argument.arg] = Any, ast.unparse(argument.annotation)
        value = inspect.Parameter.empty if default is None else _read_default(default)
        parameters.append(inspect.Parameter(argument.arg, kind, default=value, annotation=hint))
    docstring = ast.get_docstring(function)
    return SourceFunction(function.name, docstring, inspect.Signature(parameters), unread)


def _list_arguments(
    given: ast.arguments,
) -> Iterator[tuple[ast.arg, inspect._ParameterKind, ast.expr | None]]:
    """Yields the parameters in order, each with its kind and default."""
    first: list[tuple[ast.arg, inspect._ParameterKind]] = [
        *((argument, inspect.Parameter.POSITIONAL_ONLY) for argument in given.posonlyargs),
        *((argument, inspect.Parameter.POSITIONAL_OR_KEYWORD) for argument in given.args),
    ]
    lacking = len(first) - len(given.defaults)
    defaults: list[ast.expr | None] = [*[None] * lacking, *given.defaults]
    for (argument, kind), default in zip(first, defaults, strict=True):
        yield argument, kind, default
    if given.vararg:
        yield given.vararg, inspect.Parameter.VAR_POSITIONAL, None
    for argument, default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        yield argument, inspect.Parameter.KEYWORD_ONLY, default
    if given.kwarg:
        yield given.kwarg, inspect.Parameter.VAR_KEYWORD, None


class _Computed:
    """Stands for a default that only the function itself can tell."""


def _read_default(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        return _Computed()


class _NotPlain(Exception):
    """An annotation is none of those that are read."""


def _read_type(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=None):
            return None
        case ast.Constant(value=str(text)):
            return _read_type(_parse_type(text))
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return Union[_read_type(left), _read_type(right)]  # noqa: UP007
        case ast.Subscript(value=generic, slice=inner):
            items = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            return _read_generic(_find_name(generic), items)
    kind = _PLAIN.get(_find_name(node))
    if kind is None:
        raise _NotPlain
    return kind


def _parse_type(text: str) -> ast.expr:
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError) as error:
        raise _NotPlain from error


def _find_name(node: ast.expr) -> str:
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=ast.Name(id=module), attr=name) if module in _MODULES:
            return name
    return ""


def _read_generic(name: str, items: list[ast.expr]) -> Any:
    match name, items:
        case "list" | "List", [item]:
            return list[_read_type(item)]  # type: ignore[misc]
        case "dict" | "Dict", [key, item] if _read_type(key) is str:
            return dict[str, _read_type(item)]  # type: ignore[misc]
        case "Optional", [item]:
            return Optional[_read_type(item)]  # noqa: UP045
        case "Union", [_, *_]:
            return Union[tuple(map(_read_type, items))]  # noqa: UP007
        case "Literal", [_, *_]:
            return Literal[tuple(map(_read_choice, items))]
        case "Annotated", [item, *remarks] if remarks:
            parts: Any = (_read_type(item), *map(_read_remark, remarks))
            return Annotated[parts]
    raise _NotPlain


def _read_choice(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=str() | int() | None):
            return node.value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int(number))):
            return -number
    raise _NotPlain


def _read_remark(node: ast.expr) -> str:
    match node:
        case ast.Constant(value=str(text)):
            return text
    raise _NotPlain
