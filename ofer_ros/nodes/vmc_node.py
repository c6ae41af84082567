"""vmc_node: a face as an avatar's weights and bones over the VMC protocol (OSC): VSeeFace, Warudo, Unity, Blender."""

from __future__ import annotations

import sys
import time

from ofer_models.avatar.performance import Performance
from ofer_ros.base.settings import VmcSettings
from ofer_ros.nodes.avatar_node import AvatarNode
from ofer_ros.nodes.lifecycle import run

NAME = "vmc_node"


class VmcNode(AvatarNode):
    """Sends every frame. While the face is lost, the last weights go on with the tracking status 0."""

    def __init__(self, **kwargs) -> None:
        """Raises as `AvatarNode`, and ValueError where python-osc is not installed."""
        try:
            from ofer_models.avatar import vmc
        except ModuleNotFoundError:
            raise ValueError(f"{NAME} needs python-osc: pip install python-osc") from None
        self._packet = vmc.packet
        self._started = time.monotonic()
        self._last: Performance | None = None
        super().__init__(NAME, VmcSettings, **kwargs)

    def datagram(self, performance: Performance | None) -> bytes | None:
        if performance is not None:
            self._last = performance
        if self._last is None:
            return None
        return self._packet(self._last, time.monotonic() - self._started, performance is not None)


def main(args: list[str] | None = None) -> int:
    return run(VmcNode, args)


if __name__ == "__main__":
    sys.exit(main())
