"""The stream's clock: by stamps where they advance, by arrivals where they do not; and stderr shared by threads."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest

from ofer_models.perception.mediapipe_graph import quiet_stderr
from ofer_models.tracking.stream_clock import StreamClock


def times(stamps: list[float], arrivals: list[float]) -> list[float]:
    moments = iter(arrivals)
    clock = StreamClock(1.0, lambda: next(moments))
    return [clock(stamp) for stamp in stamps]


@pytest.mark.parametrize(
    ("stamps", "arrivals", "expected"),
    [
        ([3.0, 3.1, 3.5], [0.0, 9.0, 9.1], [3.0, 3.1, 3.5]),  # stamps decide
        ([0.0, 0.0, 0.0], [5.0, 5.1, 5.3], [0.0, 0.1, 0.3]),  # frozen
        ([1.0, 0.9, 0.8], [5.0, 5.1, 5.3], [1.0, 1.1, 1.3]),  # slightly back
        ([1.0, 1.0, 1.1, 1.1], [5.0, 5.05, 5.1, 5.15], [1.0, 1.05, 1.1, 1.15]),  # each twice
        ([1.0, 1.0, 1.01, 1.03], [5.0, 7.0, 7.1, 7.2], [1.0, 3.0, 3.1, 3.12]),  # stood still, then goes on
        ([1.0, 1.0, 4.0], [5.0, 8.0, 8.1], [1.0, 4.0, 4.1]),  # stood still, and then knows it
    ],
)
def test_time_goes_on(stamps, arrivals, expected):
    np.testing.assert_allclose(times(stamps, arrivals), expected)


def test_time_never_stands_still():
    found = times([2.0] * 5 + [1.9] * 5, [7.0] * 5 + [6.0] * 5)
    assert (np.diff(found) > 0).all() and found[-1] == pytest.approx(2.0)


def test_an_old_stamp_is_of_another_stream():
    clock = StreamClock(1.0, lambda: 0.0)
    assert not clock.starts_anew(-1e9)
    clock(100.0)
    assert clock.starts_anew(98.9) and not clock.starts_anew(99.1) and not clock.starts_anew(1e9)
    clock.reset()
    assert clock(3.0) == 3.0
    with pytest.raises(ValueError, match="finite stamp"):
        clock(float("nan"))


def test_stderr_comes_back_when_two_threads_want_it_quiet(capfd):
    inside, go = threading.Barrier(2), threading.Event()

    def first() -> None:
        with quiet_stderr():
            inside.wait(300)
            go.wait(300)

    thread = threading.Thread(target=first)
    thread.start()
    with pytest.raises(RuntimeError), quiet_stderr():
        inside.wait(300)
        os.write(2, b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\nsomebody's log line\n")
        with quiet_stderr():
            os.write(2, b"and another, without end")
        raise RuntimeError
    go.set()
    thread.join()
    assert capfd.readouterr().err == "somebody's log line\nand another, without end"
    os.write(2, b"as ever\n")
    assert capfd.readouterr().err == "as ever\n"
