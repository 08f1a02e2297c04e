from __future__ import annotations

import subprocess
import sys


def test_reading_a_study_file_imports_nothing_heavy() -> None:
    """`tunesafe status` must answer at once."""
    code = "import sys, tunesafe.spec; print({'torch', 'optuna', 'sqlalchemy', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
