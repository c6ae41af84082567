"""The view without RViz: its packets, its server, its node, and the page itself in a headless Chromium."""

from __future__ import annotations

import pytest

from ofer_ros.base.qos import LATCHED

pytest.importorskip("ofer_msgs.msg._face", reason="source .venv/ofer_env.sh")
pytest.importorskip("aiohttp", reason="pip install aiohttp")

import asyncio
import http.client
import json
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import cv2
import numpy as np
from browser import Browser, chromium
from rclpy.parameter import Parameter
from ros_support import LIMIT, FakePipeline, NodeHarness, RosSession, fake_face, image_message, synthetic_head
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header

import ofer_ros.web
from ofer_msgs.msg import FaceArray
from ofer_msgs.msg import HeadModel as HeadModelMessage
from ofer_ros.base.geometry import pose_arrays
from ofer_ros.demo import view
from ofer_ros.nodes import view_node as view_node_module
from ofer_ros.nodes.view_node import ViewNode
from ofer_ros.output.face_meshes import MeshDecoder
from ofer_ros.output.messages import face_array_message
from ofer_ros.web import server as server_module
from ofer_ros.web.packets import STEP, FacePackets, pack
from ofer_ros.web.server import ViewServer

pytestmark = pytest.mark.ros
ROOT = Path(__file__).resolve().parents[1]


def unpack(packet: bytes) -> dict:
    """A packet as the page reads it."""
    (length,) = struct.unpack_from("<I", packet)
    head = json.loads(packet[4 : 4 + length])
    assert (4 + length) % 8 == 0, "a Float32Array or Uint32Array must begin at a multiple of its elements' size"
    for name, place in head["arrays"].items():
        assert place["offset"] % 8 == 0
        count = int(np.prod(place["shape"]))
        values = np.frombuffer(packet, place["type"], count, 4 + length + place["offset"])
        head["arrays"][name] = values.reshape(place["shape"])
    return head


def faces_message(*tracks: str):
    faces = [fake_face(track, seed=index) for index, track in enumerate(tracks)]
    return face_array_message(faces, Header(stamp=image_message(stamp=2.5).header.stamp, frame_id="cam"), (480, 640))


def test_packets_come_back_whole():
    arrays = {"a": np.arange(7, dtype=np.int16).reshape(7, 1), "b": np.array([0.5], np.float32)}
    packet = unpack(pack("what", {"text": "grün", "none": None}, arrays))
    assert (packet["kind"], packet["text"], packet["none"]) == ("what", "grün", None)
    for name, array in arrays.items():
        np.testing.assert_array_equal(packet["arrays"][name], array)
        assert packet["arrays"][name].dtype == array.dtype


def test_the_page_gets_the_meshes_of_the_one_decoder():
    decoder = MeshDecoder(synthetic_head(), "face")
    packets = FacePackets(decoder)
    message = faces_message("f1", "f2")
    packet = unpack(packets.faces(message, "f2"))
    face = message.faces[1]
    assert (packet["faces"], packet["face"]["id"], packet["stamp"]) == (["f1", "f2"], "f2", 2.5)
    rotation, translation = pose_arrays(face.pose)
    template = decoder.head.v_template[decoder.vertex_indices]
    middle = (template.min(axis=0) + template.max(axis=0)) / 2
    meshes = packet["arrays"]["meshes"] * STEP + middle
    assert meshes.shape == (16, len(decoder.vertex_indices), 3)
    for row, mesh in zip([None, *range(15)], meshes, strict=True):
        np.testing.assert_allclose(mesh @ rotation.T + translation, decoder.vertices(face, row), atol=STEP)
    weights = np.array(face.scores)[:, None, None]
    mean = (weights * meshes[1:]).sum(axis=0)
    apart = np.sqrt((weights[..., 0] * ((meshes[1:] - mean) ** 2).sum(axis=-1)).sum(axis=0))
    np.testing.assert_allclose(packet["arrays"]["spread"] * STEP, apart, atol=2 * STEP)
    assert apart.max() > 100 * STEP
    shown = packet["arrays"]["expressions"], packet["arrays"]["jaws"]
    assert [array.shape for array in shown] == [(16, decoder.head.n_expression), (16, 3)]
    np.testing.assert_array_equal(shown[0][0], np.float32(face.expression))
    head = unpack(packets.head(["smile"], "open 1"))
    np.testing.assert_array_equal(head["arrays"]["triangles"], decoder.triangles)


def test_the_spread_of_one_hypothesis_is_left_out_not_zero():
    packets = FacePackets(MeshDecoder(synthetic_head(), "face"))
    message = face_array_message([fake_face(hypotheses=1)], Header(), (48, 64))
    packet = unpack(packets.faces(message, "f1"))
    assert "spread" not in packet["arrays"] and len(packet["arrays"]["meshes"]) == 2


def test_the_first_face_where_the_watched_one_is_gone_and_none_where_there_is_none():
    packets = FacePackets(MeshDecoder(synthetic_head(), "face"))
    assert unpack(packets.faces(faces_message("f3", "f4"), "f1"))["face"]["id"] == "f3"
    empty = unpack(packets.faces(faces_message(), "f1"))
    assert empty["faces"] == [] and "face" not in empty
    message = faces_message("f1")
    message.faces[0].landmark_error = float("nan")
    assert unpack(packets.faces(message, ""))["face"]["landmark_error"] is None, "JSON has no nan"
    message.faces[0].pose.position.x = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        packets.faces(message, "")


@contextmanager
def serving(host: str = "127.0.0.1", port: int = 0) -> Iterator[ViewServer]:
    server = ViewServer(host, port)
    server.start()
    try:
        yield server
    finally:
        server.stop()


async def first(socket_, *kinds: str) -> dict[str, dict]:
    """The first packet of each kind."""
    found: dict[str, dict] = {}
    while not set(kinds) <= set(found):
        packet = unpack((await socket_.receive(timeout=LIMIT)).data)
        found.setdefault(packet["kind"], packet)
    return found


def test_the_server_gives_its_page_to_itself_alone():
    with serving() as server:
        port = int(server.url.rpartition(":")[2])

        def ask(path: str, **headers: str) -> tuple[int, str]:
            connection = http.client.HTTPConnection("127.0.0.1", port)  # it leaves paths as they are
            connection.request("GET", path, headers={"Host": f"127.0.0.1:{port}"} | headers)
            answer = connection.getresponse()
            connection.close()
            return answer.status, answer.headers["Content-Type"]

        assert ask("/") == (200, "text/html; charset=utf-8")
        for file in view_files():
            assert ask(f"/{file}")[0] == 200
        for path in ("/nothing.js", "/..", "/../parameters.py", "/%2e%2e/parameters.py", "/view.py"):
            assert ask(path)[0] == 404
        # A name of somebody else's that was pointed at this machine, and another site's script.
        assert ask("/", Host=f"evil.example:{port}")[0] == 404
        assert ask("/stream", Origin="http://evil.example")[0] == 403
        assert ask("/", Host=f"localhost:{port}")[0] == 200


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: [\r\n\r\n", 404),
        (b"GET /stream HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://[\r\n\r\n", 403),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + 20_000 * b"a" + b"\r\n\r\n", 400),
        (b"\x16\x03\x01 what is no HTTP\r\n\r\n", 400),
    ],
)
def test_what_makes_no_sense_is_refused_and_not_logged(caplog, capfd, request_text, status):
    with serving() as server, socket.create_connection(("127.0.0.1", urlsplit(server.url).port), LIMIT) as sender:
        sender.sendall(request_text)
        assert int(sender.recv(100).split()[1]) == status
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert not capfd.readouterr().err, "nor does a connection that is open at the end say anything"


def test_a_token_that_is_no_text_is_a_wrong_one(monkeypatch):
    monkeypatch.setattr(server_module, "is_local", lambda host: False)
    with serving() as server, socket.create_connection(("127.0.0.1", urlsplit(server.url).port), LIMIT) as sender:
        cookie = server._cookie.encode() + b"=\xff\xfe"
        sender.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: " + cookie + b"\r\n\r\n")
        assert int(sender.recv(100).split()[1]) == 404


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_every_name_of_this_machine_is_guarded(host):
    with serving(host) as server:
        assert server.url.startswith(f"http://[{host}]:" if ":" in host else f"http://{host}:")
        address = urlsplit(server.url)
        for asked, status in ((address.netloc, 200), (f"[::1]:{address.port}", 200), ("evil.example", 404)):
            request = urllib.request.Request(server.url, headers={"Host": asked})
            try:
                with urllib.request.urlopen(request, timeout=LIMIT) as answer:
                    assert answer.status == status
            except urllib.error.HTTPError as refused:
                assert refused.code == status


def test_others_need_the_token(monkeypatch):
    monkeypatch.setattr(server_module, "is_local", lambda host: False)  # as on 0.0.0.0, which a test must not serve on
    with serving() as server:
        url = urlsplit(server.url)
        here = f"http://127.0.0.1:{url.port}"
        for path in ("/", "/?token=guess", "/stream"):
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(here + path, timeout=LIMIT)
            assert refused.value.code in (403, 404)

        async def look() -> dict[str, dict]:
            server.send("head", pack("head", {"mark": 1}), keep=True)
            async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as browser:
                async with browser.get(f"{here}/?{url.query}") as page:
                    assert page.status == 200
                async with browser.ws_connect(f"{here}/stream") as stream:  # with the page's cookie
                    return await first(stream, "head")

        assert asyncio.run(look())["head"]["mark"] == 1


@pytest.mark.parametrize("host", ["no host", "x" * 70, "203.0.113.7"], ids=["space", "long", "elsewhere"])
def test_a_bad_host_is_said_and_does_not_hang(host):
    server = ViewServer(host, 0)
    with pytest.raises(OSError, match="no page at"):
        server.start()
    server.stop()


def test_a_server_whose_loop_is_closed_and_whose_thread_still_ends_may_be_stopped(monkeypatch):
    server, ended = ViewServer("203.0.113.7", 0), threading.Event()
    close = server._loop.close

    def close_and_linger() -> None:
        close()
        ended.wait(2 * LIMIT)

    monkeypatch.setattr(server._loop, "close", close_and_linger)
    monkeypatch.setattr("ofer_ros.web.server._STOP_LIMIT", 0.01)
    with pytest.raises(OSError, match="no page at"):
        server.start()
    while not server._loop.is_closed():
        time.sleep(0.001)
    server.stop()
    server.send("head", b"")
    assert server._thread.is_alive()
    ended.set()
    server._thread.join()


def test_what_a_browser_may_ask_is_little():
    deep = '{"watch":' + "[" * 500 + "]" * 500 + "}"

    async def ask(url: str) -> None:
        async with aiohttp.ClientSession() as session:
            async with session.ws_connect(f"{url}/stream") as patient, session.ws_connect(f"{url}/stream") as loud:
                for text in (deep, "[" * 1000, "no json", '{"watch": 5}', '{"watch": {"a": 1}}'):
                    await loud.send_str(text)
                await loud.send_str('{"watch": "abcde"}')
                while server.watched() != {"", "abcde"}:
                    await asyncio.sleep(0.01)
                await loud.send_str('{"watch": "' + 2000 * "x" + '"}')
                assert (await loud.receive(timeout=LIMIT)).type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)
                while server.watched() != {""}:
                    await asyncio.sleep(0.01)
                server.send("head", pack("head", {}))
                assert (await patient.receive(timeout=LIMIT)).type == aiohttp.WSMsgType.BINARY
                others = [await session.ws_connect(f"{url}/stream") for _ in range(15)]
                with pytest.raises(aiohttp.WSServerHandshakeError, match="503"):
                    await session.ws_connect(f"{url}/stream")
                for other in others:
                    await other.close()

    with serving() as server:
        asyncio.run(ask(server.url))


def view_files() -> list[str]:
    return [file.name for file in (ROOT / "ofer_ros" / "web" / "page").iterdir()]


def test_nothing_on_the_page_comes_from_elsewhere():
    for file in (ROOT / "ofer_ros" / "web" / "page").iterdir():
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text.replace("ws://${location.host}", "") and "https://" not in text, file.name


def test_who_comes_late_gets_what_is_kept_and_who_is_slow_only_the_newest():
    async def look(server: ViewServer) -> None:
        async with aiohttp.ClientSession() as session, session.ws_connect(f"{server.url}/stream") as late:
            assert (await first(late, "head"))["head"]["number"] == 1
            await late.send_json({"watch": "f2"})
            while server.watched() != {"f2"}:
                await asyncio.sleep(0.01)
            # While this coroutine holds the thread the server's goes on: nothing is read in between.
            for number in range(2000):
                server.send("faces", pack("faces", {"number": number}, {"bulk": np.zeros(100_000, np.uint8)}), "f2")
                server.send("faces", pack("faces", {"number": -1}), "f1")
            numbers = []
            while not numbers or numbers[-1] != 1999:
                numbers.append((await first(late, "faces"))["faces"]["number"])
            assert numbers == sorted(numbers) and len(numbers) < 1000
            await late.send_str("nonsense")
            while server.watched() != {""}:
                await asyncio.sleep(0.01)

    with serving() as server:
        server.send("head", pack("head", {"number": 0}), keep=True)
        server.send("head", pack("head", {"number": 1}), keep=True)
        server.send("faces", pack("faces", {"number": -2}))
        asyncio.run(look(server))


def test_a_taken_port_and_a_second_end():
    with serving() as server:
        port = int(server.url.rpartition(":")[2])
        with pytest.raises(OSError, match=r"no page at 127.0.0.1:\d+ .*port:=8081"):
            ViewServer("127.0.0.1", port).start()
    server.stop()
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))


OVERLAY = "/ofer_node/overlay/compressed"


def view_node(harness: RosSession, head=None, **parameters) -> ViewNode:
    overrides = [Parameter(name, value=value) for name, value in ({"port": 0} | parameters).items()]
    return harness.add(ViewNode(head or synthetic_head(), context=harness.context, parameter_overrides=overrides))


@pytest.fixture
def patient(monkeypatch):
    """On a busy machine an overlay comes late: faces wait for it."""
    monkeypatch.setattr(view_node_module, "_OVERLAY_WAIT", 1e6)


def test_a_picture_that_comes_late_is_shown_after_its_faces(monkeypatch):
    """On a slow machine every overlay is later than the page waits for one."""
    monkeypatch.setattr(view_node_module, "_OVERLAY_WAIT", 0.0)

    async def look(harness: NodeHarness, url: str) -> None:
        async with aiohttp.ClientSession() as session, session.ws_connect(f"{url}/stream") as browser:
            await asyncio.to_thread(harness.wait_for, lambda: harness.node.count_subscribers(OVERLAY) == 1)
            with sending(harness):
                for shown in (False, True, False):
                    while ("jpeg" in (await first(browser, "faces"))["faces"]["arrays"]) != shown:
                        pass

    with NodeHarness() as harness:
        asyncio.run(look(harness, view_node(harness, harness.pipeline.head).url))


def test_the_node_listens_while_a_browser_looks(patient):
    async def look(harness: NodeHarness, url: str) -> dict[str, dict]:
        async with aiohttp.ClientSession() as session, session.ws_connect(f"{url}/stream") as browser:
            await asyncio.to_thread(harness.wait_for, lambda: listening(harness) == (1, 1))
            stop = asyncio.Event()

            async def send() -> None:
                while not stop.is_set():
                    harness.send(image_message(stamp=time.time()))
                    await asyncio.sleep(0.05)

            sending = asyncio.create_task(send())
            found = await first(browser, "head", "state", "faces", "diagnostics")
            while "jpeg" not in found["faces"]["arrays"]:  # at first the overlay may not be connected yet
                found |= await first(browser, "faces")
            stop.set()
            await sending
            return found

    def listening(harness: NodeHarness) -> tuple[int, int]:
        # The harness itself listens to faces.
        return harness.node.count_subscribers("/ofer_node/faces") - 1, harness.node.count_subscribers(OVERLAY)

    with NodeHarness() as harness:
        node = view_node(harness, harness.pipeline.head)
        harness.wait_for(lambda: harness.node.count_subscribers("/ofer_node/head_info") == 1)
        assert listening(harness) == (0, 0), "nobody looks yet"
        found = asyncio.run(look(harness, node.url))
        assert found["faces"]["face"]["id"] == "f1"
        assert found["faces"]["arrays"]["jpeg"][:2].tobytes() == b"\xff\xd8"
        assert float(found["diagnostics"]["values"]["fps"]) >= 0
        assert found["state"]["node"] == "/ofer_node"
        harness.wait_for(lambda: listening(harness) == (0, 0))
        assert harness.escaped == []


def test_an_overlay_that_is_no_jpeg_is_said_and_not_passed_on(capfd):
    with NodeHarness() as harness:
        node = view_node(harness, harness.pipeline.head)
        for number, data in enumerate((b"\x89PNG\r\n", b"", b"\xff\xd8\xff\xe0")):
            node._faces[0] = FaceArray()
            node._overlay_arrived = float("-inf")  # none for long: this one is shown at once
            node._on_overlay(CompressedImage(format=f"png {number}", data=data))
            assert not node._faces
            assert (f"overlay: no JPEG, format 'png {number}'" in capfd.readouterr().err) == (number < 2)

    async def look(url: str) -> str:
        async with aiohttp.ClientSession() as session, session.ws_connect(f"{url}/stream") as browser:
            while True:
                problem = (await first(browser, "state"))["state"]["problem"]
                if problem:
                    return problem

    with RosSession() as session:
        node = view_node(session)
        models = session.client.create_publisher(HeadModelMessage, "/ofer_node/head_info", LATCHED)
        models.publish(HeadModelMessage(bundle="mine", head_sha256="1" * 64))
        assert "bundle 'mine'" in asyncio.run(look(node.url))


def pixels(png: bytes) -> np.ndarray:
    """RGB picture (H, W, 3) of a PNG."""
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)[..., ::-1].astype(int)


def in_box(browser: Browser, picture: np.ndarray, selector: str) -> np.ndarray:
    """The part of a screenshot that an element covers."""
    box = browser.value(f"document.querySelector('{selector}').getBoundingClientRect().toJSON()")
    left, top = round(box["x"]), round(box["y"])
    return picture[top : top + round(box["height"]), left : left + round(box["width"])]


@contextmanager
def sending(harness: NodeHarness) -> Iterator[None]:
    """A camera at 10 Hz."""
    timer = harness.client.create_timer(
        0.1, lambda: harness.send(image_message(np.full((120, 160, 3), (200, 40, 90), np.uint8), stamp=time.time()))
    )
    yield
    harness.client.destroy_timer(timer)


@pytest.mark.skipif(chromium() is None, reason="no Chromium here (Debian and Ubuntu: apt install chromium)")
def test_the_page_in_a_browser(patient):
    pipeline = FakePipeline()
    pipeline.tracks = ["f1", "f2"]
    with NodeHarness(pipeline) as harness, sending(harness), Browser(1280, 800) as browser:
        node = view_node(harness, pipeline.head)
        browser.open(node.url)
        browser.wait_for("ofer.counts.drawn > 2 && !document.querySelector('#picture').hidden")
        browser.wait_for("parseFloat(document.querySelector('#figures b').textContent) >= 0")
        text = browser.value("document.body.innerText")
        away = f"{np.linalg.norm(fake_face().translation):.2f} m (view angle assumed)"
        for words in (away, "20 %", "locked, revision 1", "± 3.0 / 1.0 / 2.0 mm", "15, no. 3 selected"):
            assert words in text, text
        for words in ("spread of the hypotheses, mm", "≥ 8", "frames / s", "ms median"):
            assert words in text, text
        labels = browser.value("[...document.querySelectorAll('.tile')].map((tile) => tile.innerText)")
        assert len(labels) == 15 and "6.7 %" in labels[0]
        assert browser.value("[...document.querySelectorAll('.tile')].findIndex((t) => t.matches('.selected'))") == 2
        assert browser.value("[...document.querySelectorAll('.empty')].every((part) => part.hidden)")

        coloured = pixels(browser.screenshot())
        warm = lambda picture: int((picture[..., 0] > picture[..., 2] + 40).sum())  # noqa: E731
        assert in_box(browser, coloured, "#mesh").max() > 140, "a lit mesh"
        assert warm(in_box(browser, coloured, "#mesh")) > 500, "in the colours of its spread"
        assert warm(in_box(browser, coloured, ".tile:first-child")) > 50
        assert warm(in_box(browser, coloured, ".tile.selected")) < 10, "no distance from itself"
        assert abs(in_box(browser, coloured, "#picture")[8, 8] - [200, 40, 90]).max() < 25, "the camera's picture"

        browser.value("document.querySelector('[data-colour=shape]').click()")
        drawn = browser.value("ofer.counts.drawn")
        browser.wait_for(f"ofer.counts.drawn > {drawn}")
        plain = pixels(browser.screenshot())
        assert warm(in_box(browser, plain, "#mesh")) < 50
        box = browser.value("document.querySelector('#mesh').getBoundingClientRect().toJSON()")
        middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        browser.drag(middle, (middle[0] + 90, middle[1]))
        assert browser.value("ofer.view.yaw") == pytest.approx(0.5)
        drawn = browser.value("ofer.counts.drawn")
        browser.wait_for(f"ofer.counts.drawn > {drawn}")
        turned = pixels(browser.screenshot())
        assert abs(in_box(browser, turned, "#mesh") - in_box(browser, plain, "#mesh")).mean() > 1

        browser.value("[...document.querySelectorAll('#tracks button')][1].click()")
        browser.wait_for("document.querySelector('#face-id').textContent == 'f2'")
        for width in (360, 700, 1000):
            browser.resize(width, 800)
            assert browser.value("document.documentElement.scrollWidth") <= width, "nothing beyond the edge"
        pipeline.behaviour = lambda rgb: [fake_face("f1", hypotheses=7)]  # under load the node draws fewer
        browser.wait_for("document.querySelectorAll('.tile').length == 7")
        pipeline.behaviour, pipeline.tracks = None, []
        browser.wait_for("!document.querySelector('#shape .empty').hidden")
        assert browser.value("document.querySelector('#facts').children.length") == 0, "nothing of the last face"
        assert not browser.value("document.querySelector('#picture').hidden")
        harness.change("deactivate")
        browser.wait_for("document.querySelector('#picture').hidden")
        assert "waiting for faces" in browser.value("document.querySelector('#state').innerText")
        assert browser.problems == []
    assert harness.escaped == []


def test_what_cannot_be_viewed_is_said_at_once_in_one_line(capsys):
    with pytest.raises(SystemExit) as ended:
        view.app(["--bundle", "/nowhere"])
    assert ended.value.code == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("view: bundle '/nowhere': no bundle at /nowhere")


def test_make_view_starts_everything_says_where_and_ends_on_ctrl_c(tmp_path):
    async def look(url: str) -> dict[str, dict]:
        async with aiohttp.ClientSession() as session, session.ws_connect(f"{url}/stream", max_msg_size=0) as browser:
            end = time.monotonic() + 2 * LIMIT
            while time.monotonic() < end:
                found = await first(browser, "faces")
                if "face" in found["faces"] and "jpeg" in found["faces"]["arrays"]:
                    return found
        raise AssertionError("no face")

    process = subprocess.Popen(
        [sys.executable, "-m", "ofer_ros.demo.view", "scene", "--port", "0"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline()
        assert "http://127.0.0.1:" in line and "Ctrl-C" in line, process.stderr.read()
        found = asyncio.run(look(line.split()[1]))
        count, *size = found["faces"]["arrays"]["meshes"].shape
        assert 1 < count <= 16 and size == [4538, 3], "a busy machine draws fewer hypotheses"
        process.send_signal(signal.SIGINT)
        assert process.wait(2 * LIMIT) == 0
    finally:
        process.terminate()  # not killed: its children would outlive it
        process.wait(2 * LIMIT)
    logs = {file.stem: file.read_text() for file in (tmp_path / "out" / "view").glob("*.log")}
    assert set(logs) == {"camera_node", "ofer_node", "view_node"}
    assert not any(mark in text for text in logs.values() for mark in ("[ERROR]", "Traceback"))


def test_without_aiohttp_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ofer_ros.web.server", None)
    monkeypatch.delattr(ofer_ros.web, "server", raising=False)
    with RosSession() as session, pytest.raises(ValueError, match="pip install aiohttp"):
        ViewNode(head=synthetic_head(), context=session.context)
