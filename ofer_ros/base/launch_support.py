"""What the launch files share: an argument for every parameter, and buffers of DDS that images fit into."""

from __future__ import annotations

import os
from dataclasses import fields
from typing import Any

from launch import LaunchContext
from launch.actions import DeclareLaunchArgument, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.parameter_descriptions import ParameterValue

from ofer_ros.base.package_files import share
from ofer_ros.base.parameters import defaults

_PROFILES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")


def image_buffers() -> list[SetEnvironmentVariable]:
    """Let all that is started use config/fastdds.xml, unless the user has a profile of his own."""
    if any(os.environ.get(name) for name in _PROFILES):
        return []
    return [SetEnvironmentVariable(_PROFILES[0], str(share() / "config" / "fastdds.xml"))]


def parameter_arguments(settings: dict[str, type], taken: set[str]) -> list[DeclareLaunchArgument]:
    """An argument for each parameter of the nodes (section of config/ofer.yaml -> its class) but those in `taken`.

    Left empty, an argument leaves the parameter as params_file says.
    """
    texts: dict[str, str] = {}
    for section, kind in settings.items():
        for item in fields(kind):
            if item.name not in taken:
                text = f"of {section}: {item.metadata['description']} (empty: as params_file says)"
                texts[item.name] = f"{texts[item.name]}; {text}" if item.name in texts else text
    return [DeclareLaunchArgument(name, default_value="", description=text) for name, text in texts.items()]


def given_parameters(context: LaunchContext, section: str, taken: set[str]) -> dict[str, Any]:
    """Those parameters of a node that the command line gives, with the type of their defaults."""
    return {
        name: ParameterValue(LaunchConfiguration(name), value_type=type(default))
        for name, default in defaults(section).items()
        if name not in taken and context.launch_configurations.get(name, "")
    }
