"""The far end of a telepresence link: mesh_node makes the meshes of a distant ofer_node from under 1 kB a face.

    ros2 launch ofer_ros mesh.launch.py node:=/robot/ofer_node

It listens to that node's ~/faces_selected; with hypotheses:=true to ~/faces, which the layers of all hypotheses need.
"""

from __future__ import annotations

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, LogInfo, OpaqueFunction
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution, PythonExpression
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from ofer_ros.base.launch_arguments import parameter_file, slips


def generate_launch_description() -> LaunchDescription:
    value = LaunchConfiguration
    arguments = [
        DeclareLaunchArgument("namespace", default_value="", description="namespace of mesh_node"),
        DeclareLaunchArgument("node", default_value="/ofer_node", description="full name of the distant ofer_node"),
        DeclareLaunchArgument(
            "hypotheses",
            default_value="false",
            choices=["true", "false"],
            description="listen to all hypotheses instead of the selected one alone",
        ),
        DeclareLaunchArgument(
            "params_file",
            default_value=PathJoinSubstitution([FindPackageShare("ofer_ros"), "config", "ofer.yaml"]),
            description="parameter file with a section for /**/mesh_node",
        ),
        DeclareLaunchArgument(
            "bundle", default_value="open", description="bundle of the distant node: a name in engines/, or its folder"
        ),
    ]
    topic = PythonExpression(["'/faces' if '", value("hypotheses"), "' == 'true' else '/faces_selected'"])
    mesh = Node(
        package="ofer_ros",
        executable="mesh_node",
        name="mesh_node",
        namespace=value("namespace"),
        output="screen",
        parameters=[value("params_file"), {"bundle": ParameterValue(value("bundle"), value_type=str)}],
        remappings=[("faces", [value("node"), topic]), ("head_info", [value("node"), "/head_info"])],
    )

    def check(context: LaunchContext) -> list[LogInfo]:
        parameter_file("params_file", value("params_file").perform(context))
        return [LogInfo(msg=line) for line in slips(context.launch_configurations, [one.name for one in arguments])]

    return LaunchDescription([*arguments, OpaqueFunction(function=check), mesh])
