"""Servers and locations as compiled for a worker: what an exchange needs of them, bound once at load time.

Their inputs are plain values and callables; how they came out of a configuration is not known here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from upwell.http1.respond import SERVER
from upwell.log import ErrorLog
from upwell.proxy.absolute import USUAL, Redirects
from upwell.proxy.body_file import SYSTEM_FOLDER, BodyFolder

if TYPE_CHECKING:
    from upwell.proxy.error_page import ErrorPages
    from upwell.proxy.exchange import Exchange
    from upwell.proxy.files import Files
    from upwell.proxy.hints import Hints

Content = Callable[["Exchange"], Awaitable[None]]
Access = Callable[["Exchange"], "int | Awaitable[int | None] | None"]
Filter = Callable[["Exchange"], None]


async def not_found(exchange: Exchange) -> None:
    """The content handler of a location that has none: 404."""
    exchange.respond_error(404)


@dataclass(slots=True)
class Location:
    """One compiled `location` (or a server's own level). Times in seconds, sizes in bytes.

    `rewrite` handlers return None to go on or a status to answer with; so do `preaccess` and `access` handlers.
    `simple` says that there is nothing but `content` to run. `error_log` None: the endpoint's. `header_filters` see
    the response before its head is sent; `log` handlers run at the end; `early_hints` gets a peer's 103.
    `disable_msie6` and `disable_safari` are nginx's keepalive_disable. `error_pages` answer in place of a status.
    `chunks`: content of unknown length goes out in chunks (else it ends with the connection). `limit_rate` gives
    bytes a second, 0 for no limit; `limit_rate_after` how many are free. `hide`: the fields of a peer's answer that
    are not passed on; `charsets`: it may choose one (X-Accel-Charset). `files` says where its files
    are; `redirects`, what its own redirects look like; `variables`
    are those of which it has its own. `unnamed`: it is an `if` that requests turn into on their way through another
    location. `warns`: of variables that nobody has set. Requests with another method than `methods`
    are for `others`, if there are any.
    """

    name: str = ""
    content: Content = not_found
    rewrite: tuple[Access, ...] = ()
    preaccess: tuple[Access, ...] = ()
    access: tuple[Access, ...] = ()
    header_filters: tuple[Filter, ...] = ()
    log: tuple[Filter, ...] = ()
    error_log: ErrorLog | None = None
    error_pages: ErrorPages | None = None
    limit_rate: Callable[[Exchange], int] | None = None
    limit_rate_after: Callable[[Exchange], int] | None = None
    default_type: bytes = b"text/plain"
    types: Mapping[bytes, bytes] = field(default_factory=dict)
    signature: bytes = SERVER
    proxy_host: bytes | None = None
    proxy_port: bytes = b""
    max_body_size: int = 1 << 20
    body_buffer_size: int = 16_384
    body_folder: BodyFolder = SYSTEM_FOLDER
    body_timeout: float = 60.0
    send_timeout: float = 60.0
    keepalive_timeout: float = 75.0
    keepalive_line: bytes = b"Connection: keep-alive\r\n"
    keepalive_requests: int = 1000
    keepalive_time: float = 3600.0
    keepalive_min_timeout: float = 0.0
    disable_msie6: bool = True
    disable_safari: bool = False
    lingering_close: str = "on"
    lingering_time: float = 30.0
    lingering_timeout: float = 5.0
    reset_timedout: bool = False
    internal: bool = False
    chunks: bool = True
    early_hints: Hints | None = None
    hide: frozenset[bytes] = frozenset()
    charsets: bool = False
    files: Files | None = None
    redirects: Redirects = USUAL
    variables: Mapping[str, Callable[[Exchange], bytes | None]] = field(default_factory=dict)
    unnamed: bool = False
    warns: bool = True
    methods: frozenset[bytes] = frozenset()
    others: Location | None = None
    simple: bool = False
    server_line: bytes = field(default=b"")

    def __post_init__(self) -> None:
        self.server_line = b"Server: " + self.signature + b"\r\n"
        self.simple = not (self.others or self.rewrite or self.preaccess or self.access)

    def __repr__(self) -> str:
        return f"<Location {self.name}>"


@dataclass(slots=True, eq=False)
class Server:
    """One compiled `server`. `name` is its first server_name; `locate(exchange)` finds the location for
    `exchange.uri`.
    """

    name: str
    fallback: Location
    locate: Callable[[Exchange], Location]
    named: dict[str, Location] = field(default_factory=dict)
    rewrite: tuple[Access, ...] = ()

    def __repr__(self) -> str:
        return f"<Server {self.name}>"
