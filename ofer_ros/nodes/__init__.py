"""The ROS 2 nodes, one module each, and their parameters."""

import os
import sys

from ofer_ros.base.signals import end_at_once

PROGRAMS = ("ofer_node", "mesh_node", "camera_node", "recorder", "view_node", "rviz")

# Started as a program (`python -m ofer_ros.nodes.<name>`, or the installed script): the imports that follow take a
# second, in which Ctrl-C is not to look like a crash.
if os.path.basename(sys.argv[0] if sys.argv else "") in ("-m", *PROGRAMS):
    end_at_once()
