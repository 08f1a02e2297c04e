"""What workers and supervisors say to each other survives the way."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tunesafe.contracts import Notice
from tunesafe.errors import ExitCode, SpecError, StorageError, TunesafeError
from tunesafe.worker.wire import Failed, Job, LeftWork, Message, Ready, SignOfLife, decode, encode

texts = st.text(max_size=20)
values: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
messages = st.one_of(
    st.just(Ready()),
    st.builds(SignOfLife, st.integers(0)),
    st.builds(LeftWork, texts, texts),
    st.builds(
        Failed,
        st.sampled_from(ExitCode),
        texts,
        st.none() | texts,
        st.none() | st.integers(1),
        st.none(),
        st.none() | texts,
    ),
    st.builds(Notice, texts, st.none() | st.integers(0), st.dictionaries(texts, values, max_size=3)),
)


@given(message=messages)
def test_a_message_is_one_line_and_reads_back(message: Message) -> None:
    """Whatever it holds: line ends, other scripts, infinities."""
    line = encode(message)
    assert line.count(b"\n") == 2
    assert line.startswith(b"\n")
    assert line.endswith(b"\n")
    assert decode(line) == message


@given(messages=st.lists(messages, min_size=2, max_size=4), cut=st.integers(0, 200))
def test_a_message_cut_short_spoils_no_other(messages: list[Message], cut: int) -> None:
    """A second signal may come in the middle of one."""
    first, *others = map(encode, messages)
    lines = (first[:cut] + b"".join(others)).split(b"\n")
    heard = [decode(line) for line in lines if line]
    assert heard[-len(others) :] == messages[1:]


@given(noise=st.binary(max_size=60) | st.builds(lambda value: str(value).encode(), values))
def test_noise_is_no_message(noise: bytes) -> None:
    """And no error either."""
    assert decode(noise) is None or noise.strip().startswith(b"{")


@given(
    job=st.builds(
        Job,
        texts,
        texts,
        texts,
        texts,
        texts,
        st.integers(0),
        st.integers(0),
        st.integers(1),
        st.lists(texts),
        st.none() | texts,
    )
)
def test_a_job_is_one_line_and_reads_back(job: Job) -> None:
    """Paths of any kind."""
    assert "\n" not in job.to_line()
    assert Job.from_line(job.to_line()) == job


def test_an_error_comes_out_as_what_it_was() -> None:
    """With its exit code, and at its place in the user's files."""
    for error in (SpecError("no", file="a.py", line=3), StorageError("away"), TunesafeError("odd")):
        decoded = decode(encode(Failed.of(error)))
        assert isinstance(decoded, Failed)
        again = decoded.as_error()
        assert (type(again), str(again), again.exit_code) == (type(error), str(error), error.exit_code)
