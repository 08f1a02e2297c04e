from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import tunesafe.store


def test_the_store_imports_neither_torch_nor_optuna() -> None:
    """`tunesafe status` and the supervisor stand on it and must start fast; drivers come when needed."""
    modules = [f"tunesafe.store.{path.stem}" for path in Path(tunesafe.store.__file__).parent.glob("[a-z]*.py")]
    heavy = "{'torch', 'optuna', 'numpy', 'psycopg', 'pymysql', 'sqlalchemy.orm'}"
    code = f"import sys, {', '.join(modules)}; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=200)
    assert found.stdout.strip() == "[]"
