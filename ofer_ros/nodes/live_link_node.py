"""live_link_node: a face as Live Link Face's packets, for Unreal Engine and what else listens to that app."""

from __future__ import annotations

import sys

from ofer_models.avatar import live_link
from ofer_models.avatar.performance import Performance
from ofer_ros.base.settings import LiveLinkSettings
from ofer_ros.nodes.avatar_node import AvatarNode
from ofer_ros.nodes.lifecycle import run

NAME = "live_link_node"
DEVICE = "ofer_ros"


class LiveLinkNode(AvatarNode):
    """Sends every frame in which the face is there; a receiver takes silence as its loss."""

    def __init__(self, **kwargs) -> None:
        super().__init__(NAME, LiveLinkSettings, **kwargs)

    def datagram(self, performance: Performance | None) -> bytes | None:
        return None if performance is None else live_link.packet(performance, self.settings.subject, DEVICE)


def main(args: list[str] | None = None) -> int:
    return run(LiveLinkNode, args)


if __name__ == "__main__":
    sys.exit(main())
