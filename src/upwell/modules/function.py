"""Python functions that a directive names: whether they can be imported where they will run. Runs none of them here."""

from __future__ import annotations

import os
import pwd
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from upwell.config.directive import Directive
from upwell.config.inherit import LOCAL
from upwell.config.model import Block
from upwell.modules.core import CoreSettings

FUNCTION: Final = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*(?:\.[^\W\d]\w*)*")
"""module:name"""


@dataclass(frozen=True, slots=True)
class _Tried:
    """On the main block while it is read: what is wrong with each function, "" for nothing."""

    wrong: Mapping[str, str] = field(default_factory=dict, metadata=LOCAL)


def check_function(block: Block, directive: Directive, index: int, function: str) -> None:
    """Raise an error at argument `index` if `function` cannot be imported by the user that workers run as.

    Modules are looked for where Python looks, and in the prefix: from now on by this process and those it forks.
    """
    from upwell.check.functions import import_trial  # for those who have such functions

    prefix = os.path.abspath(block.loading.prefix)
    if prefix not in sys.path:
        sys.path.append(prefix)
    main = block.around("main")
    core = main[CoreSettings]

    def become() -> None:
        if os.geteuid() != 0:
            return
        user = pwd.getpwnam(core.user or "nobody")
        gid = core.gid if core.gid is not None else user.pw_gid
        os.initgroups(user.pw_name, gid)
        os.setgid(gid)
        os.setuid(user.pw_uid)

    tried = main.own(_Tried).setdefault("wrong", {})
    if function not in tried:
        tried[function] = import_trial(function, become)
    block.loading.outside.append(object())  # what it does is in files that nobody knows: equal to nothing
    if tried[function]:
        raise directive.error(tried[function], index)
