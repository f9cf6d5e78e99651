"""The command line: nginx's flags, words and exit codes, each in a process of its own."""

from __future__ import annotations

import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from upwell import cli
from upwell.contrib.processes import free_ports
from upwell.version import data_plane

GOOD = """\
events {}
pid logs/n.pid;
error_log logs/e.log info;
http { server { listen 127.0.0.1:%d; return 200 ok; } }
"""


def upwell(*arguments: str, cwd: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "upwell", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=cwd)


@pytest.fixture
def prefix() -> Iterator[Path]:
    """A prefix with a good configuration and no logs folder yet."""
    # Not tmp_path: workers that are no longer root must be able to open logs in it.
    folder = Path(tempfile.mkdtemp(prefix="upwell-test-"))
    folder.chmod(0o755)
    (folder / "conf").mkdir()
    (folder / "conf" / "nginx.conf").write_text(GOOD % free_ports(1)[0])
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


# Reading the command line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-x"], 'invalid option: "x"'),
        (["-tx"], 'invalid option: "x"'),
        (["--help"], 'invalid option: "-"'),
        (["-t", "foo"], 'invalid option: "foo"'),
        (["-c"], 'option "-c" requires file name'),
        (["-tc"], 'option "-c" requires file name'),
        (["-e"], 'option "-e" requires file name'),
        (["-p"], 'option "-p" requires directory name'),
        (["-g"], 'option "-g" requires parameter'),
        (["-s"], 'option "-s" requires parameter'),
        (["-s", "foo"], 'invalid option: "-s foo"'),
        (["-sfoo"], 'invalid option: "-s foo"'),
    ],
)
def test_bad_options(arguments: list[str], words: str) -> None:
    with pytest.raises(cli.UsageError) as caught:
        cli.parse(arguments)
    assert str(caught.value) == words


def test_options() -> None:
    options = cli.parse(["-tqc", "a.conf", "-pfoo", "-e", "stderr", "-g", "daemon off;", "-sreload"])
    assert (options.test, options.quiet, options.dump, options.show_version) == (True, True, False, False)
    assert (options.conf_file, options.prefix, options.error_log) == ("a.conf", "foo", "")
    assert (options.directives, options.signal) == ("daemon off;", "reload")


def test_options_by_default() -> None:
    options = cli.parse(["-"])
    assert (options.conf_file, options.error_log) == ("conf/nginx.conf", "logs/error.log")
    assert options.prefix == "/usr/local/upwell/"
    assert (options.test, options.signal, options.foreground) == (False, "", False)


def test_a_bad_option_in_a_process() -> None:
    ended = upwell("-c")
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", 'nginx: option "-c" requires file name\n')


def test_an_unknown_command_shows_the_usage() -> None:
    ended = upwell("serve")
    assert ended.returncode == 1
    assert ended.stderr.startswith('nginx: invalid option: "serve"\nUsage: upwell [-?hvVtTq]')
    assert "upwell demo [--keep]" in ended.stderr


# Answers that need no configuration


def test_version() -> None:
    ended = upwell("-v")
    assert (ended.returncode, ended.stdout) == (0, "")
    assert ended.stderr == "nginx version: nginx/1.31.4 (upwell/0.1.0)\n"


def test_version_imports_next_to_nothing() -> None:
    code = "import sys; from upwell.cli import main; main(['-v']); print(*sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    loaded = ended.stdout.split()
    ours = {name for name in loaded if name.split(".")[0] == "upwell"}
    assert ours == {"upwell", "upwell.cli", "upwell.version"}
    assert not {"uvloop", "lupa", "lmdb", "asyncio", "ssl", "socket", "argparse"} & set(loaded)


def test_configure_arguments() -> None:
    ended = upwell("-V")
    lines = ended.stderr.splitlines()
    assert ended.returncode == 0
    assert lines[0] == "nginx version: nginx/1.31.4 (upwell/0.1.0)"
    assert lines[1].startswith("built with OpenSSL ")
    assert lines[2] == f"data plane: {data_plane()}"
    assert lines[-1].startswith("configure arguments: --with")


@pytest.mark.parametrize("flag", ["-h", "-?"])
def test_help(flag: str) -> None:
    ended = upwell(flag)
    assert ended.returncode == 0
    assert ended.stderr.startswith("nginx version: nginx/1.31.4 (upwell/0.1.0)\nUsage: ")


# -t and -T


def test_a_good_configuration(prefix: Path) -> None:
    ended = upwell("-p", str(prefix), "-t")
    path = f"{prefix}/conf/nginx.conf"
    assert ended.returncode == 0
    assert ended.stderr.splitlines() == [
        f"nginx: the configuration file {path} syntax is ok",
        f"nginx: configuration file {path} test is successful",
    ]
    assert ended.stdout == ""
    assert not (prefix / "logs" / "n.pid").exists()


def test_quietly(prefix: Path) -> None:
    ended = upwell("-p", str(prefix), "-tq")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_with_the_version_first(prefix: Path) -> None:
    ended = upwell("-p", str(prefix), "-vt")
    assert ended.returncode == 0
    assert ended.stderr.startswith("nginx version: ")
    assert ended.stderr.endswith("test is successful\n")


def test_every_error_is_listed(prefix: Path) -> None:
    path = prefix / "bad.conf"
    path.write_text("events {}\nfoo;\n  bar 1;\n")
    for quiet in ("-t", "-tq"):
        ended = upwell("-p", str(prefix), "-c", "bad.conf", quiet)
        assert ended.returncode == 1
        assert ended.stderr.splitlines() == [
            f'nginx: [emerg] unknown directive "foo" in {path}:2:1',
            f'nginx: [emerg] unknown directive "bar" in {path}:3:3',
            f"nginx: configuration file {path} test failed",
        ]
    log = (prefix / "logs" / "error.log").read_text()
    assert f'unknown directive "foo" in {path}:2:1' in log


def test_a_missing_file(prefix: Path) -> None:
    ended = upwell("-p", str(prefix), "-c", "no.conf", "-t")
    path = prefix / "no.conf"
    assert ended.returncode == 1
    assert ended.stderr.splitlines() == [
        f'nginx: [emerg] open() "{path}" failed (2: No such file or directory)',
        f"nginx: configuration file {path} test failed",
    ]


def test_a_relative_prefix(prefix: Path) -> None:
    ended = upwell("-p", prefix.name, "-t", cwd=str(prefix.parent))
    assert ended.stderr.endswith(f"nginx: configuration file {prefix.name}/conf/nginx.conf test is successful\n")
    assert ended.returncode == 0


def test_without_a_prefix_folder() -> None:
    ended = upwell("-p", "/nonexistent", "-t")
    assert ended.returncode == 1
    assert ended.stderr.startswith(
        'nginx: [alert] could not open error log file: open() "/nonexistent/logs/error.log" '
        "failed (2: No such file or directory)\n"
    )
    assert "[emerg] " in ended.stderr
    assert ended.stderr.endswith("nginx: configuration file /nonexistent/conf/nginx.conf test failed\n")


def test_dump(prefix: Path) -> None:
    conf = prefix / "conf" / "nginx.conf"
    (prefix / "conf" / "more.conf").write_bytes(b"# \xff\nworker_processes 2;\n")
    conf.write_text("include more.conf;\n" + conf.read_text())
    ended = subprocess.run(
        [sys.executable, "-m", "upwell", "-p", str(prefix), "-Tq"], capture_output=True, timeout=60, check=False
    )
    assert ended.returncode == 0
    assert ended.stdout == (
        f"# configuration file {conf}:\n{conf.read_text()}\n# configuration file {prefix}/conf/more.conf:\n".encode()
        + b"# \xff\nworker_processes 2;\n\n"
    )


def test_the_text_of_g(prefix: Path) -> None:
    ended = upwell("-p", str(prefix), "-t", "-g", "daemo off;")
    assert ended.returncode == 1
    assert ended.stderr.startswith('nginx: [emerg] unknown directive "daemo" in command line\n')
    assert upwell("-p", str(prefix), "-t", "-g", "worker_processes 3;").returncode == 0


def test_a_log_that_cannot_be_opened(prefix: Path) -> None:
    conf = prefix / "conf" / "nginx.conf"
    conf.write_text(conf.read_text().replace("logs/e.log", "nowhere/e.log"))
    ended = upwell("-p", str(prefix), "-t")
    assert ended.returncode == 1
    assert f'nginx: [emerg] open() "{prefix}/nowhere/e.log" failed (2: No such file or directory)' in ended.stderr
    assert ended.stderr.endswith("test failed\n")


def test_a_pid_file_that_cannot_be_written(prefix: Path) -> None:
    conf = prefix / "conf" / "nginx.conf"
    conf.write_text(conf.read_text().replace("logs/n.pid", "nowhere/n.pid"))
    ended = upwell("-p", str(prefix), "-t")
    assert ended.returncode == 1
    assert f'nginx: [emerg] open() "{prefix}/nowhere/n.pid" failed (2: No such file or directory)' in ended.stderr


def test_an_address_in_use_is_no_fault_of_the_file(prefix: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        (prefix / "conf" / "nginx.conf").write_text(GOOD % other.getsockname()[1])
        assert upwell("-p", str(prefix), "-t").returncode == 0


# -s


def test_signal_without_a_pid_file(prefix: Path) -> None:
    ended = upwell("-p", str(prefix), "-s", "stop")
    assert ended.returncode == 1
    pid = prefix / "logs" / "n.pid"
    assert ended.stderr == f'nginx: [error] open() "{pid}" failed (2: No such file or directory)\n'
    assert "signal process started" in (prefix / "logs" / "error.log").read_text()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", '[error] invalid PID number "" in "{}"'),
        ("x\n", '[error] invalid PID number "x" in "{}"'),
        ("4194305\n", "[alert] kill(4194305, 1) failed (3: No such process)"),
    ],
)
def test_signal_with_a_bad_pid_file(prefix: Path, content: str, words: str) -> None:
    pid = prefix / "logs" / "n.pid"
    pid.parent.mkdir()
    pid.write_text(content)
    ended = upwell("-p", str(prefix), "-s", "reload")
    assert (ended.returncode, ended.stderr) == (1, f"nginx: {words.format(pid)}\n")


def test_signal_with_a_bad_file(prefix: Path) -> None:
    (prefix / "conf" / "nginx.conf").write_text("foo;")
    ended = upwell("-p", str(prefix), "-s", "quit")
    assert ended.returncode == 1
    assert 'nginx: [emerg] unknown directive "foo"' in ended.stderr


# The whole round


@pytest.mark.parametrize("closed", ["", "<&- >&- 2>&-"], ids=["", "without standard files"])
def test_start_signal_stop(prefix: Path, closed: str) -> None:
    """`upwell`, `-s reload`, `-s reopen`, `-s quit` as an init script would, with the real parts."""
    pid_file, log = prefix / "logs" / "n.pid", prefix / "logs" / "e.log"
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-m", "upwell", "-p", str(prefix)]
    started = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (started.returncode, started.stderr) == (0, "")
    master = int(pid_file.read_text())
    try:
        for word in ("reload", "reopen"):
            assert upwell("-p", str(prefix), "-s", word).returncode == 0
        ended = upwell("-p", str(prefix), "-s", "quit")
        assert (ended.returncode, ended.stderr) == (0, "")
        waiter = os.pidfd_open(master)
        try:
            assert select.select([waiter], [], [], 20)[0], log.read_text()
        finally:
            os.close(waiter)
    finally:
        if pid_file.exists():
            os.kill(master, 9)
    assert not pid_file.exists()
    assert "signal 3 (SIGQUIT) received, shutting down" in log.read_text()
    assert "[emerg]" not in log.read_text()
