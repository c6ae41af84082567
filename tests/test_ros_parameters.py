"""Parameters: one source of defaults, descriptors that say everything, values out of range refused."""

from __future__ import annotations

import pytest

pytest.importorskip("ofer_msgs.msg._face", reason="source .venv/ofer_env.sh")

from dataclasses import fields
from typing import get_type_hints

import rclpy
import yaml
from rclpy.context import Context
from rclpy.exceptions import ParameterException
from rclpy.node import Node
from rclpy.parameter import Parameter

from ofer_models.bundle.share import share_folder
from ofer_ros.base.domains import lent_domain
from ofer_ros.base.parameters import declare, read
from ofer_ros.base.settings import NODES as SECTIONS
from ofer_ros.base.settings import CameraSettings, OferSettings

pytestmark = pytest.mark.ros
CONFIG = share_folder() / "config" / "ofer.yaml"


@pytest.fixture(scope="module")
def context():
    context = Context()
    with lent_domain() as domain:
        rclpy.init(context=context, domain_id=domain)
        yield context
        rclpy.shutdown(context=context)


@pytest.fixture
def make(context):
    made = []

    def build(section: str = "ofer_node", **values) -> Node:
        overrides = [Parameter(name, value=value) for name, value in values.items()]
        node = Node(section, context=context, parameter_overrides=overrides)
        made.append(node)
        declare(node, section, SECTIONS[section])
        return node

    yield build
    for node in made:
        node.destroy_node()


def test_the_file_has_every_parameter_and_no_other():
    content = yaml.safe_load(CONFIG.read_text())
    assert content.keys() == {f"/**/{section}" for section in SECTIONS}
    for section, settings in SECTIONS.items():
        parameters = content[f"/**/{section}"]["ros__parameters"]
        assert sorted(parameters) == sorted(item.name for item in fields(settings)), section
        for name, kind in get_type_hints(settings).items():
            assert type(parameters[name]) is kind, f"{section}/{name}"


@pytest.mark.parametrize("section", SECTIONS)
def test_descriptors_tell_meaning_and_range_and_defaults_lie_inside(make, section):
    node = make(section)
    for item in fields(SECTIONS[section]):
        descriptor = node.describe_parameter(item.name)
        assert len(descriptor.description) > 10
        value = node.get_parameter(item.name).value
        if type(value) is int:
            (limits,) = descriptor.integer_range
            assert limits.from_value <= value <= limits.to_value
        elif type(value) is float:
            (limits,) = descriptor.floating_point_range
            assert limits.from_value <= value <= limits.to_value
        elif item.metadata["choices"]:
            assert value in item.metadata["choices"]
            assert value in descriptor.additional_constraints


def test_defaults_are_those_of_the_file(make):
    settings = read(make(), OferSettings)
    content = yaml.safe_load(CONFIG.read_text())["/**/ofer_node"]["ros__parameters"]
    assert vars(settings) == content


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hypotheses", 0),
        ("hypotheses", 1000),
        ("hypotheses", "many"),
        ("steps", 2),
        ("steps", -1),
        ("field_of_view", 1.0),
        ("field_of_view", 500),
        ("field_of_view", "wide"),
        ("mesh_region", "neck"),
        ("transport", "theora"),
        ("autostart", 3),
    ],
)
def test_bad_values_are_refused_at_start_and_later(make, name, value):
    with pytest.raises(ParameterException):
        make(**{name: value})
    node = make()
    before = read(node, OferSettings)
    (result,) = node.set_parameters([Parameter(name, value=value)])
    assert not result.successful
    assert result.reason
    assert read(node, OferSettings) == before


def test_what_is_in_use_is_refused_while_the_node_is_active_and_says_what_to_do(context):
    active = False
    node = Node("busy", namespace="/robot", context=context)
    declare(node, "ofer_node", OferSettings, active=lambda: active)
    active = True
    for name, value in {"bundle": "other", "sync": "exact", "max_faces": 1, "image_depth": 2, "ros4hri": True}.items():
        (result,) = node.set_parameters([Parameter(name, value=value)])
        assert not result.successful
        assert result.reason == (
            f"{name} cannot change while the node is active; first: ros2 lifecycle set /robot/busy deactivate"
        )
        (same,) = node.set_parameters([Parameter(name, value=node.get_parameter(name).value)])
        assert same.successful, "what changes nothing is welcome: parameter files are loaded whole"
    live = {"hypotheses": 3, "steps": 5, "marker_rate": 1.0, "show_text": True, "max_frame_age": 0.1}
    for result in node.set_parameters([Parameter(name, value=value) for name, value in live.items()]):
        assert result.successful
    active = False
    assert node.set_parameters([Parameter("bundle", value="other")])[0].successful
    node.destroy_node()


def test_descriptors_tell_what_cannot_change_at_work(make):
    node = make()
    for item in fields(OferSettings):
        told = "cannot change while the node is active" in node.describe_parameter(item.name).additional_constraints
        assert told is not item.metadata["live"], item.name


def test_values_change_while_running(make):
    node = make()
    (result,) = node.set_parameters([Parameter("marker_rate", value=5.0)])
    assert result.successful
    assert read(node, OferSettings).marker_rate == 5.0


def test_whole_numbers_are_taken_where_text_or_fractions_are_meant(make):
    settings = read(make("camera_node", source=0, rate=15), CameraSettings)
    assert settings.source == "0"
    assert settings.rate == 15.0
    assert isinstance(settings.rate, float)


@pytest.mark.parametrize(("given", "taken"), [(True, "true"), (False, "false"), ("auto", "auto")])
def test_true_and_false_may_be_given_as_such_where_text_is_wanted(make, given, taken):
    assert read(make(image_is_rectified=given), OferSettings).image_is_rectified == taken


@pytest.mark.parametrize("given", [90, "90"])
def test_the_camera_s_rotation_may_be_given_as_a_number(make, given):
    assert read(make(camera_rotation=given), OferSettings).pipeline().camera_rotation == 90
    with pytest.raises(ParameterException, match="camera_rotation"):
        make(camera_rotation=45)
