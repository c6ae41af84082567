"""Ctrl-C and SIGTERM of a program, from its first import to the end of its interpreter.

A launch system signals twice, and at any moment: while Python still imports (a KeyboardInterrupt and a traceback), and
while it already ends and has given its handlers back (killed by the signal). Neither is a crash.
"""

from __future__ import annotations

import os
import signal

ENDING = (signal.SIGINT, signal.SIGTERM)


def end_at_once() -> None:
    """Until something else is asked for, a signal ends this process with status 0: nothing has begun that must end."""
    for number in ENDING:
        signal.signal(number, lambda *_: os._exit(0))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)  # a starter may have them wait for this


def note_in(received: list[int]) -> None:
    """From now on signals are only written down."""
    for number in ENDING:
        signal.signal(number, lambda number, _: received.append(number))


def ignore() -> None:
    """The process ends by itself: signals change nothing any more. Python keeps this one even while it goes down."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)


def restore() -> None:
    """As the system has it, for a program that takes this one's place."""
    for number in ENDING:
        signal.signal(number, signal.SIG_DFL)
