"""A pickle machine with a budget: Python's own, with every instruction that could run code, loop or swell replaced.

A pickle is a program. This one can make plain containers, numbers and text, and call the builders of one table, which
only check and store. Instructions and bytes that builders make are counted; what a dictionary or a set is given as a
key has a bounded hash; only plain lists, dictionaries and sets are filled, and only records of ours take a state.
"""

from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

# A file may have so many instructions, one more for so many of its bytes, and never more than so many.
_SPARE_STEPS, _BYTES_A_STEP, _MOST_STEPS = 500_000, 32, 5_000_000
_SPARE_BYTES, _BYTES_FACTOR = 32 << 20, 2  # that builders may make, and so many times the file
_LONGEST_NAME = 1024  # of Python 2's byte strings, longer ones are numbers and stay bytes
_LONGEST_LINE, _LONGEST_INT = 1 << 20, 16  # bytes
_KEY_DEPTH, _KEY_ITEMS = 3, 8


class UnsafePickleError(ValueError):
    """A pickle is damaged, too large, or asks for something outside the table; the message names it."""


class Budget:
    """What reading one file may cost: instructions of its pickles, and bytes that builders make."""

    def __init__(self, size: int) -> None:
        self._steps = min(_MOST_STEPS, _SPARE_STEPS + size // _BYTES_A_STEP)
        self._bytes = _SPARE_BYTES + _BYTES_FACTOR * size

    def step(self) -> None:
        """One more instruction."""
        self._steps -= 1
        if self._steps < 0:
            raise UnsafePickleError("runs longer than any file of its size needs")

    def make(self, count: int) -> None:
        """So many more bytes."""
        self._bytes -= count
        if self._bytes < 0:
            raise UnsafePickleError("makes more data than any file of its size holds")


class Builder:
    """What a pickle gets for a name: something to call with stored arguments, which it cannot change."""

    __slots__ = ("make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self.make = make


class Record:
    """Stand-in for an object of another package: takes the state that was stored for it, and runs nothing."""

    def set_state(self, state: Any, budget: Budget) -> None:
        """Check and keep a state. Raises UnsafePickleError."""
        raise UnsafePickleError(f"gives a {type(self).__name__} a state")


class Machine(pickle._Unpickler):
    """Runs the pickle at a file's position; `table` has the builders by `module.name`, `outside` answers what is asked
    for by persistent id. `load` raises UnsafePickleError, and for a damaged pickle nearly any error.
    """

    dispatch: dict[int, Callable[[Machine], None]] = {}  # noqa: RUF012 (filled below, as in the class it replaces)

    def __init__(
        self,
        file: BinaryIO,
        table: Mapping[str, Builder],
        budget: Budget,
        outside: Callable[[Any], Any] | None = None,
        needed_by: str = "head model",
    ) -> None:
        super().__init__(_Bounded(file), encoding="latin1")
        self._table, self._budget, self._outside, self._needed_by = table, budget, outside, needed_by

    def find_class(self, module: str, name: str) -> Builder:
        try:
            return self._table[f"{module}.{name}"]
        except KeyError:
            raise UnsafePickleError(f"asks for {module}.{name}, which no {self._needed_by} needs") from None

    def persistent_load(self, pid: Any) -> Any:
        if self._outside is None:
            raise UnsafePickleError("refers to data outside the file")
        return self._outside(pid)

    def _decode_string(self, value: bytes) -> str | bytes:
        return value if len(value) > _LONGEST_NAME else value.decode("latin1")

    def _call(self, made_of: Any, arguments: Any) -> None:
        if not isinstance(made_of, Builder) or type(arguments) is not tuple:
            raise UnsafePickleError("calls something that is no function")
        self.append(made_of.make(*arguments))

    def _top(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise UnsafePickleError(f"fills a {type(self.stack[-1]).__name__} as if it were a {kind.__name__}")
        return self.stack[-1]

    def _reduce(self) -> None:
        arguments = self.stack.pop()
        self._call(self.stack.pop(), arguments)

    def _newobj_ex(self) -> None:
        if self.stack.pop() != {}:
            raise UnsafePickleError("makes an object with named arguments")
        self._reduce()

    def _obj(self) -> None:
        made_of, *arguments = self.pop_mark()
        self._call(made_of, tuple(arguments))

    def _inst(self) -> None:
        module, name = (self.readline()[:-1].decode("ascii") for _ in range(2))
        self._call(self.find_class(module, name), tuple(self.pop_mark()))

    def _build(self) -> None:
        state, built = self.stack.pop(), self.stack[-1]
        if isinstance(built, Record):
            built.set_state(state, self._budget)
        elif type(built) is not dict:  # attributes of a state dict, which hold no numbers
            raise UnsafePickleError(f"tries to change a {type(built).__name__.lower()}")

    def _append(self) -> None:
        value = self.stack.pop()
        self._top(list).append(value)

    def _appends(self) -> None:
        items = self.pop_mark()
        self._top(list).extend(items)

    def _setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._top(dict)[checked_key(key)] = value

    def _setitems(self) -> None:
        items = self.pop_mark()
        self._top(dict).update(_pairs(items))

    def _dict(self) -> None:
        items = self.pop_mark()  # which replaces the stack that `append` is of
        self.append(_pairs(items))

    def _additems(self) -> None:
        items = self.pop_mark()
        self._top(set).update(map(checked_key, items))

    def _frozenset(self) -> None:
        items = self.pop_mark()
        self.append(frozenset(map(checked_key, items)))

    def _long(self, form: str) -> None:
        (count,) = struct.unpack(form, self.read(struct.calcsize(form)))
        if not 0 <= count <= _LONGEST_INT:
            raise UnsafePickleError(f"holds a number of {count} bytes")
        self.append(pickle.decode_long(self.read(count)))

    def _bytearray8(self) -> None:
        (count,) = struct.unpack("<Q", self.read(8))
        self.append(self.read(count))

    def _refuse(self) -> None:
        raise UnsafePickleError("uses an instruction that no file of numbers needs")


def checked_key(key: Any, depth: int = 0) -> Any:
    """The key, if it is plain and its hash is quickly made: Python would follow nested ones to the end of its stack."""
    if isinstance(key, tuple) and depth < _KEY_DEPTH and len(key) <= _KEY_ITEMS:
        for part in key:
            checked_key(part, depth + 1)
    elif type(key) not in (str, int, float, bool, bytes, type(None)):
        raise UnsafePickleError(f"uses a {type(key).__name__} as a key")
    return key


def _pairs(items: list[Any]) -> dict[Any, Any]:
    return {checked_key(items[i]): items[i + 1] for i in range(0, len(items), 2)}


def _counted(instruction: Callable[[Machine], None]) -> Callable[[Machine], None]:
    def step(machine: Machine) -> None:
        machine._budget.step()
        instruction(machine)

    return step


_OWN: dict[bytes, Callable[[Machine], None]] = {
    pickle.REDUCE: Machine._reduce, pickle.NEWOBJ: Machine._reduce, pickle.NEWOBJ_EX: Machine._newobj_ex,
    pickle.OBJ: Machine._obj, pickle.INST: Machine._inst, pickle.BUILD: Machine._build,
    pickle.APPEND: Machine._append, pickle.APPENDS: Machine._appends,
    pickle.SETITEM: Machine._setitem, pickle.SETITEMS: Machine._setitems, pickle.DICT: Machine._dict,
    pickle.ADDITEMS: Machine._additems, pickle.FROZENSET: Machine._frozenset,
    pickle.LONG1: lambda machine: machine._long("<B"), pickle.LONG4: lambda machine: machine._long("<i"),
    pickle.BYTEARRAY8: Machine._bytearray8,
} | dict.fromkeys(
    (pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER), Machine._refuse
)  # fmt: skip
Machine.dispatch.update(
    {code: _counted(_OWN.get(bytes([code]), theirs)) for code, theirs in pickle._Unpickler.dispatch.items()}
)


class _Bounded:
    """A file that never promises more bytes than it has: Python's would make room for all that are asked for."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        begin = file.tell()
        self._size = file.seek(0, os.SEEK_END)
        file.seek(begin)

    def read(self, count: int) -> bytes:
        if count > self._size - self._file.tell():
            raise EOFError("cut short")
        return self._file.read(count)

    def readinto(self, buffer: bytearray) -> int:
        return self._file.readinto(buffer)

    def readline(self) -> bytes:
        line = self._file.readline(_LONGEST_LINE)
        if not line.endswith(b"\n"):
            raise EOFError("cut short, or a line without end")
        return line
