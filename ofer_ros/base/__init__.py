"""What every room of ofer_ros stands on: parameters, files of the package, geometry, problems, statistics, frames."""
