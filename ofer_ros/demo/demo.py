"""The demo: camera_node, ofer_node and recorder as three processes, and what they measured in one summary.

    python -m ofer_ros.demo.demo [scene | folder | video | number of a webcam | bag] [--out out/demo]

Leaves overlay.mp4, contact_sheet.png, summary.json and the processes' logs. Always ends by itself. Of a bag or a folder
every picture is processed, however long that takes; what the node published of a bag is left in the new bag <out>/bag.
"""

from __future__ import annotations

import json
import platform
import shutil
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ofer_models.pipeline_settings import METHODS
from ofer_ros.base.bundles import load_bundle
from ofer_ros.camera.bag_source import BagContents, inspect_bag
from ofer_ros.camera.scene import FRAMES
from ofer_ros.camera.source_frame import SourceError, bag_path
from ofer_ros.camera.sources import open_source
from ofer_ros.demo.processes import HELP, START_LIMIT, DemoError, Processes, own_domain, reported

_LAST_DIAGNOSTICS = 2.0  # seconds after the last frame in which ofer_node says its final numbers
_RESULTS = ("overlay.mp4", "contact_sheet.png", "summary.json", "bag", "logs")
_WEBCAM_SECONDS = 30.0
_PACKAGES = ("rclpy", "numpy", "onnxruntime", "mediapipe", "opencv-contrib-python")


@dataclass(frozen=True)
class DemoOptions:
    """source: as camera_node's.  seconds: repeat it for so long instead of showing it once.  rate: Hz.  method: as
    ofer_node's."""

    source: str = "scene"
    out: Path = Path("out/demo")
    bundle: str = "open"
    hypotheses: int = 15
    rate: float = 30.0
    seconds: float | None = None
    method: str = METHODS[0]


def run_demo(options: DemoOptions, console: Console | None = None) -> dict:
    """Run it all and return the content of summary.json. Raises DemoError; children never outlive this call."""
    console = console or Console()
    out = options.out.resolve()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DemoError(f"--out {out} is no folder that can be made: {error.strerror}") from None
    for old in ("summary.json", "recorder.json", "frames.jsonl", "overlay.mp4", "contact_sheet.png"):
        (out / old).unlink(missing_ok=True)
    bag = check(options)
    if bag is not None and (out / "bag" / "metadata.yaml").exists():
        shutil.rmtree(out / "bag")
    if bag is not None and bag.others:
        console.print(f"playing {bag.topic}; for another: {bag.path}#{' or #'.join(bag.others)}", markup=False)
    with own_domain() as domain, Processes(out / "logs", domain) as processes:
        common = {"bundle": options.bundle}
        # A busy machine is to show in the frame rate, not in the number of hypotheses.
        node = {**common, "method": options.method, "hypotheses": options.hypotheses, "autostart": True}
        node["latency_bound"] = 0.0
        recorder = {**common, "output": str(out)}
        if not options.source.isdecimal():
            node["identity_in_background"] = False  # what is played does not come again: a face waits for its head
        one_by_one = _one_by_one(options, bag)
        if one_by_one:
            # One of everything a picture, whatever time it takes. Reliable: a camera knows of its readers a moment
            # before they know of it, and what it sends then to one of best effort is lost.
            node |= {"marker_rate": 0.0, "overlay_rate": 0.0, "max_frame_age": 3600.0, "image_reliability": "reliable"}
            node["silence_warning"] = 3600.0  # while a frame is at work, none comes
        if bag is not None:
            recorder |= {"bag": str(out / "bag"), "bag_storage": bag.storage}
        processes.start("ofer_node", "ofer_ros.nodes.ofer_node", node)
        processes.start("recorder", "ofer_ros.nodes.recorder", recorder)
        processes.start(
            "camera_node",
            "ofer_ros.nodes.camera_node",
            {
                "source": options.source,
                "rate": options.rate,
                "loop": options.seconds is not None and bag is None,
                "paced_by": "ofer_node/faces" if one_by_one else "",
                # ofer_node listens once it is active, the recorder once it is ready.
                "wait_for_subscribers": 2,
                "log_file": str(out / "frames.jsonl"),
            },
        )
        _wait(processes, options, bag.images if bag is not None else None, out, console)
        processes.stop("camera_node")
        time.sleep(_LAST_DIAGNOSTICS)
        processes.stop("ofer_node")
        processes.stop("recorder", patience=60.0)
        problems = {name: processes.problems(name) for name in ("camera_node", "ofer_node", "recorder")}
    summary = _summary(options, bag, out)
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    _print(summary, problems, out, console)
    return summary


def check(options: DemoOptions) -> BagContents | None:
    """Find out here, in one line, what would make the children wait for each other; what is played of a bag."""
    if options.method not in METHODS:
        raise DemoError(f"--method {options.method}: should be one of {', '.join(METHODS)}")
    try:
        load_bundle(options.bundle)
        if bag_path(options.source) is not None:
            return inspect_bag(options.source)
        open_source(options.source, options.rate, 1.0, 1280)
        return None
    except SourceError as error:
        raise DemoError(str(error)) from None
    except (ValueError, OSError) as error:
        raise DemoError(f"bundle '{options.bundle}': {error}") from None


def _wait(processes: Processes, options: DemoOptions, images: int | None, out: Path, console: Console) -> None:
    """Until the camera has shown everything (or `seconds` are over), with a progress bar. images: of a bag."""
    frames = out / "frames.jsonl"
    limit = options.seconds or (_WEBCAM_SECONDS if options.source.isdigit() else None)
    total = FRAMES if options.source == "scene" and limit is None else limit and int(limit * options.rate)
    total = total if images is None else images
    started = time.monotonic()
    first_frame = None
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed} frames"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    ) as progress:
        task = progress.add_task("starting", total=total)
        while processes.status("camera_node") is None:
            for name in ("ofer_node", "recorder"):
                if processes.status(name) is not None:
                    raise DemoError(f"{name} ended early: {processes.last_words(name)}")
            errors = processes.problems("ofer_node", "[ERROR]") if first_frame is None else []
            if errors:  # it stays, for a user to mend the cause; here nobody will
                raise DemoError(f"ofer_node does not start: {errors[0]} [{processes.log_file('ofer_node')}]")
            now = time.monotonic()
            sent = frames.read_text().count("\n") if frames.exists() else 0
            if first_frame is None and sent:
                first_frame = now
                progress.update(task, description="running")
            if first_frame is None and now - started > START_LIMIT:
                raise DemoError(f"no frame after {START_LIMIT:.0f} s: {processes.last_words('ofer_node')}")
            if first_frame is not None and limit is not None and now - first_frame > limit:
                return
            progress.update(task, completed=sent)
            time.sleep(0.25)
    if processes.status("camera_node") != 0:
        raise DemoError(f"camera_node failed: {processes.last_words('camera_node')}")


def _one_by_one(options: DemoOptions, bag: BagContents | None) -> bool:
    """Whether each picture waits until the one before was answered."""
    return bag is not None or Path(options.source).is_dir()


def _summary(options: DemoOptions, bag: BagContents | None, out: Path) -> dict:
    """Merge the recorder's numbers with what the camera knows about each frame."""
    try:
        recorded = json.loads((out / "recorder.json").read_text())
    except FileNotFoundError:
        raise DemoError(f"the recorder left nothing; see {out / 'logs' / 'recorder.log'}") from None
    frames = [json.loads(line) for line in (out / "frames.jsonl").read_text().splitlines()]
    faces = {int(stamp): count for stamp, count in recorded["faces_by_stamp"].items()}
    processed = [frame for frame in frames if frame["stamp"] in faces]
    expected = [frame for frame in processed if frame["face_expected"]]
    summary = {
        "source": options.source,
        "bundle": options.bundle,
        "method": options.method,
        "frames_sent": len(frames),
        **recorded["summary"],
        "frames_compared": len(processed),
        "frames_with_face": sum(faces[frame["stamp"]] > 0 for frame in processed),
        "frames_face_visible": len(expected),
        "frames_face_missed": sum(faces[frame["stamp"]] == 0 for frame in expected),
        "versions": versions(),
    }
    if _one_by_one(options, bag):  # whose stamps are not of the time that they were sent at
        summary["latency_ms"] |= summary["node_latency_ms"]
    if bag is not None:
        summary["bag"] = {"topic": bag.topic, "camera_info": bag.info_topic, "images": bag.images}
    elif Path(options.source).is_dir():
        pictures: dict[str, int] = {}
        for frame in frames:
            pictures[frame["name"]] = max(pictures.get(frame["name"], 0), faces.get(frame["stamp"], 0))
        summary["faces_by_picture"] = pictures
    return summary


def versions() -> dict[str, str]:
    """Versions of Python, ROS's client library and the packages the run time stands on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "from the system"
    return found


def _print(summary: dict, problems: dict[str, list[str]], out: Path, console: Console) -> None:
    table = Table(title=f"OFER demo, source '{summary['source']}'", show_header=False)
    latency = summary["latency_ms"]
    error = summary["landmark_error"]
    check = summary["marker_check"]
    one_by_one = summary.keys() & {"bag", "faces_by_picture"}
    rows = {
        "frames sent / in / processed / dropped": " / ".join(
            str(summary[f"frames_{name}"]) for name in ("sent", "in", "processed", "dropped")
        ),
        "processed frames a second": f"{summary['fps']:.1f}",
        f"{'image' if one_by_one else 'stamp'} to FaceArray, ms": f"p50 {latency['p50']}, p95 {latency['p95']}",
        "frames with a face": f"{summary['frames_with_face']} of {summary['frames_compared']} received back",
        "tracks / identities": f"{summary['tracks']} / {summary['identity_revisions']}",
        "hypotheses a face": str(summary["hypotheses"]),
        "landmark error": "-" if error is None else f"{100 * error:.2f} % of the inter-ocular distance",
        "markers against decoded mesh": f"{check['largest_difference_m']:.1e} m in {check['messages']} messages",
    }
    if summary["frames_face_visible"]:
        rows["missed where one is visible"] = f"{summary['frames_face_missed']} of {summary['frames_face_visible']}"
    for name, value in rows.items():
        table.add_row(name, value)
    for picture, count in summary.get("faces_by_picture", {}).items():
        table.add_row(picture, f"{count} face(s)" if count else "no face found")
    console.print(table)
    for name, lines in problems.items():
        for line in lines[:5]:
            console.print(f"{name}: {line}", style="yellow", markup=False, highlight=False)
    made = [name for name in _RESULTS if (out / name).exists()]
    console.print(f"{out}: {', '.join(made)}", markup=False, highlight=False)
    if not (out / "contact_sheet.png").exists():
        console.print("no contact sheet: no face was found", markup=False, highlight=False)


app = typer.Typer(add_completion=False)


@app.command(help=__doc__.splitlines()[0], context_settings=HELP)
def demo(
    source: Annotated[
        str, typer.Argument(help="scene (built in), folder, video, webcam number, or rosbag2 (path, or path#topic).")
    ] = DemoOptions.source,
    out: Annotated[
        Path, typer.Option(help="Folder for overlay.mp4, contact_sheet.png, summary.json and, of a rosbag2, bag/.")
    ] = DemoOptions.out,
    bundle: Annotated[str, typer.Option(help="Name in engines/ or folder.")] = DemoOptions.bundle,
    hypotheses: Annotated[int, typer.Option(min=1, max=64, help="Expressions a face.")] = DemoOptions.hypotheses,
    rate: Annotated[float, typer.Option(min=0.1, max=1000, help="Hz, of sources that state none.")] = DemoOptions.rate,
    seconds: Annotated[
        float | None, typer.Option(min=0, help="Repeat the source for this long, s (default: once; webcam: 30 s).")
    ] = None,
    method: Annotated[str, typer.Option(help=f"How faces are told: {', '.join(METHODS)}.")] = DemoOptions.method,
) -> None:
    with reported("demo"):
        run_demo(DemoOptions(source, out, bundle, hypotheses, rate, seconds, method))


if __name__ == "__main__":
    app(prog_name="ofer demo")
