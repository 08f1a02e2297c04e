from __future__ import annotations

import pytest

from tunesafe.errors import SpecError
from tunesafe.spec import PRUNERS, SAMPLERS, canonical_name


def test_the_tables_are_those_of_the_installed_optuna() -> None:
    """A new Optuna with another sampler must be noticed."""
    import optuna

    samplers = {name for name in optuna.samplers.__all__ if name.endswith("Sampler")}
    pruners = {name for name in optuna.pruners.__all__ if name.endswith("Pruner")}
    assert set(SAMPLERS.values()) == samplers - {"BaseSampler", "BaseGASampler"}
    assert set(PRUNERS.values()) == pruners - {"BasePruner"}


@pytest.mark.parametrize("kind", ["sampler", "pruner"])
def test_every_spelling_leads_to_one_name(kind: str) -> None:
    """Class name or not, any case, with underscores or without."""
    for canonical, cls in (SAMPLERS if kind == "sampler" else PRUNERS).items():
        for name in (canonical, canonical.upper(), cls, cls.lower(), f"{canonical}_{kind}", "_".join(canonical)):
            assert canonical_name(name, kind) == canonical  # type: ignore[arg-type]


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    """Or with all of them, where none is near."""
    with pytest.raises(SpecError, match="unknown sampler 'nsga'; did you mean 'nsgaii'"):
        canonical_name("nsga", "sampler")
    with pytest.raises(SpecError, match="unknown pruner 'zzz'; pruners: nop, median, percentile, "):
        canonical_name("zzz", "pruner")
