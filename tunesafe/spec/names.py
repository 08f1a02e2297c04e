"""The names of Optuna's samplers and pruners, known without importing Optuna.

A name is Optuna's class name, or that without its suffix, ignoring case and underscores:
``TPESampler``, ``tpe``, ``cma_es``. A test holds these tables to the installed Optuna.
"""

from __future__ import annotations

from typing import Literal

from tunesafe.errors import SpecError
from tunesafe.spec.faults import nearest

__all__ = ["PRUNERS", "SAMPLERS", "Kind", "canonical_name"]

Kind = Literal["sampler", "pruner"]

SAMPLERS = {
    "random": "RandomSampler",
    "tpe": "TPESampler",
    "cmaes": "CmaEsSampler",
    "gp": "GPSampler",
    "nsgaii": "NSGAIISampler",
    "nsgaiii": "NSGAIIISampler",
    "qmc": "QMCSampler",
    "grid": "GridSampler",
    "bruteforce": "BruteForceSampler",
    "partialfixed": "PartialFixedSampler",
}
"""Canonical name to class name in ``optuna.samplers``."""

PRUNERS = {
    "nop": "NopPruner",
    "median": "MedianPruner",
    "percentile": "PercentilePruner",
    "successivehalving": "SuccessiveHalvingPruner",
    "hyperband": "HyperbandPruner",
    "patient": "PatientPruner",
    "threshold": "ThresholdPruner",
    "wilcoxon": "WilcoxonPruner",
}
"""Canonical name to class name in ``optuna.pruners``."""


def canonical_name(name: str, kind: Kind) -> str:
    """The one spelling of a sampler's or pruner's name.

    Raises:
        SpecError: If there is none of that name; says the nearest.

    Example:
        >>> canonical_name("CmaEsSampler", "sampler"), canonical_name("Successive_Halving", "pruner")
        ('cmaes', 'successivehalving')
    """
    table = SAMPLERS if kind == "sampler" else PRUNERS
    canonical = name.replace("_", "").lower().removesuffix(kind)
    if canonical not in table:
        raise SpecError(f"unknown {kind} '{name}'{nearest(canonical, table, what=f'{kind}s')}")
    return canonical
