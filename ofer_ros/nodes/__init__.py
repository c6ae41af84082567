"""The ROS 2 nodes, one module each."""

import os
import sys

from ofer_ros.base.signals import end_at_once

# Started as a program (`python -m ofer_ros.nodes.<name>`, or the installed script of that name): the imports that
# follow take a second, in which Ctrl-C is not to look like a crash.
_program = os.path.basename(sys.argv[0]) if sys.argv else ""
if _program == "-m" or os.path.exists(os.path.join(os.path.dirname(__file__), f"{_program}.py")):
    end_at_once()
