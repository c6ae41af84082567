"""The ROS package as others see it: manifests, entry points, launch file, and a plain colcon build."""

from __future__ import annotations

import pytest

pytest.importorskip("ofer_msgs.msg._face", reason="source .venv/ofer_env.sh")

import ast
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import xml.etree.ElementTree as ET
from pathlib import Path

import yaml
from lifecycle_msgs.srv import GetAvailableStates
from ros_support import LIMIT, NodeHarness, documented, documented_values, image_message, interface_rows

import ofer_models
from ofer_msgs.msg import BlendshapesArray
from ofer_ros.output.marker_layers import NAMESPACES

pytestmark = pytest.mark.ros
ROOT = Path(__file__).resolve().parents[1]
# Import name -> what package.xml calls it.
SYSTEM = {
    "PIL": "python3-pil",
    "aiohttp": "python3-aiohttp",
    "cv2": "python3-opencv",
    "numpy": "python3-numpy",
    "onnxruntime": "python3-onnxruntime-pip",
    "rich": "python3-rich",
    "skimage": "python3-skimage",
    "typer": "python3-typer",
    "yaml": "python3-yaml",
}
# Not in package.xml: used where they are installed.
OPTIONAL = {
    "hri_msgs",  # an apt package of some distributions only: behind a switch
    "google",  # protobuf, which mediapipe brings
    "mediapipe",  # from pip, before rosdep: its key takes a version without models
    "rosbags", "lz4",  # from pip, for bags alone; the second comes with the first
    "torch", "tensorrt", "tensorrt_rtx", "cuda", "onnx",  # runtimes that a parameter asks for
}  # fmt: skip
ROBOT = ("ofer_ros", *(f"ofer_models/{room}" for room in ("head", "bundle", "runtime", "perception", "tracking")))


def dependencies(manifest: str) -> set[str]:
    return {
        element.text
        for element in ET.parse(ROOT / manifest).getroot()
        if element.tag in ("depend", "exec_depend", "build_depend")
    }


def imports(folder: str) -> set[str]:
    """Top-level modules that a folder's files import, anywhere in the file."""
    found = set()
    for file in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - {"ofer_ros", "ofer_models", "__future__"}


def test_package_xml_declares_what_a_robot_imports_and_no_more_of_python():
    declared = dependencies("package.xml")
    imported = set().union(*map(imports, ROBOT)) | imports("ofer_models/drawing") | imports("ofer_models/cli")
    for module in imported - OPTIONAL:
        assert SYSTEM.get(module, module) in declared, f"package.xml lacks {module}"
    used = {SYSTEM.get(module, module) for module in imported}
    assert {name for name in declared if name.startswith("python3-")} <= used


def test_what_only_launch_files_use_is_not_forced_on_a_robot():
    declared = dependencies("package.xml")
    assert imports("launch") == {"launch", "launch_ros"}
    assert not declared & {"launch", "launch_ros", "ros2launch", "rviz2", "python3-mediapipe-pip"}


def test_the_nodes_import_nothing_heavy():
    heavy = {"torch", "diffusers", "anny", "scipy", "numba", "trimesh"}
    assert not imports("ofer_ros") & heavy
    assert imports("ofer_models"), "the scan sees the files"


def test_there_is_one_version():
    stated = ET.parse(ROOT / "package.xml").getroot().findtext("version")
    assert ET.parse(ROOT / "ofer_msgs/package.xml").getroot().findtext("version") == stated
    assert ofer_models.__version__ == stated
    # Read, not repeated: by setup.py, and by what writes a trained bundle's manifest.
    assert not re.search(r"""version["']?\s*[=:]\s*["']""", (ROOT / "setup.py").read_text())
    training = (ROOT / "ofer_models/workshop/train/open_bundle.py").read_text()
    assert '"version": version()' in training
    assert f"## {stated} " in (ROOT / "CHANGELOG.md").read_text()


def test_a_checkout_whose_path_ros_cannot_take_is_refused_before_anything_is_installed(monkeypatch, capsys):
    setup_env = load_setup_env()
    monkeypatch.setattr(setup_env, "ROOT", Path("/home/j\u00fcrgen/ofer"))
    monkeypatch.setattr(setup_env.sys, "argv", ["setup_env.py", "demo"])
    monkeypatch.setattr(setup_env, "make_venv", lambda: pytest.fail("too late"))
    assert setup_env.main() == 1
    assert "/home/j\u00fcrgen/ofer: move it to a path of plain letters" in capsys.readouterr().err


def load_setup_env():
    spec = importlib.util.spec_from_file_location("setup_env", ROOT / "tools" / "setup_env.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def entry_points() -> dict[str, str]:
    return dict(re.findall(r'"(\w+) = ([\w.]+):main"', (ROOT / "setup.py").read_text()))


def test_entry_points_exist_and_are_the_starters_of_the_virtual_environment():
    setup_env = load_setup_env()
    # `python -m` runs a package by its __main__.
    run = {name: module.removesuffix(".main") for name, module in entry_points().items()}
    assert run == setup_env.STARTERS
    for name, module in entry_points().items():
        if name != "ofer":
            assert callable(importlib.import_module(module).main)


def test_messages_have_the_contract_s_fields():
    from ofer_msgs.msg import Face, FaceArray, HeadModel

    fields = Face.get_fields_and_field_types()
    contract = {
        "id": "string", "roi": "sensor_msgs/RegionOfInterest", "confidence": "float", "pose": "geometry_msgs/Pose",
        "metric": "boolean", "shape": "sequence<float>", "identity_revision": "uint32", "identity_score": "float",
        "num_hypotheses": "uint32", "expressions": "sequence<float>", "jaws": "sequence<float>",
        "scores": "sequence<float>", "selected": "uint32", "occlusion": "float",
    }  # fmt: skip
    assert contract.items() <= fields.items()
    assert FaceArray.get_fields_and_field_types()["faces"] == "sequence<ofer_msgs/Face>"
    assert {"bundle", "head_sha256", "expression_names", "units"} <= HeadModel.get_fields_and_field_types().keys()


def test_rviz_shows_the_topics_that_the_node_publishes():
    content = yaml.safe_load((ROOT / "config" / "ofer.rviz").read_text())
    topics = {
        display["Topic"]["Value"] for display in content["Visualization Manager"]["Displays"] if "Topic" in display
    }
    assert topics == {"ofer_node/markers", "ofer_node/overlay"}


@pytest.fixture(scope="module")
def running():
    """An active node that has seen a face, and its values of /diagnostics."""
    with NodeHarness() as harness:
        harness.watch_overlay()
        harness.client.create_subscription(BlendshapesArray, "/ofer_node/blendshapes", lambda _: None, 10)
        harness.wait_for(lambda: harness.node.count_subscribers("/image_raw/compressed"))
        assert harness.send_and_wait(image_message()).faces
        values = harness.status(lambda status: any(value.key == "latency_p95_ms" for value in status.values)).values
        yield harness, {value.key for value in values}


def relative(name: str) -> str:
    return name.replace("/ofer_node/", "~/") if name.startswith(("/ofer_node/", "/diagnostics")) else name.lstrip("/")


def test_the_documented_topics_are_those_of_the_node(running):
    node = running[0].node
    ours = node.get_publisher_names_and_types_by_node("ofer_node", "/")
    ours += node.get_subscriber_names_and_types_by_node("ofer_node", "/")
    # TF has no type in its row: it is there only where tf2_msgs is.
    infrastructure = {"/rosout", "/parameter_events", "/ofer_node/transition_event", "/tf"}
    there = {(relative(name), kinds[0].replace("/msg/", "/")) for name, kinds in ours if name not in infrastructure}
    written = {(row[0].strip("`"), row[1]) for row in interface_rows() if len(row) == 4 and row[2] in ("in", "out")}
    assert there == {(name, kind) for name, kind in written if kind}


def test_the_documented_services_are_those_of_the_node(running):
    ours = running[0].node.get_service_names_and_types_by_node("ofer_node", "/")
    of_rclpy = ("rcl_interfaces/", "lifecycle_msgs/", "type_description_interfaces/")
    there = {
        (relative(name), kinds[0].replace("/srv/", "/")) for name, kinds in ours if not kinds[0].startswith(of_rclpy)
    }
    written = (row for row in interface_rows() if len(row) == 3 and row[0].startswith("`~/"))
    assert there == {(row[0].strip("`"), row[1]) for row in written}


def test_the_documented_states_are_those_of_the_node(running):
    answer = running[0].call(GetAvailableStates, "/ofer_node/get_available_states", GetAvailableStates.Request())
    primary = {state.label for state in answer.available_states if 1 <= state.id <= 4}
    assert primary == {row[0].strip("`") for row in interface_rows() if len(row) == 4 and "listened to" in row[1]} | {
        row[0].strip("`") for row in interface_rows() if len(row) == 4 and row[1].startswith("processed")
    }


def test_the_documented_diagnostics_are_those_of_the_node(running):
    assert {documented(key) for key in running[1]} == documented_values()
    rows = [row for row in interface_rows() if len(row) == 2]
    assert [row[0] for row in rows[rows.index(["level", "message"]) + 2 :][:3]] == ["OK", "WARN", "ERROR"]


def test_the_documented_layers_are_those_that_rviz_can_toggle():
    written = {row[0].strip("`"): row[1].strip("`") for row in interface_rows() if len(row) == 3 and "`show_" in row[1]}
    assert written == {name: f"show_{name}" for name in NAMESPACES}
    content = yaml.safe_load((ROOT / "config" / "ofer.rviz").read_text())
    displays = content["Visualization Manager"]["Displays"]
    (markers,) = (display for display in displays if display["Class"].endswith("MarkerArray"))
    assert set(markers["Namespaces"]) == set(NAMESPACES)


def overlay_environment() -> dict[str, str]:
    """The environment without this checkout and its messages: only ROS itself."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    prefix = environment["AMENT_PREFIX_PATH"].split(":")[-1]
    return environment | {"AMENT_PREFIX_PATH": prefix, "CMAKE_PREFIX_PATH": prefix}


def colcon_build(checkout: Path, environment: dict[str, str], *arguments: str) -> None:
    command = ["colcon", "build", *arguments, "--cmake-args", "-DBUILD_TESTING=OFF"]
    command.append(f"-DPython3_EXECUTABLE={sys.executable}")
    built = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, timeout=600)
    assert built.returncode == 0, built.stdout + built.stderr


def start_node(checkout: Path, environment: dict[str, str], bundle: str, words: str) -> None:
    """Start the installed ofer_node from elsewhere in an environment that sourced it: it says `words`, and stays."""
    node = checkout / "install" / "ofer_ros" / "lib" / "ofer_ros" / "ofer_node"
    script = f'. install/setup.sh && cd / && exec "{node}" --ros-args -p autostart:=true {bundle}'
    started = subprocess.Popen(["sh", "-c", script], cwd=checkout, env=environment, stderr=subprocess.PIPE, text=True)
    given_up = threading.Timer(4 * LIMIT, started.kill)
    given_up.start()
    try:
        said = ""
        while words not in said:
            line = started.stderr.readline()
            assert line, said  # it ended
            said += line
        started.send_signal(signal.SIGINT)
        assert started.wait(LIMIT) == 0
    finally:
        given_up.cancel()
        started.kill()


@pytest.mark.build
def test_a_plain_colcon_build_in_a_checkout_finds_both_packages_and_installs_everything(tmp_path):
    if shutil.which("colcon") is None:
        pytest.skip("colcon is not installed")
    checkout = tmp_path / "checkout"
    ignore = shutil.ignore_patterns(".git", ".venv", "out", "build", "install", "log", "__pycache__", "tests")
    shutil.copytree(ROOT, checkout, ignore=ignore)
    environment = overlay_environment()
    listed = subprocess.run(["colcon", "list", "-n"], cwd=checkout, env=environment, capture_output=True, text=True)
    assert listed.stdout.split() == ["ofer_msgs", "ofer_ros"]
    colcon_build(checkout, environment)
    start_node(checkout, environment, "-p bundle:=/nowhere", "no bundle at /nowhere")

    # Installed by copying, and the checkout gone: nothing may have been left behind in it.
    shutil.rmtree(checkout / "install" / "ofer_ros")
    shutil.rmtree(checkout / "build" / "ofer_ros")
    defaults = checkout / "colcon_defaults.yaml"
    defaults.write_text(defaults.read_text().replace("symlink-install: true", "symlink-install: false"))
    colcon_build(checkout, environment, "--packages-select", "ofer_ros")
    for folder in ("ofer_ros", "ofer_models", "config", "launch", "engines"):
        shutil.rmtree(checkout / folder, ignore_errors=True)  # a clone without the bundle has no engines
    share = checkout / "install" / "ofer_ros" / "share" / "ofer_ros"
    assert (share / "launch" / "ofer.launch.py").exists()
    there = (ROOT / "engines" / "open" / "manifest.yaml").exists()
    start_node(checkout, environment, "", "bundle 'open'" if there else f"no bundle at {share / 'engines' / 'open'}")
