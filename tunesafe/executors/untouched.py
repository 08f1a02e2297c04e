"""A finished study whose database cannot be written, on a disk mounted read-only for instance.

``run`` of a finished study has nothing to do; here it also writes nothing, where else it would note
that it was there.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from tunesafe.contracts import Notice
from tunesafe.executors.results import RunResult, opening_details, result_of
from tunesafe.spec import StudySpec
from tunesafe.store import studies
from tunesafe.store.engine import read_only_engine, reading
from tunesafe.store.migrations import SCHEMA_VERSION, schema_version
from tunesafe.store.urls import canonical_url, sqlite_path
from tunesafe.study import lifecycle
from tunesafe.study.claiming import count
from tunesafe.study.settling import Program, changes_since
from tunesafe.worker.loop import Left

__all__ = ["finished_untouched"]


def finished_untouched(spec: StudySpec, program: Program, watch: Callable[[Notice], None]) -> RunResult | None:
    """How a run ends that would change nothing, without opening the database for writing.

    Args:
        spec: The study file.
        program: Its text and the trainable's sources.
        watch: Told that the study is finished.

    Returns:
        ``None`` where the database can be written, or there would be something to do or to record.

    Raises:
        StorageError: If the database cannot be read.
    """
    path = sqlite_path(canonical_url(spec.storage))
    if path is None or all(os.access(place, os.W_OK) for place in (path, path.parent)):
        return None
    engine = read_only_engine(spec.storage)
    try:
        with reading(engine) as connection:
            newest = schema_version(connection) == SCHEMA_VERSION
            row = studies.find_study(connection, spec.name) if newest else None
            if row is None or changes_since(connection, row, spec, program):
                return None
            tally = count(connection, row.uuid)
    finally:
        engine.dispose()
    if lifecycle.standing(tally, spec.max_failures) is not lifecycle.Standing.FINISHED:
        return None
    watch(Notice("opened", None, opening_details(spec, (), tally)))
    return result_of(spec, tally, tally, Left.NO_WORK)
