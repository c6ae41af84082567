"""How a node's parameters are declared, checked and read, from a dataclass such as those of `settings`.

A field carries what its descriptor says: `setting(description, low, high, choices, unit, live)`. `declare` declares
them all on a node, and `read` gives them back as an instance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field, fields
from functools import cache
from typing import Any, TypeVar, get_type_hints

import yaml
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from ofer_models.bundle.share import share_folder

Settings = TypeVar("Settings")


def setting(
    description: str,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    unit: str = "",
    live: bool = False,
    unless_zero: int = 0,
) -> Any:
    """A parameter: what it is for, its range (inclusive) or choices, and whether it may change while the node works.

    unless_zero: the least value but for 0, which has a meaning of its own.
    """
    metadata = {"description": description, "low": low, "high": high, "choices": choices, "unit": unit, "live": live}
    return field(metadata=metadata | {"unless_zero": unless_zero})


@cache
def defaults(section: str) -> dict[str, Any]:
    """ros__parameters of `section` in config/ofer.yaml."""
    content = yaml.safe_load((share_folder() / "config" / "ofer.yaml").read_text())
    return content[f"/**/{section}"]["ros__parameters"]


def _descriptor(name: str, kind: type, metadata: dict[str, Any]) -> ParameterDescriptor:
    unit = f" ({metadata['unit']})" if metadata["unit"] else ""
    descriptor = ParameterDescriptor(name=name, description=metadata["description"] + unit)
    # `-p source:=0` arrives as an integer, and `-p rate:=30` too: text and numbers are converted when read.
    descriptor.dynamic_typing = kind in (str, float)
    if metadata["choices"]:
        descriptor.additional_constraints = "one of: " + ", ".join(metadata["choices"])
    if not metadata["live"]:
        also = descriptor.additional_constraints
        descriptor.additional_constraints = f"{also}{'; ' if also else ''}cannot change while the node is active"
    if metadata["low"] is not None and kind is int:
        descriptor.integer_range = [IntegerRange(from_value=metadata["low"], to_value=metadata["high"], step=0)]
    elif metadata["low"] is not None:
        descriptor.floating_point_range = [
            FloatingPointRange(from_value=float(metadata["low"]), to_value=float(metadata["high"]), step=0.0)
        ]
    return descriptor


def _problem(settings: type, parameter: Parameter) -> str | None:
    """Why `parameter` cannot be taken, or None."""
    known = {item.name: item for item in fields(settings)}
    if parameter.name not in known:
        return None
    metadata = known[parameter.name].metadata
    kind = get_type_hints(settings)[parameter.name]
    if metadata["choices"] and _converted(kind, parameter.value) not in metadata["choices"]:
        return f"{parameter.name} '{parameter.value}' is not one of: {', '.join(metadata['choices'])}"
    if kind is int and isinstance(parameter.value, int) and 0 < parameter.value < metadata["unless_zero"]:
        return f"{parameter.name} must be 0 or at least {metadata['unless_zero']}, not {parameter.value}"
    if kind is float:
        # Ranges of the descriptor hold for doubles only; an integer comes past them.
        if isinstance(parameter.value, bool) or not isinstance(parameter.value, (int, float)):
            return f"{parameter.name} must be a number, not '{parameter.value}'"
        if not metadata["low"] <= parameter.value <= metadata["high"]:
            return f"{parameter.name} {parameter.value} is outside {metadata['low']} .. {metadata['high']}"
    return None


def declare(node: Node, section: str, settings: type[Settings], active: Callable[[], bool] = lambda: False) -> None:
    """Declare every field of `settings` with the defaults of `section`, and refuse values that do not fit from then on.

    While active() is true, parameters that are not `live` are refused as well, with what to do.
    Raises rclpy's InvalidParameterValueException or InvalidParameterTypeException for an override that does not fit.
    """
    live = {item.name: item.metadata["live"] for item in fields(settings)}

    def in_use(parameter: Parameter) -> str | None:
        fixed = not live.get(parameter.name, True) and active()
        if not fixed or node.get_parameter(parameter.name).value == parameter.value:
            return None
        name = node.get_fully_qualified_name()
        return f"{parameter.name} cannot change while the node is active; first: ros2 lifecycle set {name} deactivate"

    def check(parameters: list[Parameter]) -> SetParametersResult:
        problems = [_problem(settings, parameter) or in_use(parameter) for parameter in parameters]
        problems = [text for text in problems if text]
        return SetParametersResult(successful=not problems, reason="; ".join(problems))

    node.add_on_set_parameters_callback(check)
    kinds = get_type_hints(settings)
    values = defaults(section)
    for item in fields(settings):
        descriptor = _descriptor(item.name, kinds[item.name], dict(item.metadata))
        node.declare_parameter(item.name, values[item.name], descriptor)


def read(node: Node, settings: type[Settings]) -> Settings:
    """The node's present values."""
    kinds = get_type_hints(settings)
    return settings(
        **{item.name: _converted(kinds[item.name], node.get_parameter(item.name).value) for item in fields(settings)}
    )


def _converted(kind: type, value: Any) -> Any:
    """`-p source:=0` arrives as an integer, and `-p image_is_rectified:=true` as a boolean."""
    return str(value).lower() if kind is str and isinstance(value, bool) else kind(value)
