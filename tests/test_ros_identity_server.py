"""identity_server: heads drawn in another process, the same ones as here, and drawn here while it is gone."""

from __future__ import annotations

import pytest

pytest.importorskip("ofer_msgs.msg._face", reason="source .venv/ofer_env.sh")

import os
import subprocess
import sys
import threading
from array import array
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
from dataset_support import face_picture
from rclpy.node import Node
from rclpy.parameter import Parameter
from ros_support import RosSession
from test_ros_process import NodeProcess

from ofer_models.runtime.stages import StageSet
from ofer_models.tracking.identity_ranking import CandidateRanker, RankedCandidates, RankingRequest
from ofer_msgs.srv import DrawIdentity, ResetIdentity
from ofer_ros.nodes import identity_server
from ofer_ros.nodes.identity_server import IdentityServer
from ofer_ros.nodes.ofer_node import OferNode
from ofer_ros.work import identity_client
from ofer_ros.work.identity_client import IdentityClient
from ofer_ros.work.identity_messages import answer, ranked_of, request_message, request_of

pytestmark = pytest.mark.ros
DRAW = "/identity_server/draw"


@pytest.fixture(scope="module")
def ranker(open_bundle) -> CandidateRanker:
    return CandidateRanker(StageSet(open_bundle, names=("idgen", "idrank")))


@pytest.fixture(scope="module")
def session(open_bundle):
    with RosSession() as session:
        node = IdentityServer(context=session.context)
        assert node.autostart()
        session.server = session.add(node)
        yield session
        assert not session.escaped


def request(seed: int = 1, views: int = 3, **changes: object) -> RankingRequest:
    rng = np.random.default_rng(seed)
    shares = rng.uniform(0.1, 1, views)
    contexts = rng.standard_normal((views, 256), np.float32)
    return replace(RankingRequest(contexts, shares / shares.sum(), 20, (seed, 2, 3)), **changes)


def assert_equal(found: RankedCandidates, expected: RankedCandidates) -> None:
    np.testing.assert_array_equal(found.betas, expected.betas)
    np.testing.assert_array_equal(found.log_odds, expected.log_odds)
    assert found.incumbent == expected.incumbent


@pytest.mark.parametrize("changes", [
    {}, {"candidates": 1}, {"incumbent": np.linspace(-1, 1, 132, dtype=np.float32)}, {"steps": 4},
])  # fmt: skip
def test_answers_are_those_of_this_process_to_the_bit(open_bundle, ranker, session, changes):
    asked = request(**changes)
    message = session.call(DrawIdentity, DRAW, request_message(asked, open_bundle.sha256))
    ranker.set_steps(asked.steps)
    expected = ranker(asked)
    assert_equal(ranked_of(message, 132), expected)
    assert len(expected.betas) >= asked.candidates and (np.diff(expected.log_odds) <= 0).all()
    ranker.set_steps(None)


def test_what_idrank_takes_beside_contexts_arrives_by_name():
    """As OFER's own IdRank, which looks at pictures."""
    shapes = {"crop224": ("F", 3, 2, 2), "crop112": ("F", 1)}
    taken = SimpleNamespace(inputs=shapes, n_context=256, n_shape=132)
    rng = np.random.default_rng(0)
    inputs = {name: rng.random((3, *shape[1:]), np.float32) for name, shape in reversed(shapes.items())}
    found = request_of(request_message(request(inputs=inputs), "b"), taken, "b")
    assert found.inputs.keys() == inputs.keys()
    for name, values in inputs.items():
        np.testing.assert_array_equal(found.inputs[name], values)
    with pytest.raises(ValueError, match="^0 inputs are given, this bundle's IdRank takes crop112, crop224"):
        request_of(request_message(request(), "b"), taken, "b")


BAD = {
    "another-bundle": ({"bundle": "f" * 64}, "its bundle is .{12}, the request's is ffffffffffff: give both the same"),
    "no-bundle": ({"bundle": ""}, "the request's is without a hash"),
    "no-views": ({"shares": array("d")}, "shares are of 0 views"),
    "many-views": ({"shares": array("d", [1 / 17] * 17)}, "shares are of 17 views"),
    "shares-nan": ({"shares": array("d", [np.nan, 0.5, 0.5])}, "shares has numbers that are not finite"),
    "shares-negative": ({"shares": array("d", [-1, 1, 1])}, "should be positive and sum to 1"),
    "shares-large": ({"shares": array("d", [1, 1, 1])}, "shares of the views sum to 3"),
    "contexts-nan": ({"contexts": array("f", [np.nan] * 768)}, "contexts has numbers that are not finite"),
    "contexts-short": ({"contexts": array("f", [0] * 767)}, "contexts has 767 numbers, should have 3 x 256"),
    "contexts-none": ({"contexts": array("f")}, "contexts has 0 numbers"),
    "contexts-huge": ({"contexts": array("f", [3e38] * 768)}, "heads that are not finite"),
    "incumbent-short": ({"incumbent": array("f", [0] * 131)}, "incumbent has 131 numbers, should have 132"),
    "incumbent-nan": ({"incumbent": array("f", [np.inf] * 132)}, "incumbent has numbers that are not finite"),
    "no-candidates": ({"candidates": 0}, "0 candidates are asked for, should be 1 to 512"),
    "many-candidates": ({"candidates": 513}, "513 candidates"),
    "many-steps": ({"steps": 1001}, "1001 steps"),
    "few-steps": ({"steps": 1}, "steps"),
    "no-seed": ({"seed": array("Q")}, "0 numbers of seed"),
    "unknown-input": ({"inputs": ["crop"]}, "1 inputs are given, this bundle's IdRank takes none"),
    "input-values": ({"input_values": array("f", [0])}, "input_values has 1 numbers, should have 0"),
}


def test_what_cannot_be_answered_is_refused_in_one_line_and_nothing_else_is_lost(open_bundle, ranker, session):
    for name, (changes, told) in BAD.items():
        message = request_message(request(), open_bundle.sha256)
        for field, value in changes.items():
            setattr(message, field, value)
        found = session.call(DrawIdentity, DRAW, message)
        assert not found.success and not found.betas and "\n" not in found.message, name
        with pytest.raises(ValueError, match=told):
            ranked_of(found, 132)
    found = session.call(DrawIdentity, DRAW, request_message(request(), open_bundle.sha256))
    assert_equal(ranked_of(found, 132), ranker(request()))


@pytest.mark.parametrize("changes", [
    {"betas": array("f", [0] * 131)}, {"betas": array("f", [np.nan] * 132)}, {"log_odds": array("d")},
    {"log_odds": array("d", [np.inf])},
])  # fmt: skip
def test_an_answer_that_is_none_is_refused(changes):
    ranked = RankedCandidates(np.zeros((1, 132), np.float32), np.zeros(1))
    message = answer(DrawIdentity.Response(), ranked)
    assert_equal(ranked_of(message, 132), ranked)
    for field, value in changes.items():
        setattr(message, field, value)
    with pytest.raises(ValueError, match="betas|log_odds|candidates"):
        ranked_of(message, 132)


def test_two_clients_at_once_get_their_own_heads(open_bundle, ranker, session):
    clients = [IdentityClient(session.client, "identity_server", open_bundle) for _ in range(2)]
    session.wait_for(lambda: all(not client.trouble for client in clients))
    found: dict[int, RankedCandidates] = {}

    def ask(first: int) -> None:
        for seed in range(first, 10, 2):
            found[seed] = clients[first](request(seed))

    threads = [threading.Thread(target=ask, args=(first,)) for first in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(10):
        assert_equal(found[seed], ranker(request(seed)))
    assert [(client.draws, client.failures) for client in clients] == [(5, 0)] * 2
    for client in clients:
        client.close()


def test_a_server_is_there_while_it_is_active(open_bundle, session):
    client = IdentityClient(session.client, "/identity_server", open_bundle)
    session.wait_for(lambda: not client.trouble)
    assert client(request()) is not None
    session.server.trigger_deactivate()
    session.wait_for(lambda: "is not there" in client.trouble)
    assert client(request()) is None and client.failures == 0
    session.server.trigger_cleanup()
    assert session.server.autostart()
    session.wait_for(lambda: not client.trouble)
    assert client(request()) is not None
    client.close()
    assert client(request()) is None


class Log:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.warning = self.info = self.lines.append


def test_a_server_that_does_not_answer_is_left_alone_for_a_while_and_told_of_once(open_bundle, monkeypatch):
    monkeypatch.setattr(identity_client, "PATIENCE", 0.05)
    with RosSession() as session:
        deaf = Node("deaf", context=session.context)  # on no executor: it takes requests and answers none
        service = deaf.create_service(DrawIdentity, "/deaf/draw", lambda request, response: response)
        now, log = [0.0], Log()
        monkeypatch.setattr(session.client, "get_logger", lambda: log)
        client = IdentityClient(session.client, "/deaf", open_bundle, clock=lambda: now[0])
        session.wait_for(lambda: not client.trouble)
        assert client(request()) is None and client.failures == 1
        for now[0] in (1.0, identity_client.PAUSE - 0.1):
            assert client(request()) is None and client.failures == 1  # not asked
        now[0] = identity_client.PAUSE
        assert client(request()) is None and client.failures == 2
        assert log.lines == ["identity_server /deaf: did not answer within 0.05 s; heads are drawn here meanwhile"]
        assert client.status() == {
            "identity_server": "identity_server /deaf: did not answer within 0.05 s; heads are drawn here",
            "identity_server_draws": 0, "identity_server_failures": 2,
        }  # fmt: skip
        monkeypatch.setattr(identity_client, "PATIENCE", 600.0)
        session.executor.add_node(deaf)
        service.callback = lambda request, response: answer(
            response, RankedCandidates(np.zeros((1, 132), np.float32), np.zeros(1))
        )
        now[0] = 3 * identity_client.PAUSE
        assert client(request()) is not None
        assert log.lines[1:] == ["identity_server /deaf answers again"] and not client.trouble
        session.executor.remove_node(deaf)
        waiting = threading.Thread(target=client, args=(request(),))
        waiting.start()
        client.close()  # long before its patience ends
        waiting.join(60)
        assert not waiting.is_alive()
        deaf.destroy_node()


@pytest.mark.parametrize(("parameters", "told"), [
    ({"identity_server": "no name"}, "identity_server 'no name' is no name of a node"),
    ({"identity_server": "/x", "identity_in_background": False}, "identity_server needs identity_in_background"),
])  # fmt: skip
def test_a_node_that_cannot_ask_says_so_in_one_line(open_bundle, parameters, told, capfd):
    with RosSession() as session:
        overrides = [Parameter(name, value=value) for name, value in parameters.items()]
        node = OferNode(context=session.context, parameter_overrides=overrides)
        assert not node.autostart() and node.state == "unconfigured"
        node.destroy_node()
    assert f"cannot configure: {told}" in capfd.readouterr().err


def serve(node: NodeProcess, log: Path) -> subprocess.Popen:
    with log.open("a") as output:
        return subprocess.Popen(
            [sys.executable, "-m", identity_server.__name__, "--ros-args", "-r", "__ns:=/gpu"],
            env={**os.environ, "ROS_DOMAIN_ID": str(node.domain)}, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip


def test_a_server_is_killed_and_comes_back_and_frames_go_on(open_bundle, tmp_path):
    """Three processes; every draw that is asked for is done, by the server or here."""
    photo = cv2.cvtColor(face_picture(), cv2.COLOR_BGR2RGB)
    patient = {"autostart": "true", "max_frame_age": 3600.0, "latency_bound": 0.0}
    with NodeProcess(tmp_path / "log", identity_server="/gpu/identity_server", **patient) as node:
        server = serve(node, tmp_path / "server")
        try:
            node.active()

            def again() -> None:
                """Have the head drawn anew."""
                node.call(ResetIdentity, "/ofer_node/reset_identity", ResetIdentity.Request())
                node.answer(photo)

            def counts(status) -> dict[str, str]:
                return {value.key: value.value for value in status.values}

            def drawn(status) -> bool:
                return int(counts(status)["identity_server_draws"]) > before

            before = 0
            node.status(drawn, again)
            server.kill()
            server.wait()
            revision = node.answer(photo).faces[0].identity_revision
            status = node.status(lambda one: "heads are drawn here" in one.message, again)
            assert counts(status)["identity_server"] == status.message
            node.wait_for(lambda: again() or node.answer(photo).faces[0].identity_revision > revision)
            before = int(counts(status)["identity_server_draws"])
            server = serve(node, tmp_path / "server")
            node.status(lambda one: drawn(one) and "is there" in counts(one)["identity_server"], again)
            assert counts(status)["identity_failures"] == "0"
            told = [line.rpartition("]: ")[2] for line in node.log_lines("identity_server /gpu/identity_server")]
            assert any("heads are drawn here meanwhile" in line for line in told)
            assert all(one != other for one, other in pairwise(told)), "however many draws it holds for"
            assert node.end() == 0 and not node.log_lines("Traceback")
            server.terminate()
            assert server.wait(60) == 0 and "Traceback" not in (tmp_path / "server").read_text()
        finally:
            server.kill()
            server.wait()
