#!/usr/bin/env python3
"""Make `.venv` hold all that a make target needs, from nothing, and only what is missing.

    python3 tools/setup_env.py demo|test|train

Three steps, each skipped when its stamp still matches its inputs: install the layer's packages, point the ROS wheels at
this machine's Python headers, build `ofer_msgs` with colcon. What it leaves behind is `.venv/ofer_env.sh` (source it
for a shell in which rclpy and the messages work) and a small starter in `.venv/bin` for each of the project's programs.

Standard library only, and old syntax only: it must at least say what is missing on any Python 3.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
ROS_BASE = VENV / "ros"
SUPPORTED = [(3, 12), (3, 11), (3, 10)]

LAYERS = {
    "demo": ["run", "ros", "demo"],
    "test": ["run", "ros", "demo", "test"],
    "train": ["run", "ros", "demo", "test", "train"],
}

# Programs put into .venv/bin; the same names are entry points in setup.py.
STARTERS = {
    "ofer": "ofer_models.cli",
    "ofer_node": "ofer_ros.nodes.ofer_node",
    "fleet_node": "ofer_ros.nodes.fleet_node",
    "identity_server": "ofer_ros.nodes.identity_server",
    "mesh_node": "ofer_ros.nodes.mesh_node",
    "camera_node": "ofer_ros.nodes.camera_node",
    "recorder": "ofer_ros.nodes.recorder",
    "view_node": "ofer_ros.nodes.view_node",
    "vmc_node": "ofer_ros.nodes.vmc_node",
    "live_link_node": "ofer_ros.nodes.live_link_node",
    "rviz": "ofer_ros.nodes.rviz",
}

# The wheels' CMake files name the folders of the machine that built them.
BUILDER_NUMPY = re.compile(r"/opt/python/cp3\d+-cp3\d+/lib/python3\.\d+/site-packages/numpy/_core/include")
BUILDER_PYTHON = re.compile(r"/opt/python/cp3\d+-cp3\d+/include/python3\.\d+")


class SetupError(Exception):
    """A missing tool or a failed step, in one line with the remedy."""


def say(text: str) -> None:
    print(f"[setup] {text}", flush=True)


def run(command: list, what: str, log: Path) -> None:
    """Run `command` with its output in `log`; raise SetupError with the end of it when it fails."""
    started = time.monotonic()
    with log.open("w") as out:
        process = subprocess.Popen([str(part) for part in command], stdout=out, stderr=subprocess.STDOUT, cwd=str(VENV))
        while process.poll() is None:
            time.sleep(0.2)
            if sys.stdout.isatty():
                print(f"\r[setup] {what}: {time.monotonic() - started:.0f} s ", end="", flush=True)
    if sys.stdout.isatty():
        print("\r\033[K", end="")
    if process.returncode != 0:
        tail = "\n".join(log.read_text().splitlines()[-25:])
        raise SetupError(f"{what} failed (exit {process.returncode}); the end of {log}:\n{tail}")
    say(f"{what}: {time.monotonic() - started:.0f} s")


def digest(*parts) -> str:
    """Hash of texts and of the contents of files (Path)."""
    total = hashlib.sha256()
    for part in parts:
        total.update(part.read_bytes() if isinstance(part, Path) else str(part).encode())
        total.update(b"\0")
    return total.hexdigest()


def stamped(name: str, value: str) -> bool:
    stamp = VENV / f".{name}.stamp"
    return stamp.exists() and stamp.read_text() == value


def write_stamp(name: str, value: str) -> None:
    (VENV / f".{name}.stamp").write_text(value)


def supported_python() -> str:
    """Path of a Python 3.10 to 3.12: the one running this, else the first found on PATH."""
    if sys.version_info[:2] in SUPPORTED:
        return sys.executable
    for major, minor in SUPPORTED:
        candidate = shutil.which(f"python{major}.{minor}")
        # A pyenv shim exists for every version but runs only the selected ones.
        if candidate and subprocess.run([candidate, "-c", ""], stderr=subprocess.DEVNULL).returncode == 0:
            return candidate
    found = ".".join(map(str, sys.version_info[:3]))
    raise SetupError(
        f"Python 3.10, 3.11 or 3.12 is needed (ROS 2 Jazzy and MediaPipe have wheels for these); found {found}. "
        "Install one, or name it: make PYTHON=/path/to/python3.11 ..."
    )


def make_venv() -> None:
    """Create `.venv` unless a working one of a supported version is there."""
    if PYTHON.exists():
        check = f"import sys; sys.exit(sys.version_info[:2] not in {SUPPORTED})"
        if subprocess.run([str(PYTHON), "-c", check], stderr=subprocess.DEVNULL).returncode == 0:
            return
        raise SetupError(
            f"{VENV} holds a Python that does not run or is not 3.10 to 3.12: remove it (rm -rf .venv) and repeat"
        )
    python = supported_python()
    say(f"creating .venv with {python}")
    if subprocess.run([python, "-m", "venv", str(VENV)]).returncode != 0:
        shutil.rmtree(str(VENV), ignore_errors=True)
        raise SetupError("python -m venv failed (on Debian and Ubuntu: apt install python3-venv)")


def check_path() -> None:
    """ROS's message generators fail, late and deep inside, on a path that is not plain ASCII."""
    if not str(ROOT).isascii():
        raise SetupError(f"the checkout lies in {ROOT}: move it to a path of plain letters (ASCII), ROS needs one")


def check_compilers() -> None:
    """The message package is C and C++: say so before minutes are spent on downloads."""
    missing = [
        tool
        for tool, names in (("a C compiler", ("cc", "gcc")), ("a C++ compiler", ("c++", "g++")), ("make", ("make",)))
        if not any(shutil.which(name) for name in names)
    ]
    if missing:
        raise SetupError(f"missing: {', '.join(missing)} (on Debian and Ubuntu: apt install build-essential)")
    include = subprocess.run(
        [str(PYTHON), "-c", "import sysconfig; print(sysconfig.get_paths()['include'])"],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    ).stdout.strip()
    if not (Path(include) / "Python.h").exists():
        raise SetupError(f"Python.h is not in {include} (on Debian and Ubuntu: apt install python3-dev)")


def install_packages(layer: str) -> None:
    """pip install the layer's requirement files under the common constraints."""
    files = [ROOT / "requirements" / f"{name}.txt" for name in LAYERS[layer]]
    constraints = ROOT / "requirements" / "constraints.txt"
    with_cmake = not shutil.which("cmake")
    value = digest(sys.platform, constraints, with_cmake, *files)
    if stamped(f"packages-{layer}", value):
        return
    say("installing packages; this takes minutes the first time")
    command = [PYTHON, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-c", constraints]
    for file in files:
        command += ["-r", file]
    if with_cmake:
        command += ["cmake<4"]
    run(command, f"installing packages ({', '.join(LAYERS[layer])})", VENV / "install.log")
    patch_cmake_files()
    write_stamp(f"packages-{layer}", value)


def patch_cmake_files() -> None:
    """Replace the wheel builder's absolute include folders by this environment's."""
    code = "import sysconfig, numpy; print(sysconfig.get_paths()['include']); print(numpy.get_include())"
    answer = subprocess.run([str(PYTHON), "-c", code], stdout=subprocess.PIPE, check=True, text=True)
    python_include, numpy_include = answer.stdout.split("\n")[:2]
    changed = 0
    for file in (VENV / "share").rglob("*.cmake"):
        text = file.read_text()
        patched = BUILDER_NUMPY.sub(lambda _: numpy_include, text)
        patched = BUILDER_PYTHON.sub(lambda _: python_include, patched)
        if patched != text:
            file.write_text(patched)
            changed += 1
    if changed:
        say(f"pointed {changed} CMake files of the ROS wheels at {python_include}")


def site_packages() -> Path:
    return next((VENV / "lib").glob("python3.*")) / "site-packages"


def write_environment() -> Path:
    """Write `.venv/ofer_env.sh`; returns its path.

    It replaces AMENT_PREFIX_PATH, CMAKE_PREFIX_PATH and PYTHONPATH rather than adding to them: a sourced apt
    installation of another ROS must not be mixed with the wheels.
    """
    packages = site_packages()
    messages = ROS_BASE / "install" / "ofer_msgs"
    libraries = [messages / "lib", VENV / "lib", *sorted(packages.glob("ros_*.libs"))]
    python_path = [ROOT, messages / "lib" / packages.parent.name / "site-packages"]
    # A domain of the checkout's own, below those that runs and tests borrow (ofer_ros/base/domains.py).
    domain = int(digest(str(ROOT))[:8], 16) % 40 + 1
    lines = [
        "# Made by tools/setup_env.py; source it (sh, bash, zsh) to use ROS 2 and OFER from this checkout.",
        f'export VIRTUAL_ENV="{VENV}"',
        f'export PATH="{VENV}/bin:$PATH"',
        f'export AMENT_PREFIX_PATH="{messages}:{VENV}"',
        f'export CMAKE_PREFIX_PATH="{messages}:{VENV}"',
        f'export LD_LIBRARY_PATH="{":".join(map(str, libraries))}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}"',
        f'export PYTHONPATH="{":".join(map(str, python_path))}"',
        "# Without this the first import of rclpy starts the whole interpreter again.",
        "export _ROS_WHEELS_BOOTSTRAP_COMPLETE=1",
        "export RMW_IMPLEMENTATION=rmw_fastrtps_cpp",
        "# Stay on this machine and among ourselves; by default DDS multicasts on every interface.",
        "export ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST",
        f'export ROS_DOMAIN_ID="${{ROS_DOMAIN_ID:-{domain}}}"',
        f'export FASTRTPS_DEFAULT_PROFILES_FILE="{ROOT}/config/fastdds_local.xml"',
        "unset ROS_DISTRO ROS_PYTHON_VERSION",
    ]
    file = VENV / "ofer_env.sh"
    text = "\n".join(lines) + "\n"
    if not file.exists() or file.read_text() != text:
        file.write_text(text)
    return file


def write_starters(environment: Path) -> None:
    """Small programs in `.venv/bin` that need no sourced shell."""
    for name, module in STARTERS.items():
        starter = VENV / "bin" / name
        # A signal that comes before the program can answer is no failure: the shell ends with 0, and what Python gets
        # while it starts waits until `ofer_ros.nodes` takes it.
        nodes = module.startswith("ofer_ros.nodes.")
        wait = "env --block-signal=INT --block-signal=TERM " if nodes else ""
        trap = 'trap "exit 0" INT TERM\n' if nodes else ""
        text = f'#!/bin/sh\n{trap}. "{environment}"\nexec {wait}"{PYTHON}" -m {module} "$@"\n'
        if not starter.exists() or starter.read_text() != text:
            starter.write_text(text)
            starter.chmod(0o755)


def build_messages(environment: Path) -> None:
    """colcon build of ofer_msgs into `.venv/ros` when its sources changed."""
    sources = sorted(path for path in (ROOT / "ofer_msgs").rglob("*") if path.is_file())
    value = digest(str(ROOT), *[str(path.relative_to(ROOT)) for path in sources], *sources)
    if stamped("messages", value):
        return
    ROS_BASE.mkdir(exist_ok=True)
    # From the environment's own folder, so that the checkout's colcon_defaults.yaml does not apply.
    command = (
        f'cd "{ROS_BASE}" && . "{environment}" && COLCON_DEFAULTS_FILE=/dev/null exec colcon --log-base log build '
        f'--base-paths "{ROOT}/ofer_msgs" --event-handlers console_cohesion+ '
        f'--cmake-args -DBUILD_TESTING=OFF "-DPython3_EXECUTABLE={PYTHON}"'
    )
    shutil.rmtree(str(ROS_BASE / "build"), ignore_errors=True)
    shutil.rmtree(str(ROS_BASE / "install"), ignore_errors=True)
    run(["sh", "-c", command], "building ofer_msgs", ROS_BASE / "build.log")
    write_stamp("messages", value)


def main() -> int:
    if len(sys.argv) != 2 or sys.argv[1] not in LAYERS:
        print(f"usage: {sys.argv[0]} {'|'.join(LAYERS)}", file=sys.stderr)
        return 2
    try:
        check_path()
        make_venv()
        check_compilers()
        install_packages(sys.argv[1])
        environment = write_environment()
        build_messages(environment)
        write_starters(environment)
    except SetupError as error:
        print(f"[setup] error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
