"""The `upwell` command: nginx's flags with nginx's words and exit codes, and a few commands of its own.

Knows how to read the command line. Imports nothing else of upwell until an answer needs it, so that `-v` is instant.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from upwell.version import NGINX_VERSION, VERSION, data_plane

PREFIX = "/usr/local/upwell/"
"""Where everything is looked for without `-p` (nginx's would be /usr/local/nginx)."""
CONF_PATH = "conf/nginx.conf"
ERROR_LOG_PATH = "logs/error.log"

_SIGNALS = ("stop", "quit", "reopen", "reload")

_USAGE = f"""\
Usage: upwell [-?hvVtTq] [-s signal] [-p prefix]
              [-e filename] [-c filename] [-g directives]
       upwell run [nginx's options]
       upwell demo [--keep]
       upwell explain [nginx's options] [filename]

Options, as nginx has them:
  -?,-h         : show this
  -v            : show the version
  -V            : show the version and what upwell is built with
  -t            : test the configuration
  -T            : test the configuration and show it
  -q            : with -t, say nothing when all is well
  -s signal     : send a signal to the master process: stop, quit, reopen, reload
  -p prefix     : the folder that relative paths start from (default: {PREFIX})
  -e filename   : the error log until the configuration is read (default: {ERROR_LOG_PATH})
  -c filename   : the configuration file (default: {CONF_PATH})
  -g directives : directives of the main level to add

Commands:
  run           : serve in the foreground, whatever "daemon" says
  demo          : start four web apps with upwell before them and watch it keep them in use
  explain       : say in plain words what a configuration file has probed, how, how often, and by which rules

"""


class Options:
    """What the command line said. `signal` is "" unless `-s` was given; `error_log` "" means standard error."""

    __slots__ = (
        "conf_file",
        "directives",
        "dump",
        "error_log",
        "foreground",
        "prefix",
        "quiet",
        "show_configure",
        "show_help",
        "show_version",
        "signal",
        "test",
    )

    def __init__(self) -> None:
        self.show_version = False
        self.show_help = False
        self.show_configure = False
        self.test = False
        self.dump = False
        self.quiet = False
        self.foreground = False
        self.signal = ""
        self.prefix = PREFIX
        self.conf_file = CONF_PATH
        self.error_log = ERROR_LOG_PATH
        self.directives = ""


class UsageError(Exception):
    """The command line makes no sense; the text is nginx's sentence."""


def parse(arguments: Sequence[str]) -> Options:
    """Read the arguments as ngx_get_options does: letters may be joined, a value may follow its letter at once or be
    the next argument. Raises UsageError."""
    options = Options()
    rest = iter(arguments)
    for argument in rest:
        if not argument.startswith("-"):
            raise UsageError(f'invalid option: "{argument}"')
        at = 1
        while at < len(argument):
            letter = argument[at]
            at += 1
            if letter in _FLAGS:
                for name in _FLAGS[letter]:
                    setattr(options, name, True)
                continue
            if letter not in _VALUES:
                raise UsageError(f'invalid option: "{letter}"')
            name, missing = _VALUES[letter]
            value = argument[at:] or next(rest, None)
            if value is None:
                raise UsageError(f'option "-{letter}" requires {missing}')
            setattr(options, name, value)
            break
        if options.signal and options.signal not in _SIGNALS:
            raise UsageError(f'invalid option: "-s {options.signal}"')
    if options.error_log == "stderr":
        options.error_log = ""
    return options


_FLAGS = {
    "?": ("show_version", "show_help"),
    "h": ("show_version", "show_help"),
    "v": ("show_version",),
    "V": ("show_version", "show_configure"),
    "t": ("test",),
    "T": ("test", "dump"),
    "q": ("quiet",),
}
_VALUES = {
    "p": ("prefix", "directory name"),
    "e": ("error_log", "file name"),
    "c": ("conf_file", "file name"),
    "g": ("directives", "parameter"),
    "s": ("signal", "parameter"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what `arguments` (without the program's name; default: those of this process) ask for; the exit code."""
    _have_standard_files()
    given = list(sys.argv[1:] if arguments is None else arguments)
    command = given[0] if given and not given[0].startswith("-") else ""
    if command == "demo":
        from upwell.contrib.demo import main as demo

        return demo(given[1:])
    try:
        if command == "explain":
            return _explain(given[1:])
        options = parse(given[1:] if command == "run" else given)
    except UsageError as error:
        sys.stderr.write(f"nginx: {error}\n")
        if command:
            sys.stderr.write(_USAGE)
        return 1
    options.foreground = command == "run"
    if options.show_version:
        _show_version(options)
        if not options.test:
            return 0
    return _run(options)


def _have_standard_files() -> None:
    """Started with closed standard files (`>&-`), go on with /dev/null: else what is opened next, a listener or a log,
    has their numbers."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115 - for as long as the process lives
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def _show_version(options: Options) -> None:
    sys.stderr.write(f"nginx version: nginx/{NGINX_VERSION} (upwell/{VERSION})\n")
    if options.show_help:
        sys.stderr.write(_USAGE)
    if options.show_configure:
        import ssl

        from upwell.modules.load import configure_arguments

        sys.stderr.write(f"built with {ssl.OPENSSL_VERSION}\n")
        sys.stderr.write(f"data plane: {data_plane()}\n")
        sys.stderr.write(f"configure arguments: {' '.join(configure_arguments())}\n")


def _explain(arguments: list[str]) -> int:
    """The file may be named without `-c`; then it is looked for where the user is, not in the prefix."""
    from upwell.process.commands import explain_configuration
    from upwell.process.parts import real_parts

    named = arguments.pop() if arguments and _is_name(arguments) else None
    options = parse(arguments)
    prefix = _folder(options.prefix)
    path = _full(prefix, options.conf_file) if named is None else os.path.abspath(named)
    return explain_configuration(real_parts(path, prefix, options.directives), path, sys.stdout)


def _is_name(arguments: list[str]) -> bool:
    """Whether the last of `arguments` is neither an option nor the value of one."""
    if arguments[-1].startswith("-"):
        return False
    before = arguments[-2] if len(arguments) > 1 else ""
    return not (before.startswith("-") and before[-1] in _VALUES and not any(one in _VALUES for one in before[1:-1]))


def _folder(prefix: str) -> str:
    """Joined as nginx joins: a prefix without its slash gets one."""
    return prefix if not prefix or prefix.endswith("/") else f"{prefix}/"


def _run(options: Options) -> int:
    """Test, signal or serve."""
    from upwell.log import INFO, NOTICE

    pin_installation()
    from upwell.process.journal import open_boot_log
    from upwell.process.parts import real_parts

    prefix = _folder(options.prefix)
    path = _full(prefix, options.conf_file)
    boot_path = _full(prefix, options.error_log) if options.error_log else "stderr"
    boot = open_boot_log(boot_path, INFO if options.test else NOTICE)
    parts = real_parts(options.conf_file, prefix, options.directives)
    if options.test:
        from upwell.process.commands import check_configuration

        return check_configuration(parts, boot, path, options.quiet, sys.stdout if options.dump else None)
    if options.signal:
        from upwell.process.commands import send_signal

        return send_signal(parts, boot, options.signal)
    from upwell.process.master import Master

    return Master(parts, boot, options.foreground).run()


def pin_installation() -> None:
    """Go on with this installation even when the link that led to it (`/opt/upwell/current`) leads to another one soon:
    workers that are forked later import more of it, and the master of a newer one may run beside this."""
    package = sys.modules[__package__]
    sys.path[:] = [os.path.realpath(folder) if os.path.isabs(folder) else folder for folder in sys.path]
    package.__path__[:] = [os.path.realpath(folder) for folder in package.__path__]


def _full(prefix: str, path: str) -> str:
    """A file in the prefix; an absolute name stands alone."""
    return path if path.startswith("/") else prefix + path
