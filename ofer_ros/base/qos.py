"""Quality of service of the topics that carry faces."""

from __future__ import annotations

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
# A reader that falls behind wants the newest mesh or picture, never a queue of old ones.
NEWEST = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
# A second of small messages: a reader that pauses gets them all.
FACES = QoSProfile(depth=30, reliability=ReliabilityPolicy.RELIABLE)
