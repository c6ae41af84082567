"""ROS 2 around `ofer_models`: nodes, messages, markers, demo. Everything that needs rclpy lives here."""
