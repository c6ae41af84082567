"""OFER for ROS 2: models, perception and the pipeline, without ROS."""
