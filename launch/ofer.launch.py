"""OFER on a camera: ofer_node, and where wanted camera_node and RViz.

    ros2 launch ofer_ros ofer.launch.py                                    # your camera on /image_raw
    ros2 launch ofer_ros ofer.launch.py camera:=true source:=0 rviz:=true   # a webcam, and a window
    ros2 launch ofer_ros ofer.launch.py image:=/camera/color/image_raw camera_info:=/camera/color/camera_info

`--show-args` lists every argument. Defaults are those of config/ofer.yaml; the arguments here only override it.
"""

from __future__ import annotations

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode, Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

_FLAGS = ["true", "false"]


def generate_launch_description() -> LaunchDescription:
    share = FindPackageShare("ofer_ros")
    arguments = [
        DeclareLaunchArgument("namespace", default_value="", description="namespace of all nodes"),
        DeclareLaunchArgument(
            "params_file",
            default_value=PathJoinSubstitution([share, "config", "ofer.yaml"]),
            description="parameter file with sections for /**/ofer_node and /**/camera_node",
        ),
        DeclareLaunchArgument(
            "bundle", default_value="open", description="name of a bundle in engines/, or its folder"
        ),
        DeclareLaunchArgument(
            "autostart",
            default_value="true",
            choices=_FLAGS,
            description="let ofer_node configure and activate itself; false: use ros2 lifecycle or a manager",
        ),
        DeclareLaunchArgument("image", default_value="image_raw", description="image topic that ofer_node listens to"),
        DeclareLaunchArgument("camera_info", default_value="camera_info", description="its CameraInfo topic"),
        DeclareLaunchArgument("camera", default_value="false", choices=_FLAGS, description="start camera_node as well"),
        DeclareLaunchArgument(
            "source",
            default_value="scene",
            description="of camera_node: scene, a picture, a folder, a video file, or the number of a webcam",
        ),
        DeclareLaunchArgument(
            "rviz", default_value="false", choices=_FLAGS, description="start RViz on config/ofer.rviz"
        ),
    ]
    value = LaunchConfiguration
    ofer = LifecycleNode(
        package="ofer_ros",
        executable="ofer_node",
        name="ofer_node",
        namespace=value("namespace"),
        output="screen",
        parameters=[
            value("params_file"),
            {
                "bundle": ParameterValue(value("bundle"), value_type=str),
                "autostart": ParameterValue(value("autostart"), value_type=bool),
            },
        ],
        remappings=[
            ("image_raw", value("image")),
            ("image_raw/compressed", [value("image"), "/compressed"]),
            ("camera_info", value("camera_info")),
        ],
    )
    camera = Node(
        package="ofer_ros",
        executable="camera_node",
        name="camera_node",
        namespace=value("namespace"),
        output="screen",
        parameters=[value("params_file"), {"source": ParameterValue(value("source"), value_type=str)}],
        remappings=[
            ("image_raw", value("image")),
            ("image_raw/compressed", [value("image"), "/compressed"]),
            ("camera_info", value("camera_info")),
        ],
        condition=IfCondition(value("camera")),
    )
    rviz = Node(
        package="rviz2",
        executable="rviz2",
        namespace=value("namespace"),
        arguments=["-d", PathJoinSubstitution([share, "config", "ofer.rviz"])],
        condition=IfCondition(value("rviz")),
    )
    return LaunchDescription([*arguments, ofer, camera, rviz])
