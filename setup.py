"""ROS 2 package `ofer_ros` (ament_python): the nodes, and the ROS-free `ofer_models` they are built on.

The version is package.xml's, dependencies and extras are pyproject.toml's. The rest is here and not there, because
colcon calls this file: the setuptools of ROS 2 Humble (59) does not read pyproject.toml's project table, colcon cannot
parse what setuptools makes of `requires-python` there, and the two ways to state a licence there each fail somewhere.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

from setuptools import find_packages, setup

NAME = "ofer_ros"
SHARE = f"share/{NAME}"


def tree(folder: str) -> list[tuple[str, list[str]]]:
    """data_files entries that install `folder` and all below it under share/ofer_ros."""
    files: dict[str, list[str]] = {}
    for path in sorted(Path(folder).rglob("*")):
        if path.is_file():
            files.setdefault(f"{SHARE}/{path.parent.as_posix()}", []).append(path.as_posix())
    return list(files.items())


setup(
    name=NAME,
    version=ET.parse("package.xml").getroot().findtext("version"),
    license="Apache-2.0",
    python_requires=">=3.10,<3.13",
    packages=find_packages(include=["ofer_ros", "ofer_ros.*", "ofer_models", "ofer_models.*"]),
    package_data={"": ["*.md", "*.npz", "*.json"], "ofer_ros": ["web/page/*"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (SHARE, ["package.xml"]),
        *tree("launch"),
        *tree("config"),
        *tree("engines/open"),
    ],
    entry_points={
        "console_scripts": [
            "ofer = ofer_models.cli.main:main",
            "ofer_node = ofer_ros.nodes.ofer_node:main",
            "fleet_node = ofer_ros.nodes.fleet_node:main",
            "identity_server = ofer_ros.nodes.identity_server:main",
            "mesh_node = ofer_ros.nodes.mesh_node:main",
            "camera_node = ofer_ros.nodes.camera_node:main",
            "recorder = ofer_ros.nodes.recorder:main",
            "view_node = ofer_ros.nodes.view_node:main",
            "vmc_node = ofer_ros.nodes.vmc_node:main",
            "live_link_node = ofer_ros.nodes.live_link_node:main",
            "rviz = ofer_ros.nodes.rviz:main",
        ],
    },
    zip_safe=False,
)
