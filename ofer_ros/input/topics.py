"""The names of a camera's topics, as image_transport makes them."""

from __future__ import annotations

from rclpy.node import Node

RAW = "image_raw"
INFO = "camera_info"


def compressed_topic(node: Node) -> str:
    """Full name of the compressed images beside `image_raw`.

    The base name is resolved first, so that one remapping of `image_raw` moves both topics; a remapping of the
    compressed topic itself still applies where the base keeps its name.
    """
    return f"{node.resolve_topic_name(RAW)}/compressed"


def image_topics(node: Node, transport: str) -> tuple[str, ...]:
    """The image topics, raw first, that the parameter `transport` (auto, raw or compressed) asks for."""
    raw, compressed = (RAW,), (compressed_topic(node),)
    return {"auto": raw + compressed, "raw": raw, "compressed": compressed}[transport]
