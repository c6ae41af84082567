"""OFER on a camera: ofer_node, and where wanted camera_node and RViz.

    ros2 launch ofer_ros ofer.launch.py                                    # your camera on /image_raw
    ros2 launch ofer_ros ofer.launch.py camera:=true source:=0 rviz:=true   # a webcam, and a window
    ros2 launch ofer_ros ofer.launch.py image:=/camera/color/image_raw camera_info:=/camera/color/camera_info
    ros2 launch ofer_ros ofer.launch.py cameras:=front,rear                # several cameras, each with its image_raw
    ros2 launch ofer_ros ofer.launch.py hypotheses:=5 show_text:=true       # any parameter

`--show-args` lists every argument. Defaults are those of config/ofer.yaml; the arguments here only override it.
"""

from __future__ import annotations

import os
from dataclasses import fields
from typing import Any

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, LogInfo, OpaqueFunction, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode, Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from ofer_models.bundle.share import share_folder
from ofer_ros.base.launch_arguments import log_level, parameter_file, slips, value_of
from ofer_ros.base.parameters import defaults
from ofer_ros.base.settings import CameraSettings, OferSettings

_FLAGS = ["true", "false"]
# Parameters whose names are arguments of another meaning here.
_TAKEN = {"camera_info"}
_PROFILES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")


def _image_buffers() -> list[SetEnvironmentVariable]:
    """Let all that is started use config/fastdds.xml, unless the user has a profile of his own."""
    if any(os.environ.get(name) for name in _PROFILES):
        return []
    return [SetEnvironmentVariable(_PROFILES[0], str(share_folder() / "config" / "fastdds.xml"))]


def _parameter_arguments(settings: dict[str, type], taken: set[str]) -> list[DeclareLaunchArgument]:
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


def _given_parameters(context: LaunchContext, section: str, taken: set[str]) -> dict[str, Any]:
    """Those parameters of a node that the command line gives, with the type of their defaults. Raises ValueError."""
    given = {}
    for name, default in defaults(section).items():
        text = "" if name in taken else context.launch_configurations.get(name, "")
        if text:
            value = value_of(name, text, type(default))
            given[name] = ParameterValue(value, value_type=str) if isinstance(value, str) else value
    return given


def _arguments() -> list[DeclareLaunchArgument]:
    own = [
        DeclareLaunchArgument("namespace", default_value="", description="namespace of all nodes"),
        DeclareLaunchArgument(
            "name",
            default_value="ofer_node",
            description="name of ofer_node; params_file then needs a section of that name",
        ),
        DeclareLaunchArgument(
            "params_file",
            default_value=PathJoinSubstitution([FindPackageShare("ofer_ros"), "config", "ofer.yaml"]),
            description="parameter file with sections for /**/ofer_node and /**/camera_node",
        ),
        DeclareLaunchArgument("log_level", default_value="info", description="of all nodes: debug, info, warn, error"),
        DeclareLaunchArgument(
            "use_sim_time", default_value="false", choices=_FLAGS, description="take the time from /clock"
        ),
        DeclareLaunchArgument(
            "autostart",
            default_value="true",
            choices=_FLAGS,
            description="let ofer_node configure and activate itself; false: use ros2 lifecycle or a manager",
        ),
        DeclareLaunchArgument("image", default_value="image_raw", description="image topic that ofer_node listens to"),
        DeclareLaunchArgument("camera_info", default_value="camera_info", description="its CameraInfo topic"),
        DeclareLaunchArgument(
            "cameras",
            default_value="",
            description="namespaces of several cameras, with commas between: fleet_node serves them all, each with its "
            "own image_raw; name, namespace, image and camera_info do not apply then",
        ),
        DeclareLaunchArgument("camera", default_value="false", choices=_FLAGS, description="start camera_node as well"),
        DeclareLaunchArgument(
            "rviz", default_value="false", choices=_FLAGS, description="start RViz on config/ofer.rviz"
        ),
        DeclareLaunchArgument(
            "fixed_frame", default_value="", description="of RViz; empty: the frame_id of the first image"
        ),
    ]
    taken = _TAKEN | {argument.name for argument in own}
    return own + _parameter_arguments({"ofer_node": OferSettings, "camera_node": CameraSettings}, taken)


def _nodes(context: LaunchContext) -> list[Node | LogInfo]:
    value = LaunchConfiguration
    parameter_file("params_file", value("params_file").perform(context))
    log_level(value("log_level").perform(context))
    said = [LogInfo(msg=line) for line in slips(context.launch_configurations, [one.name for one in _arguments()])]
    common = {
        "package": "ofer_ros",
        "namespace": value("namespace"),
        "output": "screen",
        "ros_arguments": ["--log-level", value("log_level")],
    }
    time = {"use_sim_time": ParameterValue(value("use_sim_time"), value_type=bool)}
    # image_raw/compressed follows image_raw by itself.
    topics = [("image_raw", value("image")), ("camera_info", value("camera_info"))]
    ofer = LifecycleNode(
        executable="ofer_node",
        name=value("name"),
        parameters=[value("params_file"), time, _given_parameters(context, "ofer_node", _TAKEN)],
        remappings=topics,
        **common,
    )
    if cameras := value("cameras").perform(context):
        given = _given_parameters(context, "ofer_node", _TAKEN)
        ofer = Node(
            executable="fleet_node",
            parameters=[value("params_file"), time, given, {"cameras": cameras}],
            **{**common, "namespace": ""},
        )
    camera = Node(
        executable="camera_node",
        name="camera_node",
        parameters=[value("params_file"), time, _given_parameters(context, "camera_node", _TAKEN)],
        remappings=topics,
        condition=IfCondition(value("camera")),
        **common,
    )
    if value("rviz").perform(context) != "true":
        return [*said, ofer, camera]
    frame = value("fixed_frame").perform(context).lstrip("/")  # tf2 takes no leading slash
    shown = [(f"ofer_node/{topic}", [value("name"), f"/{topic}"]) for topic in ("markers", "overlay")]
    arguments = ["-d", PathJoinSubstitution([FindPackageShare("ofer_ros"), "config", "ofer.rviz"])]
    rviz = Node(
        **{**common, "package": "rviz2" if frame else "ofer_ros"},
        executable="rviz2" if frame else "rviz",
        arguments=[*arguments, "-f", frame] if frame else arguments,
        parameters=[time],
        remappings=[*shown, ("faces", [value("name"), "/faces"])],
    )
    return [*said, ofer, camera, rviz]


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*_image_buffers(), *_arguments(), OpaqueFunction(function=_nodes)])
