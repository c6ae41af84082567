"""A lifecycle node that survives what rclpy's does not, and the loop that spins it.

In rclpy 7.1 an exception in a transition disappears without a word, and a request for a transition that the present
state does not have raises out of `spin`, which ends the process.
"""

from __future__ import annotations

import re
import sys
import traceback
from abc import abstractmethod
from collections.abc import Callable
from functools import wraps

import rclpy
from lifecycle_msgs.srv import ChangeState
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.signals import SignalHandlerOptions

from ofer_ros.base.signals import ignore, note_in

try:
    from rclpy.event_handler import PublisherEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import PublisherEventCallbacks

Transition = Callable[[LifecycleNode, object], TransitionCallbackReturn]


def guarded(transition: Transition) -> Transition:
    """Wrap an on_* callback: an exception is logged with its traceback.

    A step forward (configure, activate) that raises has failed and leaves the state as it was; a step back that raises
    is an error, which on_error answers by letting go of everything.
    """
    forward = transition.__name__ in ("on_configure", "on_activate")

    @wraps(transition)
    def call(node: LifecycleNode, state: object) -> TransitionCallbackReturn:
        try:
            return transition(node, state)
        except Exception:
            node.get_logger().error(f"{transition.__name__} raised:\n{traceback.format_exc()}")
            return TransitionCallbackReturn.FAILURE if forward else TransitionCallbackReturn.ERROR

    return call


class ManagedNode(LifecycleNode):
    """LifecycleNode that answers an impossible transition request with success = False.

    Its publishers do without rclpy's warnings of a QoS or type that does not fit, which are two more things a topic
    that its executor asks at every wake-up: whoever listens to a topic is told by their own node. What it subscribes
    to it does warn of.
    """

    def __init__(self, name: str, **kwargs) -> None:
        super().__init__(name, **kwargs)
        service = next(service for service in self.services if service.srv_type is ChangeState)
        service.callback = self._answering(service.callback)

    def create_publisher(self, *arguments, **named) -> Publisher:
        silent = PublisherEventCallbacks(use_default_callbacks=False)
        return super().create_publisher(*arguments, **{"event_callbacks": silent} | named)

    @property
    def state(self) -> str:
        """'unconfigured', 'inactive', 'active' or 'finalized' (or the transition under way)."""
        return self._state_machine.current_state[1]

    def _answering(self, callback: Callable) -> Callable:
        def answer(request: ChangeState.Request, response: ChangeState.Response) -> ChangeState.Response:
            before = self.state
            try:
                return callback(request, response)
            except Exception:
                wanted = request.transition.label or request.transition.id
                self.get_logger().warning(f"transition '{wanted}' is not possible in state '{before}': nothing changed")
                response.success = False
                return response

        return answer

    def autostart(self) -> bool:
        """configure and activate; False where either failed (the node stays, a manager may try again)."""
        return all(
            step() == TransitionCallbackReturn.SUCCESS for step in (self.trigger_configure, self.trigger_activate)
        )


def start(node: ManagedNode) -> None:
    """For `run`: configure and activate the node where its parameter `autostart` says so; one line where it fails."""
    if node.settings.autostart and not node.autostart():
        node.get_logger().error("autostart failed; mend the cause, then: ros2 lifecycle set <node> configure")


class LoadingNode(ManagedNode):
    """A node that loads something when it is configured, `_release`s it when it is cleaned up, and works between
    activate and `_stop`. After a step back that failed half-way it is unconfigured, and can be used again."""

    @guarded
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._stop()
        return TransitionCallbackReturn.SUCCESS

    @guarded
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._release()
        return TransitionCallbackReturn.SUCCESS

    @guarded
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.close()
        return TransitionCallbackReturn.SUCCESS

    @guarded
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.close()
        return TransitionCallbackReturn.SUCCESS

    def close(self) -> None:
        """Stop working and let go of everything; may be called in any state and again."""
        try:
            self._stop()
        finally:
            self._release()

    @abstractmethod
    def _stop(self) -> None:
        """Stop working; nothing where it does not."""

    @abstractmethod
    def _release(self) -> None:
        """Let go of what was loaded; nothing where there is nothing."""


def run(make: Callable[[], Node], args: list[str] | None = None, started: Callable[[Node], None] | None = None) -> int:
    """Start ROS, make the node, call `started(node)`, spin until SIGINT or SIGTERM; returns the exit status.

    What a user can mend (arguments, environment, a parameter, a file) is one line on stderr and status 1. An exception
    in a callback is logged and spinning goes on. A node may have `close()`, `finished`, which ends the loop,
    and `spun`: itself and other nodes of this process.
    Signals are ignored afterwards: the process is about to end.
    """
    stopping: list[int] = []
    note_in(stopping)
    try:
        return _run(make, args, started, stopping)
    finally:
        ignore()


def _run(
    make: Callable[[], Node], args: list[str] | None, started: Callable[[Node], None] | None, stopping: list[int]
) -> int:
    try:
        # rclpy's own handlers end the context at once, and then a closing node can no longer take its markers away.
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    except Exception as error:  # arguments and environment; rclpy has no public name for what it raises
        unknown = "ROS does not know the arguments " * (type(error).__name__ == "UnknownROSArgsError")
        print(f"error: {unknown}{_without_places(error)}", file=sys.stderr)
        return 1
    try:
        node = make()
    except (ParameterException, ValueError, OSError) as error:  # what a user can mend: one line, no traceback
        print(f"error: {error}", file=sys.stderr)
        rclpy.try_shutdown()
        return 1
    executor = SingleThreadedExecutor()
    for one in getattr(node, "spun", [node]):
        executor.add_node(one)
    try:
        if started is not None:
            started(node)
        while rclpy.ok() and not stopping and not getattr(node, "finished", False):
            try:
                executor.spin_once(timeout_sec=0.2)
            except ExternalShutdownException:
                break
            except Exception:
                node.get_logger().error(f"a callback raised:\n{traceback.format_exc()}")
    finally:
        close = getattr(node, "close", None)
        if close is not None:
            close()
        for one in getattr(node, "spun", [node]):
            executor.remove_node(one)
            one.destroy_node()
        rclpy.try_shutdown()
    return 0


def _without_places(error: Exception) -> str:
    """What rcl says in one line, without the places in its source, and what to do where it does not tell."""
    text = re.sub(r", at [\w/.-]+:\d+", "", " ".join(str(error).split()))
    return text + ("; set ROS_LOG_DIR to a folder that can be written" if "log directory" in text else "")
