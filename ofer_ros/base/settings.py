"""The parameters of every node: a dataclass each, with defaults from config/ofer.yaml alone.

`make generate` writes docs/parameters.md from them.
"""

from __future__ import annotations

from dataclasses import dataclass

from ofer_models.pipeline_settings import METHODS, PipelineSettings
from ofer_ros.base.face_ids import face_ids
from ofer_ros.base.parameters import setting

BACKENDS = ("auto", "tensorrt", "onnxruntime", "torch")


@dataclass(frozen=True)
class LayerSettings:
    """What the markers of a node show."""

    mesh_region: str = setting("part of the head that markers and overlay show", choices=("face", "head"))
    show_mesh: bool = setting("marker layer: the selected hypothesis of each face", live=True)
    show_hypotheses: bool = setting("marker layer: all hypotheses, transparent in one place", live=True)
    hypotheses_side_by_side: bool = setting("show all hypotheses beside each other, opaque", live=True)
    show_identity: bool = setting("marker layer: the head shape without expression", live=True)
    show_uncertainty: bool = setting(
        "marker layer: how far the hypotheses lie apart, in colours, with a legend", live=True
    )
    show_landmarks: bool = setting("marker layer: the head's landmarks", live=True)
    show_text: bool = setting("marker layer: id, occlusion and identity of each face in words", live=True)


@dataclass(frozen=True)
class OferSettings(LayerSettings):
    """Parameters of ofer_node."""

    autostart: bool = setting("configure and activate by itself at start, where no lifecycle manager does")
    bundle: str = setting("name of a bundle in engines/, or the path of a bundle's folder")
    method: str = setting(
        "ofer: several hypotheses a face, by sampling; regressor: one answer a face, quicker, if the bundle has a "
        "regressor; hypotheses, candidates, steps and hypothesis_drift then mean nothing",
        choices=METHODS,
    )
    hypotheses: int = setting("expression hypotheses a face and frame", 1, 64, live=True)
    candidates: int = setting(
        "head shapes that are drawn once a track and ranked; 0: as the bundle says (open: 100)", 0, 512
    )
    steps: int = setting("sampling steps, 3 at least; 0: as the bundle says", 0, 1000, live=True, unless_zero=3)
    seed: int = setting("seed of all noise", 0, 2**31 - 1)
    identity_in_background: bool = setting(
        "draw identities beside the frames, a new face shows the mean head until then; false: a new face waits for its "
        "identity, and equal frames give equal faces"
    )
    hypothesis_drift: float = setting(
        "rate at which the hypotheses' noise wanders; 0: frozen", 0.0, 100.0, unit="1/s"
    )
    latency_bound: float = setting(
        "bound from an image's arrival to its faces, kept by drawing less when time is short; 0: draw everything",
        0.0, 1e4, unit="ms",
    )  # fmt: skip
    identity_memory: float = setting(
        "how long a lost face's identity is kept, in memory alone", 0.0, 3600.0, unit="s"
    )
    identity_server: str = setting(
        "full name of an identity_server on any machine, with the same bundle, which then draws head shapes; they are "
        "drawn here while it is gone. Of method ofer; needs identity_in_background. '': always here"
    )
    max_faces: int = setting("most faces tracked at once", 1, 64)
    camera_rotation: str = setting(
        "how far images have to be turned clockwise to be upright, for a camera that is mounted so: new faces are "
        "looked for that way round first. Faces of any roll are found and followed, others half a second later at most",
        choices=("0", "90", "180", "270"),
        unit="degrees",
    )
    small_faces: bool = setting(
        "find faces smaller than about 1/20 of the image's longer side too, by looking at parts of it: the detector "
        "then runs not once but 7 times on 1280 x 720, 25 times on 1920 x 1080, 109 times on 3840 x 2160"
    )
    threads: int = setting("threads of the inference engine", 1, 64)
    backend: str = setting(
        "inference engine; auto: tensorrt where a GPU and engines made by `ofer build` are present, else onnxruntime, "
        "with 8-bit encoders where `ofer build` made some",
        choices=BACKENDS,
    )
    transport: str = setting(
        "image topics to listen to; auto: image_raw, and image_raw/compressed while image_raw is silent",
        choices=("auto", "raw", "compressed"),
    )
    conversion: str = setting(
        "who converts images: builtin, or cv_bridge where it is installed; the values are the same",
        choices=("builtin", "cv_bridge"),
    )
    max_image_pixels: int = setting(
        "larger images are refused, compressed ones by their header, before they are decoded", 4096, 2**28, unit="px"
    )
    sync: str = setting(
        "which CameraInfo goes with an image: the latest; or the one with the same stamp (exact) or the nearest "
        "(approximate), and then images without one are not used. By message_filters where it is installed, with the "
        "same pairs without",
        choices=("latest", "exact", "approximate"),
    )
    sync_slop: float = setting("largest difference of stamps with sync approximate", 0.001, 1.0, unit="s")
    image_reliability: str = setting(
        "QoS asked of image publishers; best_effort fits all of them, reliable only reliable ones",
        choices=("best_effort", "reliable"),
    )
    image_depth: int = setting("QoS depth of the image topics; frames are never queued beyond it", 1, 100)
    field_of_view: float = setting(
        "field of view along the longer side, assumed without a valid CameraInfo", 10.0, 170.0, unit="degrees"
    )
    image_is_rectified: str = setting(
        "whether the images are rectified, so that CameraInfo's P is about them and not K and D; auto: by the topic's "
        "last name (image_rect, image_rect_color)",
        choices=("auto", "true", "false"),
    )
    filtering_frame: str = setting(
        "for a camera that moves: a TF frame that does not (odom, map, base_link of a robot that stands), in which "
        "poses are filtered; they are published in the camera's frame all the same. '': the camera does not move"
    )
    max_frame_age: float = setting(
        "frames that waited longer for their turn are dropped", 0.01, 3600.0, unit="s", live=True
    )
    silence_warning: float = setting("warn when no image arrived for this long", 0.5, 3600.0, unit="s", live=True)
    marker_rate: float = setting(
        "most MarkerArrays a second, drawn beside the frames; 0: one a frame, for which the next frame waits",
        0.0, 1000.0, unit="Hz", live=True,
    )  # fmt: skip
    overlay_rate: float = setting(
        "most overlay images a second, drawn beside the frames; 0: one a frame, for which the next frame waits",
        0.0, 1000.0, unit="Hz", live=True,
    )  # fmt: skip
    deterministic_ids: bool = setting(
        "ids of faces follow from `seed` and the node's full name; false: random, and no two nodes or runs share one"
    )
    publish_tf: bool = setting("broadcast `face_<id>` and `gaze_<id>` where tf2_msgs is installed", live=True)
    tf_prefix: str = setting("put before the names of TF frames: `<prefix>face_<id>`")
    publish_head: bool = setting(
        "put the head's arrays (open: 10 MB) into ~/head_model, so that a reader needs no bundle"
    )
    ros4hri: bool = setting("publish REP-155 topics below /humans/faces where hri_msgs is installed")

    def pipeline(self, node: str = "") -> PipelineSettings:
        """Those that the pipeline of a node (its full name) is made with."""
        return PipelineSettings(
            self.hypotheses, self.candidates or None, self.steps or None, self.seed, self.threads, self.max_faces,
            self.backend, background=self.identity_in_background, drift=self.hypothesis_drift,
            latency_bound=self.latency_bound, remember=self.identity_memory,
            camera_rotation=int(self.camera_rotation), small_faces=self.small_faces, method=self.method,
            ids=face_ids((self.seed, node) if self.deterministic_ids else None),
        )  # fmt: skip


@dataclass(frozen=True)
class FleetSettings:
    """Parameters of fleet_node."""

    autostart: bool = setting("configure and activate all cameras at start, where no lifecycle manager does")
    cameras: str = setting("namespaces of the cameras, with commas between: each has its image_raw there")
    collect: float = setting(
        "how long a frame may wait for those of other cameras, to go through the networks with them", 0.0, 50.0,
        unit="ms",
    )  # fmt: skip
    perception_threads: int = setting(
        "cameras in which faces are looked for at the same time; 0: one a processor core", 0, 64
    )


@dataclass(frozen=True)
class IdentityServerSettings:
    """Parameters of identity_server."""

    autostart: bool = setting("configure and activate by itself at start, where no lifecycle manager does")
    bundle: str = setting("bundle of the nodes that ask: a name in engines/ or a folder")
    threads: int = setting("threads of the inference engine", 1, 64)
    backend: str = setting("inference engine, as of ofer_node", choices=BACKENDS)


@dataclass(frozen=True)
class MeshSettings(LayerSettings):
    """Parameters of mesh_node."""

    bundle: str = setting("bundle whose head model made the coefficients: a name in engines/ or a folder")


@dataclass(frozen=True)
class CameraSettings:
    """Parameters of camera_node."""

    source: str = setting(
        "'scene' (built in), a picture, a folder of pictures, a video file, the number of a webcam, or a rosbag2 "
        "(path, or path#topic)"
    )
    rate: float = setting("frames a second; bags and videos come at their own", 0.1, 1000.0, unit="Hz")
    loop: bool = setting("start again at the end; otherwise the node ends")
    hold: float = setting("how long each picture of a folder is shown", 0.0, 3600.0, unit="s")
    frame_id: str = setting("camera optical frame written into the headers")
    field_of_view: float = setting(
        "field of view along the longer side that camera_info states", 10.0, 170.0, unit="degrees"
    )
    camera_info: bool = setting("publish camera_info beside each image")
    compressed: bool = setting("publish image_raw/compressed (JPEG) instead of image_raw")
    max_side: int = setting("larger pictures and videos are scaled down to this side", 16, 4096, unit="px")
    paced_by: str = setting(
        "topic of FaceArrays; a picture is sent once the one before was answered there, so that none is lost, and "
        "pictures without a time of their own are stamped 1 / rate apart; '': no"
    )
    wait_for_subscribers: int = setting("publish nothing before this many nodes listen to the image", 0, 100)
    log_file: str = setting("write stamp, name and expected face of each frame here, a line of JSON each; '': do not")


@dataclass(frozen=True)
class RecorderSettings:
    """Parameters of recorder."""

    bundle: str = setting("bundle whose head model the markers are compared with: a name in engines/ or a folder")
    mesh_region: str = setting("region that the observed node's markers show", choices=("face", "head"))
    node: str = setting("name of the ofer_node whose topics are recorded")
    output: str = setting("folder for recorder.json, overlay.mp4 and contact_sheet.png")
    video_rate: float = setting("frames a second of overlay.mp4", 1.0, 120.0, unit="Hz")
    bag: str = setting("folder of a new rosbag2 for all that the observed node publishes; '': none")
    bag_storage: str = setting("files of that bag", choices=("mcap", "sqlite3"))
    check_every: int = setting("compare every n-th MarkerArray with the decoded mesh, point by point", 1, 10000)


@dataclass(frozen=True)
class ViewSettings:
    """Parameters of view_node."""

    bundle: str = setting(
        "bundle whose head model made the coefficients: a name in engines/ or a folder; faces of another head are "
        "refused"
    )
    mesh_region: str = setting("part of the head that the page shows", choices=("face", "head"))
    node: str = setting("name of the ofer_node to look at")
    host: str = setting("address to serve the page on; on any but 127.0.0.1 and ::1, the URL's token is asked for")
    port: int = setting("port of the page; 0: any that is free", 0, 65535)
    rate: float = setting(
        "most meshes and pictures a second that each browser gets; 0: every one", 0.0, 1000.0, unit="Hz"
    )


@dataclass(frozen=True)
class AvatarSettings:
    """Parameters of every node that drives an avatar."""

    bundle: str = setting("bundle whose head model made the coefficients: a name in engines/ or a folder")
    node: str = setting("name of the ofer_node whose faces are sent")
    host: str = setting("where the avatar's program listens")
    port: int = setting("its UDP port", 1, 65535)
    face: str = setting("id of the face to send; '': the largest, and then the same one until it is lost")
    hypothesis: str = setting("which expression is sent: selected, mean, or the number of a hypothesis")


@dataclass(frozen=True)
class VmcSettings(AvatarSettings):
    """Parameters of vmc_node."""


@dataclass(frozen=True)
class LiveLinkSettings(AvatarSettings):
    """Parameters of live_link_node."""

    subject: str = setting("name of the subject in Unreal Engine's Live Link")


# The section of config/ofer.yaml, which is the node's name, and what it declares.
NODES: dict[str, type] = {
    "ofer_node": OferSettings,
    "fleet_node": FleetSettings,
    "identity_server": IdentityServerSettings,
    "mesh_node": MeshSettings,
    "camera_node": CameraSettings,
    "recorder": RecorderSettings,
    "view_node": ViewSettings,
    "vmc_node": VmcSettings,
    "live_link_node": LiveLinkSettings,
}
