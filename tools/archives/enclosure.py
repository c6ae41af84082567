"""Processes by themselves: a network that has a loopback and nothing else, and an end that nothing outlives.

Ray's servers listen on every interface once a second node may join, and `ray start` leaves daemons behind. Linux
namespaces hold both: in one of network the only interface is the loopback, and when the first process of one of
processes ends, the kernel ends all others.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import struct
import sys

_INSIDE = "OFER_ENCLOSED"
_SET_FLAGS, _UP_AND_RUNNING = 0x8914, 0x41  # SIOCSIFFLAGS; IFF_UP | IFF_RUNNING, netdevice(7)


def enclose(module: str) -> None:
    """Begin `python -m module` again with the same arguments within namespaces of its own; returns there.

    Needs `unshare` (util-linux), and root or namespaces for users. Raises SystemExit without it.
    """
    if _INSIDE in os.environ:
        _loopback_up()
        return
    unshare = shutil.which("unshare")
    if unshare is None:
        raise SystemExit("this needs Linux and its `unshare`: apt-get install util-linux")
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    apart = ["--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    os.environ[_INSIDE] = "1"
    sys.stdout.flush()
    os.execv(unshare, [unshare, *user, *apart, sys.executable, "-m", module, *sys.argv[1:]])


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sh14x", b"lo", _UP_AND_RUNNING))
