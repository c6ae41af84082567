"""`--where`: which rows, as Python would say it, and nothing but that."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterable
from typing import Any

import pyarrow.compute as pc

from ofer_models.dataset.store import DatasetError

_COMPARED: dict[type, Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}  # fmt: skip
_MOST = 2000  # characters


def condition(text: str, columns: Iterable[str]) -> pc.Expression:
    """The filter that a text such as `track == "t1" and (frame < 10 or occlusion > 0.5)` stands for.

    Columns are compared with numbers and texts by == != < <= > >= and `in (..., ...)`, and joined by and, or, not.
    Raises DatasetError of one line.
    """
    try:
        if len(text) > _MOST:
            raise ValueError
        return _Condition(frozenset(columns)).of(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(
            f"--where {text[:80]!r} is no condition: write it as 'frame < 10 and track == \"t1\"'"
        ) from None


class _Condition:
    def __init__(self, columns: frozenset[str]) -> None:
        self._columns = columns

    def of(self, node: ast.expr) -> pc.Expression:
        if isinstance(node, ast.BoolOp):
            first, *others = map(self.of, node.values)
            for other in others:
                first = first & other if isinstance(node.op, ast.And) else first | other
            return first
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return ~self.of(node.operand)
        if isinstance(node, ast.Name):  # a column of yes and no
            return self._value(node)
        if not isinstance(node, ast.Compare):
            raise ValueError
        left, parts = node.left, []
        for kind, right in zip(node.ops, node.comparators, strict=True):
            parts.append(self._compared(left, kind, right))
            left = right
        first, *others = parts
        for other in others:
            first = first & other
        return first

    def _compared(self, left: ast.expr, kind: ast.cmpop, right: ast.expr) -> pc.Expression:
        if isinstance(kind, (ast.In, ast.NotIn)):
            if not isinstance(left, ast.Name) or not isinstance(right, (ast.Tuple, ast.List)):
                raise ValueError
            among = self._value(left).isin(list(ast.literal_eval(right)))
            return among if isinstance(kind, ast.In) else ~among
        if type(kind) not in _COMPARED or not any(isinstance(side, ast.Name) for side in (left, right)):
            raise ValueError
        return _COMPARED[type(kind)](self._value(left), self._value(right))

    def _value(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Name):
            if node.id not in self._columns:
                raise DatasetError(f"--where: no column {node.id!r}; there are {', '.join(sorted(self._columns))}")
            return pc.field(node.id)
        value = ast.literal_eval(node)
        if not isinstance(value, (int, float, str, bool)):
            raise ValueError
        return pc.scalar(value)
