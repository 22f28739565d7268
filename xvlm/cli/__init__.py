"""Command-line interface: one file a command, found by its name.

A command file defines `command`, a function whose parameters are the command's arguments and options and
whose docstring is its help.  A command whose options depend on its first words also defines
`command_for(words)`, which parses them and returns the call that they stand for.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import tyro

from xvlm import registry
from xvlm.cli.common.failures import exit_code
from xvlm.cli.common.options import returning_call
from xvlm.common.memory import keep_freed_memory
from xvlm.common.renames import renamed_words
from xvlm.common.terminal import escaped_output

Call = Callable[[], object]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; `cli/common/failures.py` has the messages of failures and the exit codes."""
    keep_freed_memory()
    words = list(sys.argv[1:] if arguments is None else arguments)
    return exit_code(lambda: parse(renamed_words(words))(), words)


def parse(words: list[str]) -> Call:
    """Parse a command line and return the call that it stands for."""
    name, rest = (words[0], words[1:]) if words else ("", [])
    known = registry.names("cli")
    if name in known:
        module = registry.find("cli", name)
        if hasattr(module, "command_for") and rest[:1] not in (["-h"], ["--help"]):
            return module.command_for(rest)  # type: ignore[no-any-return]
        with escaped_output():
            return tyro.cli(returning_call(module.command), args=rest, prog=f"xvlm {name}")
    with escaped_output():  # the help, or an error that suggests a command
        return tyro.extras.subcommand_cli_from_dict(
            {one: returning_call(registry.find("cli", one).command) for one in known},
            prog="xvlm",
            description="Multi-grained vision-language pre-training.",
            args=words,
        )
