"""A study whose large states are in an object store, killed."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from tests.crash.harness import Check, Kill, Laboratory
from tests.crash.variations import ALL_IN_PACKS
from tests.gcs_server import GcsServer

pytestmark = [pytest.mark.crash, pytest.mark.timeout(600)]


def test_a_study_with_its_large_states_in_google_cloud_storage_ends_identical(
    lab: Laboratory, gcs: GcsServer, gcs_url: str, monkeypatch: pytest.MonkeyPatch, survived: Check
) -> None:
    """Killed when a state is there and nothing names it yet; in the end there is what the database names."""
    variables = {name: value for name, value in os.environ.items() if name.startswith("GOOGLE_")}
    monkeypatch.setattr(lab, "environment", variables)
    elsewhere = replace(ALL_IN_PACKS, changes={**ALL_IN_PACKS.changes, "blobs": gcs_url})
    survived(lab.kill_at(elsewhere, [Kill("pack.durable", 7)]))
    (objects,) = gcs.buckets.values()
    assert [name for name in objects if name.endswith(".pack")]
