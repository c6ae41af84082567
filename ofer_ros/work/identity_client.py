"""Heads from an `identity_server`, and what is told where it gives none."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from rclpy.exceptions import NameValidationException
from rclpy.node import Node
from rclpy.validate_full_topic_name import validate_full_topic_name

from ofer_models.bundle.manifest import Bundle
from ofer_models.tracking.identity_ranking import RankedCandidates, RankingRequest
from ofer_msgs.srv import DrawIdentity
from ofer_ros.work.identity_messages import ranked_of, request_message

PATIENCE = 3.0  # s in which the server has to answer
PAUSE = 10.0  # s for which it is not asked again after it did not


class IdentityClient:
    """A `Ranking`: client(request) -> RankedCandidates, or None where the server gives none, at once or after
    `PATIENCE` seconds. Called by the thread that draws identities; everything else by the executor's."""

    def __init__(self, node: Node, server: str, bundle: Bundle, clock: Callable[[], float] = time.monotonic) -> None:
        """server: full name of an identity_server. Raises ValueError for what no node is called."""
        self.server = "/" + server.strip("/")
        self._bundle, self._n_shape = bundle.sha256, bundle.n_shape
        self._log, self._clock = node.get_logger(), clock
        try:
            validate_full_topic_name(service := f"{self.server}/draw", is_service=True)
        except NameValidationException:
            raise ValueError(f"identity_server '{server}' is no name of a node, such as /identity_server") from None
        self._node = node
        self._client = node.create_client(DrawIdentity, service)
        self._lock = threading.Lock()  # held by whoever uses or ends the client
        self._closed = False
        self._answered = threading.Event()
        self._again = -float("inf")  # when it may be asked again
        self._reason = ""  # why it did not the last time
        self._said = ""  # what the log says last about it
        self.draws = self.failures = 0

    def __call__(self, request: RankingRequest) -> RankedCandidates | None:
        """The server's candidates. Never raises."""
        try:
            if (ranked := self._ask(request)) is None:
                return None
        except Exception as error:  # whatever ROS raises: a draw goes on without the server
            self._failed(str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}")
            return None
        self.draws += 1
        if self._said:
            self._log.info(f"identity_server {self.server} answers again")
        self._reason = self._said = ""
        return ranked

    def close(self) -> None:
        """Ask nothing any more, and wait for nothing."""
        with self._lock:
            self._closed = True
            self._answered.set()
            self._node.destroy_client(self._client)

    @property
    def trouble(self) -> str:
        """Why heads are not drawn by the server now, '' where they are."""
        reason = self._reason if self._client.service_is_ready() else "is not there"
        return f"identity_server {self.server}: {reason}; heads are drawn here" if reason else ""

    def status(self) -> dict[str, object]:
        """For diagnostics."""
        counts = {"identity_server_draws": self.draws, "identity_server_failures": self.failures}
        return {"identity_server": self.trouble or f"{self.server} is there", **counts}

    def _ask(self, request: RankingRequest) -> RankedCandidates | None:
        if self._clock() < self._again:
            return None
        message = request_message(request, self._bundle)
        with self._lock:
            if self._closed:
                return None
            if not self._client.service_is_ready():
                self._say("is not there")
                return None
            self._answered.clear()
            future = self._client.call_async(message)
            future.add_done_callback(lambda _: self._answered.set())
        self._answered.wait(PATIENCE)
        with self._lock:
            if self._closed:
                return None
            if not future.done():
                self._client.remove_pending_request(future)
                self._failed(f"did not answer within {PATIENCE:g} s")
                return None
        return ranked_of(future.result(), self._n_shape)

    def _failed(self, reason: str) -> None:
        self.failures += 1
        self._again = self._clock() + PAUSE
        self._reason = reason
        self._say(reason)

    def _say(self, reason: str) -> None:
        """Once, however many draws it holds for."""
        if reason != self._said:
            self._log.warning(f"identity_server {self.server}: {reason}; heads are drawn here meanwhile")
        self._said = reason
