"""A machine for pickles that runs nothing, imports nothing and calls nothing.

A pickle is a program for a small machine, and Python's own machine lets that
program call any function there is. For this one, `pickletools` takes the bytes
apart into instructions, which it does without following them, and only those
that build plain data are followed. The classes of OpenAI's SDK whose instances
TinyTroupe kept are known by name; of each instance a stand-in is made that
holds its state and does nothing. Every other name is refused where it stands,
used or not.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, cast

from tinytroupe.llm.errors import StoreError
from tinytroupe.llm.store.pickle_names import CLASSES, MAKERS

MAX_MARKS = 1000
"""How many lists may be begun within each other."""

# What the machine builds may take so many times the memory of the pickle, and this much besides.
GROWTH, _ALLOWANCE = 20, 16 * 2**20
_CONTAINER_BYTES, _MEMO_BYTES = 200, 100
# A memo of more entries has no honest use; unbounded numbers can be chosen to collide.
_MAX_MEMO = 2**32


@dataclass(frozen=True, slots=True)
class _Name:
    """A name that may stand in a pickle: of a class, or of what begins an object."""

    maker: str
    """Empty for a class."""
    label: str


@dataclass(slots=True)
class StandIn:
    """What takes the place of an object: its state, and nothing that could run."""

    label: str
    state: dict[str, Any] | None = None


class Machine:
    """Follows the instructions of one pickle.

    Args:
        size_bytes: How large the pickle is.
    """

    def __init__(self, size_bytes: int) -> None:
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._left_bytes = GROWTH * size_bytes + _ALLOWANCE
        self._place = 0

    def run(self, content: bytes, on_progress: Callable[[int], None] | None) -> Any:
        """Returns what the pickle builds.

        Args:
            content: The pickle.
            on_progress: Is told from time to time how many bytes were read.

        Raises:
            StoreError: It is damaged, or holds what no cache of TinyTroupe holds.
        """
        try:
            for count, (opcode, argument, place) in enumerate(pickletools.genops(content)):
                self._place = place or 0
                if on_progress is not None and not count % 10_000:
                    on_progress(self._place)
                if opcode.name == "STOP":
                    break
                follow = _INSTRUCTIONS.get(opcode.name)
                if follow is None:
                    self._refuse_instruction(opcode.name, argument)
                follow(self, argument)
            return self._pop()
        except (ValueError, OverflowError, IndexError, KeyError, struct.error) as error:
            raise StoreError(
                f"the pickle is damaged or cut short, near byte {self._place} of {len(content)}: "
                f"{' '.join(str(error).split())[:200] or type(error).__name__}"
            ) from None

    def _refuse(self, what: str) -> NoReturn:
        raise StoreError(
            f"the pickle holds {what} at byte {self._place}, which no cache of TinyTroupe has; "
            "it may have been made to run a program on this machine. It is refused: nothing of "
            "it was run, and nothing imported"
        )

    def _refuse_instruction(self, name: str, argument: Any) -> NoReturn:
        named = " ".join(str(argument).split()).replace(" ", ".")[:200]
        self._refuse(f"the instruction {name}" + (f" for {named}" if argument is not None else ""))

    def _pop(self) -> Any:
        if not self._stack:
            raise IndexError("it takes more than it has put down")
        return self._stack.pop()

    def _pop_mark(self) -> list[Any]:
        if not self._below:
            raise IndexError("a list ends that was never begun")
        items, self._stack = self._stack, self._below.pop()
        return items

    def _take(self, kind: type) -> Any:
        """Returns what is on top and stays there; it is of this kind."""
        if not self._stack or type(self._stack[-1]) is not kind:
            raise ValueError(f"a {kind.__name__} was to be filled, and there is none")
        return self._stack[-1]

    def _weigh(self, size_bytes: int) -> None:
        self._left_bytes -= size_bytes
        if self._left_bytes < 0:
            self._refuse("instructions that build far more than it holds")

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _push_container(self, value: Any) -> None:
        self._weigh(_CONTAINER_BYTES)
        self._stack.append(value)

    def check_protocol(self, number: int) -> None:
        if number > 5:
            raise ValueError(f"it is written in protocol {number}, and Python has up to 5")

    def pass_over(self, argument: Any) -> None:
        pass

    def push_text(self, text: Any) -> None:
        # Of Python 2's texts, pickletools makes bytes in one protocol and text in the other.
        self._push(text if isinstance(text, str) else text.decode("latin-1"))

    def push_bytes(self, content: bytes) -> None:
        self._push(bytes(content))

    def mark(self, _: Any) -> None:
        if len(self._below) >= MAX_MARKS:
            self._refuse("lists within lists without end")
        self._weigh(_CONTAINER_BYTES)
        self._below.append(self._stack)
        self._stack = []

    def drop(self, _: Any) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._pop_mark()

    def drop_mark(self, _: Any) -> None:
        self._pop_mark()

    def repeat(self, _: Any) -> None:
        self._push(self._stack[-1])

    def memoize(self, _: Any) -> None:
        self.put(len(self._memo))

    def put(self, number: int) -> None:
        if not 0 <= number < _MAX_MEMO:
            self._refuse("a memo without bounds")
        self._weigh(_MEMO_BYTES)
        self._memo[number] = self._stack[-1]

    def get(self, number: int) -> None:
        if number not in self._memo:
            raise ValueError("it refers to something that was never put down")
        self._push(self._memo[number])

    def make_list(self, _: Any) -> None:
        self._push_container(self._pop_mark())

    def append(self, _: Any) -> None:
        item = self._pop()
        self._take(list).append(item)

    def append_all(self, _: Any) -> None:
        items = self._pop_mark()
        self._take(list).extend(items)

    def make_tuple(self, _: Any) -> None:
        self._push_container(tuple(self._pop_mark()))

    def make_tuple_of(self, count: int) -> None:
        items = [self._pop() for _ in range(count)]
        self._push_container(tuple(reversed(items)))

    def make_dictionary(self, _: Any) -> None:
        items = self._pop_mark()
        self._push_container({})
        self._fill(items)

    def set_item(self, _: Any) -> None:
        value, key = self._pop(), self._pop()
        self._fill([key, value])

    def set_items(self, _: Any) -> None:
        self._fill(self._pop_mark())

    def _fill(self, items: list[Any]) -> None:
        dictionary = self._take(dict)
        if len(items) % 2:
            raise ValueError("a key of a dictionary has no value")
        for key in items[::2]:
            # Numbers can be chosen so that a dictionary of them takes for ever.
            if type(key) is not str:
                self._refuse(f"a dictionary with a key that is a {describe(key)}")
        dictionary.update(zip(items[::2], items[1::2], strict=True))

    def add_all(self, _: Any) -> None:
        items = self._pop_mark()
        self._take(set).update(self._check_members(items))

    def make_frozenset(self, _: Any) -> None:
        self._push_container(set(self._check_members(self._pop_mark())))

    def _check_members(self, items: Any) -> list[str]:
        if type(items) is not list or any(type(item) is not str for item in items):
            self._refuse("a set of something else than texts")
        return cast("list[str]", items)

    def name(self, pair: str) -> None:
        module, _, name = pair.partition(" ")
        self._push_name(module, name)

    def name_from_stack(self, _: Any) -> None:
        name, module = self._pop(), self._pop()
        if type(name) is not str or type(module) is not str:
            self._refuse("a name that is no text")
        self._push_name(module, name)

    def _push_name(self, module: str, name: str) -> None:
        label = f"{module}.{name}"
        maker = MAKERS.get((module, name))
        if maker is None and name not in CLASSES.get(module, ()):
            self._refuse(f"the name {' '.join(label.split())[:200]}")
        self._push_container(_Name(maker or "", label))

    def call(self, _: Any) -> None:
        arguments, called = self._pop(), self._pop()
        if type(called) is not _Name or type(arguments) is not tuple:
            self._refuse("a call of something that cannot be called")
        if called.maker == "set" and len(arguments) == 1:
            self._push_container(set(self._check_members(arguments[0])))
        elif called.maker == "newobj" and len(arguments) == 1:
            self._begin_object(arguments[0])
        elif called.maker == "reconstructor" and len(arguments) == 3:
            cls, base, state = arguments
            if type(base) is not _Name or base.maker != "object" or state is not None:
                self._refuse(f"a call of {called.label} that begins no object of the SDK")
            self._begin_object(cls)
        else:
            self._refuse(f"a call of {called.label} with {len(arguments)} arguments")

    def begin_object(self, _: Any) -> None:
        arguments, cls = self._pop(), self._pop()
        if arguments != ():
            self._refuse("an object that is begun with arguments")
        self._begin_object(cls)

    def _begin_object(self, cls: Any) -> None:
        if type(cls) is not _Name or cls.maker:
            self._refuse("an object of something that is no class of the SDK")
        self._push_container(StandIn(cls.label))

    def build(self, _: Any) -> None:
        state = self._pop()
        if type(state) is not dict or not self._stack or type(self._stack[-1]) is not StandIn:
            self._refuse("a state for something that is no object of the SDK")
        self._stack[-1].state = state


_INSTRUCTIONS: dict[str, Callable[[Machine, Any], None]] = {
    "PROTO": Machine.check_protocol,
    "FRAME": Machine.pass_over,
    "NONE": lambda machine, _: machine._push(None),
    "NEWTRUE": lambda machine, _: machine._push(True),
    "NEWFALSE": lambda machine, _: machine._push(False),
    "EMPTY_LIST": lambda machine, _: machine._push_container([]),
    "EMPTY_TUPLE": lambda machine, _: machine._push(()),
    "EMPTY_DICT": lambda machine, _: machine._push_container({}),
    "EMPTY_SET": lambda machine, _: machine._push_container(set()),
    "TUPLE1": lambda machine, _: machine.make_tuple_of(1),
    "TUPLE2": lambda machine, _: machine.make_tuple_of(2),
    "TUPLE3": lambda machine, _: machine.make_tuple_of(3),
    **dict.fromkeys(
        ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        Machine._push,
    ),
    **dict.fromkeys(
        (
            *("STRING", "BINSTRING", "SHORT_BINSTRING"),
            *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
        ),
        Machine.push_text,
    ),
    **dict.fromkeys(("SHORT_BINBYTES", "BINBYTES", "BINBYTES8"), Machine.push_bytes),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), Machine.put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), Machine.get),
    "MEMOIZE": Machine.memoize,
    "MARK": Machine.mark,
    "POP": Machine.drop,
    "POP_MARK": Machine.drop_mark,
    "DUP": Machine.repeat,
    "LIST": Machine.make_list,
    "APPEND": Machine.append,
    "APPENDS": Machine.append_all,
    "TUPLE": Machine.make_tuple,
    "DICT": Machine.make_dictionary,
    "SETITEM": Machine.set_item,
    "SETITEMS": Machine.set_items,
    "ADDITEMS": Machine.add_all,
    "FROZENSET": Machine.make_frozenset,
    "GLOBAL": Machine.name,
    "STACK_GLOBAL": Machine.name_from_stack,
    "REDUCE": Machine.call,
    "NEWOBJ": Machine.begin_object,
    "BUILD": Machine.build,
}
"""The instructions that are followed. Without INST, OBJ, NEWOBJ_EX, EXT1 to EXT4, PERSID and
BINPERSID, which only begin objects that are none of ours, and without those for buffers that
are kept outside of the pickle."""


def describe(value: Any) -> str:
    """Says in a word what a value is."""
    if isinstance(value, StandIn):
        return value.label
    return "name" if isinstance(value, _Name) else type(value).__name__
