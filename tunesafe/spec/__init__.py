"""The study file: read, validated, compared.

``load_spec`` reads YAML into a :class:`StudySpec`, an immutable value in which every default
is filled in and every size is exact; ``spec_from_mapping`` does the same for Python. Every
fault is one :class:`~tunesafe.errors.SpecError` with file, line, column, the value found and
the nearest right one. Imports neither torch, nor Optuna, nor SQLAlchemy. The JSON Schema is
made by :mod:`tunesafe.spec.schema`.
"""

from __future__ import annotations

from tunesafe.spec.backup import Backup, resolve_place
from tunesafe.spec.budget import Budget
from tunesafe.spec.changes import Change, ChangeKind, Settled, classify, render_diff
from tunesafe.spec.faults import Place
from tunesafe.spec.load import load_spec, spec_from_mapping
from tunesafe.spec.names import PRUNERS, SAMPLERS, canonical_name
from tunesafe.spec.parameters import (
    CategoricalParameter,
    FloatParameter,
    IntParameter,
    Searched,
    holds,
    sampling_order,
)
from tunesafe.spec.rewriting import keys_of, with_value
from tunesafe.spec.sections import Checkpoint, Component, EarlyStopping, Every, Keep, Objective, Pruner, Sampler
from tunesafe.spec.storage import mask_password, resolve_storage
from tunesafe.spec.study import StudySpec

__all__ = [
    "PRUNERS",
    "SAMPLERS",
    "Backup",
    "Budget",
    "CategoricalParameter",
    "Change",
    "ChangeKind",
    "Checkpoint",
    "Component",
    "EarlyStopping",
    "Every",
    "FloatParameter",
    "IntParameter",
    "Keep",
    "Objective",
    "Place",
    "Pruner",
    "Sampler",
    "Searched",
    "Settled",
    "StudySpec",
    "canonical_name",
    "classify",
    "holds",
    "keys_of",
    "load_spec",
    "mask_password",
    "render_diff",
    "resolve_place",
    "resolve_storage",
    "sampling_order",
    "spec_from_mapping",
    "with_value",
]
