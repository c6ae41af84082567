"""Where the package's own files lie: in a checkout beside the code, installed under share/ofer_ros."""

from __future__ import annotations

from pathlib import Path

_CHECKOUT = Path(__file__).resolve().parents[2]


def share() -> Path:
    """The folder that holds config/ and engines/. Raises FileNotFoundError when neither place has them."""
    if (_CHECKOUT / "config" / "ofer.yaml").exists():
        return _CHECKOUT
    from ament_index_python.packages import PackageNotFoundError, get_package_share_directory

    try:
        return Path(get_package_share_directory("ofer_ros"))
    except PackageNotFoundError:
        raise FileNotFoundError(
            f"config/ofer.yaml is neither in {_CHECKOUT} nor in an installed ofer_ros; source install/setup.bash"
        ) from None


def config_file() -> Path:
    """config/ofer.yaml, the single source of parameter defaults."""
    return share() / "config" / "ofer.yaml"
