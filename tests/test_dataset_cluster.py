"""Why a Ray cluster lets nobody in, told in one line. Needs no Ray."""

from __future__ import annotations

import os

import pytest

pytest.importorskip("pyarrow")

from ofer_models.dataset.cluster import Cluster, refusal
from ofer_models.dataset.store import DatasetError

# As Ray 2.60 says it.
_WRONG_TOKEN = (
    "[2026-11-28 08:22:04,697 W 501 501] gcs_client.cc:210: Failed to get cluster ID from GCS server: Unauthenticated: "
    "RPC error: InvalidAuthToken: Authentication token is missing or incorrect\n"
    "ConnectionError: Failed to connect to Ray cluster at 10.0.0.1:6379"
)
_NO_TOKEN = (
    "ray.exceptions.AuthenticationError: Token authentication is enabled but no authentication token was found. Ensure "
    "that the token for the cluster is available in a local file (e.g., ~/.ray/auth_token"
)
_OTHER_VERSION = (
    "RuntimeError: Version mismatch: The cluster was started with:\n    Ray: 2.54.0\n    Python: 3.10.2\n"
    "This process on node 10.0.0.2 was started with:\n    Ray: 2.60.0\n    Python: 3.11.7\n"
)
_NO_RAY = (
    "[2026-11-28 08:22:40,356 W 708 708] rpc_client.h:153: Failed to connect to GCS at address 10.0.0.1:8077 within 5 "
    "seconds.\n"
)


@pytest.mark.parametrize("said, told", [
    (_WRONG_TOKEN, "RAY_AUTH_TOKEN to what `ray get-auth-token` prints"), (_NO_TOKEN, "RAY_AUTH_TOKEN to what"),
    (_OTHER_VERSION, "it runs Ray 2.54.0 on Python 3.10.2, this is Ray 2.60.0 on Python 3.11.7"),
    (_NO_RAY, "is no Ray head"), ("", "is no Ray head"),
    ("Traceback\n  x\nValueError: \x1b[31mwhat\n", "ValueError: ?[31mwhat"),
])  # fmt: skip
def test_what_ray_says_becomes_one_line_that_says_what_to_do(said, told):
    line = refusal(said)
    assert told in line and line.isprintable()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "no.such.host.invalid:6379", "127.0.0.1:99999", "ray://127.0.0.1:1"])
def test_a_cluster_that_is_not_there_is_told_in_one_line(address):
    before = dict(os.environ)
    with pytest.raises(DatasetError) as told, Cluster(address):
        pass
    assert dict(os.environ) == before
    assert "\n" not in str(told.value) and address in str(told.value)
    assert "`ray start --head` tells its address" in str(told.value)
