"""From a reference to the object and its sources, and every way that can go wrong."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesafe.errors import SpecError
from tunesafe.trial import Trainable
from tunesafe.trial.resolve import resolve
from tunesafe.trial.sources import fingerprint, sources


@pytest.fixture(autouse=True)
def _own_modules() -> Iterator[None]:
    """Whatever a test imports is forgotten after it."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if not name.startswith(("torch", "numpy", "optuna", "tunesafe")):
            del sys.modules[name]


def write(folder: Path, **files: str) -> Path:
    """Write Python files; ``a__b`` is ``a/b.py``."""
    for name, text in files.items():
        path = folder / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_a_file_is_imported_with_its_neighbours_in_reach(tmp_path: Path) -> None:
    """As if it were run as a script; resolving again gives the same object."""
    write(tmp_path, tsdigits="import tshelper\ndef train(trial):\n    return tshelper.X", tshelper="X = 3")
    train = resolve("tsdigits.py:train", tmp_path)
    assert train(None) == 3
    assert resolve("tsdigits.py:train", tmp_path) is train
    assert train.__module__ == "tsdigits"  # a name loader workers can import


def test_a_module_in_a_package_beside_the_study_is_found(tmp_path: Path) -> None:
    """Relative imports work in it."""
    write(tmp_path, tspack__inner__work="from ..other import X\ndef train(trial): return X", tspack__other="X = 5")
    assert resolve("tspack.inner.work:train", tmp_path)(None) == 5
    assert list(sources("tspack.inner.work:train", tmp_path)) == ["tspack/inner/work.py", "tspack/other.py"]


def test_an_installed_module_is_found_and_only_its_own_package_is_its_source(tmp_path: Path) -> None:
    """What it imports from others is theirs."""
    assert resolve("tunesafe.seeds:derive", tmp_path) is __import__("tunesafe.seeds").seeds.derive
    assert [path.rpartition("/")[2] for path in sources("json.tool:main", tmp_path)] == [
        "__init__.py", "decoder.py", "encoder.py", "scanner.py", "tool.py",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["random", "json", "test-me", "with.dot"])
def test_a_file_whose_name_is_taken_or_odd_is_imported_all_the_same(tmp_path: Path, name: str) -> None:
    """Under a name of its own, without disturbing the module that has it."""
    (tmp_path / f"{name}.py").write_text("def train(trial): return 'mine'")
    assert resolve(f"{name}.py:train", tmp_path)(None) == "mine"
    assert resolve(f"{name}.py:train", tmp_path) is resolve(f"{name}.py:train", tmp_path)


def test_two_studies_with_a_file_of_one_name_do_not_meet(tmp_path: Path) -> None:
    """Each gets its own function."""
    for number in (1, 2):
        write(tmp_path / str(number), tstrain=f"def train(trial): return {number}")
    functions = [resolve("tstrain.py:train", tmp_path / str(number)) for number in (1, 2)]
    assert [function(None) for function in functions] == [1, 2]


def test_two_studies_with_helpers_of_one_name_are_refused(tmp_path: Path) -> None:
    """The second would silently run on the first one's helper."""
    for number in (1, 2):
        write(tmp_path / str(number), **{f"tsown{number}": "import tscommon\ndef train(trial): pass", "tscommon": ""})
    resolve("tsown1.py:train", tmp_path / "1")
    with pytest.raises(SpecError, match="already holds another module of that name"):
        resolve("tsown2.py:train", tmp_path / "2")


def test_a_trainable_class_resolves_and_another_class_does_not(tmp_path: Path) -> None:
    """Any other class would be constructed, and train nothing."""
    text = "import tunesafe.trial\nclass Good(tunesafe.trial.Trainable): pass\nclass Bad: pass"
    write(tmp_path, tsclasses=text)
    assert issubclass(resolve("tsclasses.py:Good", tmp_path), Trainable)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="is a class, but no tunesafe"):
        resolve("tsclasses.py:Bad", tmp_path)


FAULTS = {
    "missing file": ({}, "tsdigit.py:train", "trainable file 'tsdigit.py' does not exist in "),
    "nearly the file": ({"tsdigits": ""}, "tsdigit.py:train", "did you mean 'tsdigits.py'?"),
    "missing module": ({}, "tsno.such:train", "trainable module 'tsno.such' is neither in "),
    "no colon": ({}, "digits.py", "is neither FILE.py:NAME nor package.module:NAME"),
    "no name": ({}, "digits.py:", "is neither FILE.py:NAME nor package.module:NAME"),
    "not a module": ({}, "no-such-module:train", "is neither a Python file nor a module name"),
    "syntax": ({"tsa": "x = 1\ndef train(:\n"}, "tsa.py:train", "tsa.py:2:11: syntax error: "),
    "syntax in a helper": (
        {"tsa": "import tsb\ndef train(trial): pass", "tsb": "\n\nx ="},
        "tsa.py:train", "tsb.py:3:4: syntax error: invalid syntax",
    ),
    "tab": ({"tsa": "if 1:\n\tx = 1\n        y = 2\n"}, "tsa.py:train", "tsa.py:3"),
    "null byte": ({"tsa": "x = '\0'"}, "tsa.py:train", "tsa.py"),
    "raises": (
        {"tsa": "x = 1\ny = {}['a']\n"},
        "tsa.py:train", "tsa.py:2: KeyError: 'a'. Nothing was started. It was raised on import.",
    ),
    "raises in a helper": (
        {"tsa": "import tsb\ndef train(trial): pass", "tsb": "\n1/0"},
        "tsa.py:train", "tsb.py:2: ZeroDivisionError: division by zero",
    ),
    "missing dependency": (
        {"tsa": "\nimport no_such_thing"},
        "tsa.py:train", "tsa.py:2: No module named 'no_such_thing'. Nothing was started. Install it",
    ),
    "missing name": (
        {"tsa": "def train(trial): pass"},
        "tsa.py:trian", "tsa.py: holds no 'trian'; did you mean 'train'? Nothing was started.",
    ),
    "no callable": ({"tsa": "train = 3"}, "tsa.py:train", "tsa.py: 'train' is an int, not a function"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_with_a_trainable_is_said_in_one_error(tmp_path: Path, fault: str) -> None:
    """With the file and line of the user's code."""
    files, reference, message = FAULTS[fault]
    write(tmp_path, **files)
    with pytest.raises(SpecError) as raised:
        resolve(reference, tmp_path)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_is_wrong_can_be_fixed_in_the_same_process(tmp_path: Path) -> None:
    """A failed import leaves nothing behind."""
    write(tmp_path, tsa="1/0")
    with pytest.raises(SpecError):
        resolve("tsa.py:train", tmp_path)
    write(tmp_path, tsa="def train(trial): return 'fixed now'")
    assert resolve("tsa.py:train", tmp_path)(None) == "fixed now"


def test_sources_are_every_module_reached_and_no_other(tmp_path: Path) -> None:
    """Packages with their __init__, imports in functions, circles; imported by nobody is left out."""
    write(
        tmp_path,
        tsa="import tsb, torch\ndef train(trial):\n    from tspack.sub import thing",
        tsb="import tsa\nimport tspack.other as other",
        tspack____init__="from . import inside",
        tspack__inside="",
        tspack__other="from .sub import thing",
        tspack__sub____init__="from .thing import *",
        tspack__sub__thing="from ..inside import x",
        unused="",
        tspack__unused="",
    )
    (tmp_path / "tspack" / "__init__.py").write_text("from . import inside")
    (tmp_path / "tspack" / "sub" / "__init__.py").write_text("from .thing import *")
    found = sources("tsa.py:train", tmp_path)
    assert [path for path in found if "____" not in path] == [
        "tsa.py", "tsb.py", "tspack/__init__.py", "tspack/inside.py", "tspack/other.py",
        "tspack/sub/__init__.py", "tspack/sub/thing.py",
    ]  # fmt: skip
    assert not [name for name in sys.modules if name.startswith("tspack")]


def test_a_file_in_a_subfolder_is_shown_relative_to_the_study(tmp_path: Path) -> None:
    """Its own folder is where its imports start."""
    write(tmp_path, code__tsa="import tsb\ndef train(trial): pass", code__tsb="")
    assert list(sources("code/tsa.py:train", tmp_path)) == ["code/tsa.py", "code/tsb.py"]
    assert resolve("code/tsa.py:train", tmp_path)


PROGRAM = '''
"""Doc."""
import math
def f(a, *, b: int = 1, **k) -> "str":
    # comment
    return f"{a!r:>{b}}" + 'x' if a else [i for i in k if i is not None]
'''


CHANGES = [
    ("b: int = 1", "b: int = 1.0"), ("b: int = 1", "b: int = True"), ("math", "cmath"), ("+", "-"), (":>{", ":<{"),
    ("'x'", "'y'"), ("'x'", "b'x'"), ("is not", "is"), ("!r", "!s"), ("Doc", "Dog"), ("a, *,", "a,"),
    ("None", "'None'"), (" if a else", " if k else"), ("import math", "import math as m"),
]  # fmt: skip


def test_comments_and_formatting_do_not_change_a_fingerprint() -> None:
    """Neither do quotes, parentheses and blank lines."""
    other = '"""Doc."""\n\n\nimport math\n\n\ndef f(\n    a, *, b: int = 1, **k\n) -> \'str\':\n'
    other += '    return (f"{a!r:>{b}}" + u"x") if a else [i for i in k if (i is not None)]  # other\n'
    assert fingerprint({"a.py": PROGRAM}) == fingerprint({"a.py": other})


@settings(max_examples=60)
@given(st.data())
def test_any_change_of_the_program_changes_its_fingerprint(data: st.DataObject) -> None:
    """Names, constants with their types, operators, order, files."""
    old, new = data.draw(st.sampled_from(CHANGES))
    changed = PROGRAM.replace(old, new, 1)
    assert changed != PROGRAM
    assert fingerprint({"a.py": changed}) != fingerprint({"a.py": PROGRAM})
    assert fingerprint({"b.py": PROGRAM}) != fingerprint({"a.py": PROGRAM})
    assert fingerprint({"a.py": PROGRAM, "b.py": ""}) != fingerprint({"a.py": PROGRAM})
