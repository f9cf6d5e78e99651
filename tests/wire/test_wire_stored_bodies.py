"""Content that is taken in before a peer is asked: in memory, in a file; sent from there, sent again, cleaned up."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.wire.joined import HIGH_WATER, LAST, Joined, chunks, get, post, response
from upwell.proxy import body_file, variables
from upwell.proxy.body_file import PIECE, BodyFolder
from upwell.proxy.exchange import Exchange

BIG = bytes(range(256)) * 2000  # 512,000 bytes: several pieces


def _location(folder: Path, memory: int = 16_384, keep: str = "off", levels: tuple[int, ...] = ()) -> dict[str, Any]:
    return {
        "body_buffer_size": memory,
        "body_folder": BodyFolder(str(folder), levels, keep),
        "max_body_size": 0,
    }


def _chunked_post(*pieces: bytes, end: bytes = LAST) -> bytes:
    return get("/", "Transfer-Encoding: chunked", method="POST") + chunks(*pieces) + end


def _open_files(folder: Path) -> list[str]:
    """The files of `folder` that this process has open, with or without a name."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            path = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue
        if path.startswith(f"{folder}/"):
            found.append(path)
    return found


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("step", [999, 70_000, 600_000])
def test_content_beyond_the_buffer_goes_through_a_file(tmp_path: Path, chunked: bool, step: int) -> None:
    with Joined(location=_location(tmp_path)) as joined:
        client = joined.client()
        wire = _chunked_post(BIG[:100_000], BIG[100_000:]) if chunked else post(BIG)
        for at in range(0, len(wire) - 1, step):
            client.send(wire[at : min(at + step, len(wire) - 1)])
        assert not joined.origin.connections  # nobody is asked before all is there
        assert len(_open_files(tmp_path)) == 1
        assert os.listdir(tmp_path) == []  # the file has no name any more
        client.send(wire[-1:])
        head, _, body = joined.origin.last.taken().partition(b"\r\n\r\n")
        assert head.endswith(b"\r\nContent-Length: 512000")
        assert b"Transfer-Encoding" not in head
        assert body == BIG
        joined.origin.last.send(response(b"thanks"))
        assert client.answer("POST").body == b"thanks"
        assert _open_files(tmp_path) == []
        told = [line for line in joined.log.lines if "is buffered to a temporary file" in line]
        assert [line.split(",")[0].rpartition("/")[0] for line in told] == [
            f"a client request body is buffered to a temporary file {tmp_path}"
        ]
        # Both connections are in order.
        client.send(get())
        joined.origin.last.send(response(b"next"))
        assert client.answer().body == b"next"
        assert len(joined.origin.connections) == 1


def test_content_within_the_buffer_needs_no_file(tmp_path: Path) -> None:
    with Joined(location=_location(tmp_path / "not there", memory=len(BIG))) as joined:
        client = joined.client()
        client.send(post(BIG))
        assert joined.origin.last.taken().endswith(BIG)
        joined.origin.last.send(response(b"thanks"))
        assert client.answer("POST").status == 200
        assert joined.log.lines == []


@pytest.mark.parametrize(("short", "files"), [(0, 1), (1, 0)])
def test_a_quarter_more_does(tmp_path: Path, short: int, files: int) -> None:
    with Joined(location=_location(tmp_path, memory=len(BIG) // 5 * 4)) as joined:
        client = joined.client()
        wire = post(BIG[short:])
        client.send(wire[: -len(BIG) + short])
        client.send(BIG[short:])
        assert joined.origin.last.taken().endswith(BIG[short:])
        joined.origin.last.send(response(b"thanks"))
        assert client.answer("POST").status == 200
        assert len(joined.log.lines) == files


@pytest.mark.parametrize(("over", "files"), [(0, 1), (-1, 0)])
def test_what_came_in_the_buffer_of_the_head_is_not_counted(tmp_path: Path, over: int, files: int) -> None:
    with Joined(location=_location(tmp_path, memory=400)) as joined:
        client = joined.client()
        head = post(b"", length=1000)
        client.send(head.replace(b" 1000\r", b" %d\r" % (500 + 1024 - len(head) + over)) + bytes(1100))
        client.send(bytes(424 - len(head) + over))
        joined.origin.last.send(response(b"thanks"))
        assert client.answer("POST").status == 200
        assert len(joined.log.lines) == files


def test_the_next_peer_gets_the_whole_content_again(tmp_path: Path) -> None:
    with Joined(peers=3, location=_location(tmp_path), spec={"next_on": frozenset(("error", "http_503"))}) as joined:
        joined.origins[0].mode = "refuse"
        client = joined.client()
        client.send(post(BIG).replace(b"POST", b"PUT", 1))
        assert joined.origins[1].last.taken().endswith(b"\r\n\r\n" + BIG)
        joined.origins[1].last.send(response(b"", status="503 No"))
        assert joined.origins[2].last.taken().endswith(b"\r\n\r\n" + BIG)
        joined.origins[2].last.send(response(b"third"))
        assert client.answer("PUT").body == b"third"


def test_a_peer_that_goes_half_way_is_followed_by_the_next(tmp_path: Path) -> None:
    with Joined(peers=2, location=_location(tmp_path)) as joined:
        joined.origins[0].mode = "stalled"
        client = joined.client()
        client.send(post(BIG).replace(b"POST", b"PUT", 1))
        joined.origins[0].last.reset()
        assert joined.origins[1].last.taken().endswith(b"\r\n\r\n" + BIG)
        joined.origins[1].last.send(response(b"second"))
        assert client.answer("PUT").body == b"second"
        assert joined.in_use == [0, 0]


@pytest.mark.parametrize("size", [5000, len(BIG)])  # below and above what a transport takes before it asks to wait
@pytest.mark.parametrize("streamed", [False, True])
def test_a_peer_that_answers_before_it_has_the_content_is_not_used_again(
    tmp_path: Path, size: int, streamed: bool
) -> None:
    location = _location(tmp_path, memory=len(BIG))
    with Joined(location=location, spec={"request_buffering": not streamed}) as joined:
        joined.origin.mode = "stalled"
        client = joined.client()
        client.send(post(BIG[:size]))
        first = joined.origin.last
        first.send(response(b"no", status="401 No"))
        assert client.answer("POST").status == 401
        assert first.ended == "reset"  # what waits for it will not be waited for
        joined.origin.mode = "accept"
        if not streamed:
            client.send(get("/next"))
            assert len(joined.origin.connections) == 2
            joined.origin.last.send(response(b"next"))
            assert client.answer().body == b"next"


def test_streamed_content_is_not_sent_twice(tmp_path: Path) -> None:
    with Joined(peers=2, location=_location(tmp_path), spec={"request_buffering": False}) as joined:
        client = joined.client()
        request = post(BIG).replace(b"POST", b"PUT", 1)
        client.send(request[:100_000])
        client.send(request[100_000:200_000])
        joined.origins[0].last.reset()
        assert client.answer("PUT").status == 502
        assert joined.origins[1].connections == []


def test_no_more_is_read_than_the_peer_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    real = os.pread

    def counting(fd: int, size: int, at: int) -> bytes:
        read.append(at)
        return real(fd, size, at)

    monkeypatch.setattr("os.pread", counting)
    with Joined(location=_location(tmp_path)) as joined:
        joined.origin.mode = "stalled"
        client = joined.client()
        client.send(post(BIG))
        assert len(joined.origin.last.transport.pending) <= HIGH_WATER + 2 * PIECE
        before = len(read)
        joined.advance(30)
        assert len(read) == before
        assert client.far.reading()  # it may leave, and that is to be seen
        joined.origin.last.take()
        assert joined.origin.last.taken().endswith(BIG)
        assert read == list(range(0, len(BIG), PIECE))
        joined.origin.last.send(response(b"thanks"))
        assert client.answer("POST").body == b"thanks"


def test_a_peer_that_takes_nothing_of_a_file_is_given_up(tmp_path: Path) -> None:
    with Joined(location=_location(tmp_path)) as joined:
        joined.origin.mode = "stalled"
        client = joined.client()
        client.send(post(BIG))
        joined.advance(61)
        assert client.answer("POST").status == 504
        assert any("while sending request to upstream" in line for line in joined.log.lines)
        assert _open_files(tmp_path) == []


def test_a_peer_that_takes_little_but_steadily_is_not(tmp_path: Path) -> None:
    with Joined(location=_location(tmp_path)) as joined:
        joined.origin.mode = "stalled"
        client = joined.client()
        client.send(post(BIG))
        peer = joined.origin.last
        for _ in range(5):
            joined.advance(50)
            del peer.transport.pending[:1000]
        assert not peer.closed()
        joined.advance(130)
        assert peer.closed()
        assert client.answer("POST").status == 504


def test_a_peer_that_never_answers_is_timed_out_from_the_end_of_the_content_on(tmp_path: Path) -> None:
    with Joined(location=_location(tmp_path)) as joined:
        joined.origin.mode = "stalled"
        client = joined.client()
        client.send(post(BIG))
        joined.advance(50)
        joined.origin.last.take()
        joined.advance(50)
        assert not joined.origin.last.closed()
        joined.advance(11)
        assert client.answer("POST").status == 504
        assert any("while reading response header from upstream" in line for line in joined.log.lines)


def test_an_early_answer_ends_the_sending(tmp_path: Path) -> None:
    with Joined(location=_location(tmp_path)) as joined:
        joined.origin.mode = "stalled"
        client = joined.client()
        client.send(post(BIG))
        joined.origin.last.send(response(b"no", status="413 Too Much"))
        answer = client.answer("POST")
        assert (answer.status, answer.body) == (413, b"no")
        assert joined.origin.last.closed()  # it waits for the rest of the content
        assert _open_files(tmp_path) == []


def test_a_client_that_leaves_takes_its_file_along(tmp_path: Path) -> None:
    for asked in (False, True):
        with Joined(location=_location(tmp_path)) as joined:
            joined.origin.mode = "stalled"
            client = joined.client()
            client.send(post(BIG)[: None if asked else -1])
            assert len(_open_files(tmp_path)) == 1
            client.far.reset()
            joined.loop.run()
            assert _open_files(tmp_path) == []


def test_an_upload_that_breaks_off_is_cleaned_up(tmp_path: Path) -> None:
    with Joined(location=_location(tmp_path, keep="clean")) as joined:
        client = joined.client()
        client.send(post(BIG)[:-1])
        assert len(os.listdir(tmp_path)) == 1
        joined.advance(61)
        assert joined.done == [(b"POST / HTTP/1.1", 408)]
        assert client.far.closed()
        assert client.far.received == b""
        assert os.listdir(tmp_path) == []


# client_body_in_file_only


def _path(exchange: Exchange) -> bytes:
    return variables.VARIABLES["request_body_file"](exchange) or b"none"


@pytest.mark.parametrize(("keep", "left"), [("on", 1), ("clean", 0)])
@pytest.mark.parametrize("body", [b"hello", BIG])
def test_each_content_has_its_file(tmp_path: Path, keep: str, left: int, body: bytes) -> None:
    paths: list[bytes] = []

    def note(exchange: Exchange) -> None:
        paths.append(_path(exchange))

    location = {**_location(tmp_path, keep=keep), "log": (note,)}
    with Joined(location=location) as joined:
        client = joined.client()
        client.send(post(body))
        assert joined.origin.last.taken().endswith(b"\r\n\r\n" + body)
        (name,) = os.listdir(tmp_path)
        assert (tmp_path / name).read_bytes() == body
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
        joined.origin.last.send(response())
        assert client.answer("POST").status == 200
        assert paths == [os.fsencode(tmp_path / name)]
        assert len(os.listdir(tmp_path)) == left
        client.send(get())
        joined.origin.last.send(response())
        assert paths[1:] == [b"none"]  # no content, no file


def test_the_variables_say_where_the_content_is(tmp_path: Path) -> None:
    seen: list[tuple[bytes | None, bool]] = []

    def note(exchange: Exchange) -> None:
        seen.append((variables.VARIABLES["request_body"](exchange), _path(exchange) != b"none"))

    with Joined(location={**_location(tmp_path, memory=10), "log": (note,)}) as joined:
        for body in (b"0123456789", b"0123456789" * 200):
            client = joined.client()
            client.send(post(body))
            joined.origin.last.send(response())
    assert seen == [(b"0123456789", False), (None, True)]


def test_folders_have_the_last_digits_of_the_name(tmp_path: Path) -> None:
    folder = BodyFolder(str(tmp_path), (1, 2), "on")
    for _ in range(3):
        file = folder.create()
        file.close()
        one, two, name = Path(file.path).relative_to(tmp_path).parts
        assert len(name) == 10
        assert name.endswith(two + one)
        assert (len(one), len(two)) == (1, 2)


def test_a_name_that_is_taken_is_passed_over(tmp_path: Path) -> None:
    folder = BodyFolder(str(tmp_path), (), "on")
    first = folder.create()
    first.append(b"mine")
    first.close()
    body_file._numbering._last = int(Path(first.path).name) - 1
    second = folder.create()
    second.close()
    assert second.path != first.path
    assert Path(first.path).read_bytes() == b"mine"


def test_without_a_folder_it_is_the_system_s(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    body_file._system_folder.cache_clear()
    try:
        file = BodyFolder().create()
        assert os.path.dirname(file.path) == str(tmp_path)
        assert not os.path.exists(file.path)
        file.append(b"content")
        assert file.read(3) == b"tent"
        file.close()
        file.close()
    finally:
        body_file._system_folder.cache_clear()


# What goes wrong


@contextmanager
def _disk_of(size: int) -> Iterator[None]:
    """Files of this process end at `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("step", [10_000, 600_000])
def test_a_full_disk_is_500_and_hangs_nobody(tmp_path: Path, step: int) -> None:
    with Joined(location=_location(tmp_path, keep="clean")) as joined:
        client = joined.client()
        wire = post(BIG)
        with _disk_of(100_000):
            for at in range(0, len(wire), step):
                client.send(wire[at : at + step])
        answer = client.answer("POST")
        assert (answer.status, answer.field("Connection")) == (500, "close")
        told = [line for line in joined.log.lines if "failed" in line]
        assert len(told) == 1
        assert told[0].startswith(f'client request body: pwrite() "{tmp_path}/')
        assert '" failed (27: File too large), client: ' in told[0]
        assert joined.origin.connections == []
        assert os.listdir(tmp_path) == []
        assert _open_files(tmp_path) == []
        # One that may still be sending is not reset, which would take the answer away.
        assert not client.far.closed()
        joined.advance(40)
        assert client.far.closed()


def test_a_folder_that_is_not_there_is_500(tmp_path: Path) -> None:
    with Joined(location=_location(tmp_path / "none")) as joined:
        client = joined.client()
        client.send(post(BIG))
        assert client.answer("POST").status == 500
        assert joined.log.lines[0].startswith(
            f'client request body: open() "{tmp_path}/none" failed (2: No such file or directory), client: '
        )
        assert joined.origin.connections == []


def test_a_file_that_somebody_cut_off_never_makes_a_whole_request(tmp_path: Path) -> None:
    with Joined(location=_location(tmp_path, keep="on")) as joined:
        joined.origin.mode = "stalled"
        client = joined.client()
        client.send(post(BIG))
        (name,) = os.listdir(tmp_path)
        os.truncate(tmp_path / name, 1000)
        joined.origin.last.take()
        assert client.answer("POST").status == 500
        assert joined.origin.last.closed()
        assert any(f'pread() "{tmp_path}/{name}" failed (only ' in line for line in joined.log.lines)


def test_too_much_in_chunks_is_413_and_leaves_nothing(tmp_path: Path) -> None:
    with Joined(location={**_location(tmp_path, keep="clean"), "max_body_size": 300_000}) as joined:
        client = joined.client()
        client.send(_chunked_post(BIG[:290_000], end=b""))
        assert len(os.listdir(tmp_path)) == 1
        client.send(chunks(bytes(10_001)))
        answer = client.answer("POST")
        assert (answer.status, answer.field("Connection")) == (413, "close")
        assert os.listdir(tmp_path) == []
        assert joined.origin.connections == []
