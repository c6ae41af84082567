"""The node's /diagnostics: one status a second, with a level, a reason and numbers."""

from __future__ import annotations

from collections.abc import Mapping

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.time import Time

from ofer_models.runtime.memory import resident_megabytes
from ofer_ros.base.statistics import FrameStatistics

RECENT = 3.0  # seconds a problem stays in the status
OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


def frame_values(statistics: FrameStatistics) -> dict[str, object]:
    """Counters, rate, latency and stage times of a frame stream by diagnostics key."""
    values: dict[str, object] = {
        "frames_in": statistics.received,
        "frames_lost": statistics.lost,
        "frames_processed": statistics.processed,
        "frames_dropped": statistics.dropped,
        "bad_images": statistics.bad_images,
        "failures": statistics.failures,
        "faces": statistics.faces,
        "frames_undrawn": statistics.undrawn,
        "fps": f"{statistics.rate():.1f}",
        "memory_mb": f"{resident_megabytes():.1f}",
    }
    values |= {f"latency_{name}_ms": f"{value:.1f}" for name, value in statistics.latency_ms().items()}
    values |= {f"stage/{name}_ms": f"{value:.2f}" for name, value in statistics.stages_ms().items()}
    return values


def diagnostics_message(
    name: str, hardware_id: str, level: bytes, text: str, values: Mapping[str, object], stamp: Time
) -> DiagnosticArray:
    """DiagnosticArray with one status. hardware_id: what does the work (bundle name and version)."""
    message = DiagnosticArray()
    message.header.stamp = stamp.to_msg()
    message.status = [
        DiagnosticStatus(
            level=level,
            name=name,
            message=text,
            hardware_id=hardware_id,
            values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
        )
    ]
    return message


def values_of(message: DiagnosticArray, name: str) -> dict[str, str] | None:
    """Key-values of the status called `name`, or None when the message does not hold it."""
    for status in message.status:
        if status.name == name:
            return {item.key: item.value for item in status.values}
    return None
