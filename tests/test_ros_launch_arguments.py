"""What the launch files make of their arguments; launch itself is in test_ros_launch.py."""

from __future__ import annotations

import pytest

from ofer_ros.base.launch_arguments import log_level, parameter_file, slips, value_of


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("7", int, 7), ("30", float, 30.0), ("1e-3", str, "1e-3"), ("2e-3", float, 0.002), ("true", bool, True),
        ("False", bool, False), ("0", str, "0"), ("true", str, "true"), ("/a b/it's #1", str, "/a b/it's #1"),
    ],
)  # fmt: skip
def test_text_becomes_what_the_parameter_is(text, kind, value):
    found = value_of("it", text, kind)
    assert found == value and type(found) is kind


@pytest.mark.parametrize(
    ("text", "kind", "what"),
    [
        ("abc", int, "a whole number"), ("1.5", int, "a whole number"), ("[1,", int, "a whole number"),
        ("true", int, "a whole number"), ("fast", float, "a number"), ("1", bool, "true or false"),
        ("maybe", bool, "true or false"),
    ],
)  # fmt: skip
def test_what_it_cannot_be_is_named_with_its_argument(text, kind, what):
    with pytest.raises(ValueError) as refused:
        value_of("hypotheses", text, kind)
    assert str(refused.value) == f"hypotheses:={text} is not {what}"


def test_a_parameter_file_has_to_be_there(tmp_path):
    file = tmp_path / "it's mine.yaml"
    file.touch()
    assert parameter_file("params_file", str(file)) == str(file)
    for wrong in (tmp_path, tmp_path / "nowhere.yaml"):
        with pytest.raises(ValueError, match="^params_file:=.* is no file$"):
            parameter_file("params_file", str(wrong))


def test_log_levels_are_those_of_ros():
    assert [log_level(text) for text in ("info", "DEBUG", "ofer_node:=warn")] == ["info", "DEBUG", "ofer_node:=warn"]
    for wrong in ("", "shout", "ofer_node:=loud", "info "):
        with pytest.raises(ValueError, match="is none of debug, info, warn, error, fatal"):
            log_level(wrong)


def test_a_slip_of_the_pen_is_told_and_what_another_launch_file_has_is_not():
    known = ["hypotheses", "camera_info", "source", "namespace"]
    assert slips(["hypothesis", "robot_name", "source", "name_space"], known) == [
        "hypothesis is no argument of this launch file and has no effect: do you mean hypotheses?",
        "name_space is no argument of this launch file and has no effect: do you mean namespace?",
    ]
