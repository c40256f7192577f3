"""The page docs/reference/cli.md: the help of the program and of every command.

python -m srel_hub.commands.reference > docs/reference/cli.md
"""

from collections.abc import Iterator

from srel_hub.commands.command import EXIT_CODES, WIDEST, Parser
from srel_hub.commands.program import COMMANDS, GROUPS, help_page


def reference() -> str:
    """Return the page as Markdown. It does not depend on the terminal."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "<!-- Generated: python -m srel_hub.commands.reference > docs/reference/cli.md -->"
    yield "# Command line"
    yield ""
    yield "`srel-hub` and `python -m srel_hub` are the same program."
    yield ""
    yield from ("```text", help_page(), "```", "")
    yield "Exit codes of all commands:"
    yield ""
    yield from (f"- `{code}`: {meaning}" for code, meaning in EXIT_CODES.items())
    yield ""
    yield "Several processes share the work of a stage, a sweep or a study if `accelerate launch` starts them:"
    yield ""
    yield "```bash"
    yield "accelerate launch -m srel_hub.condense recipes/in1k_ipc50.yaml"
    yield "accelerate launch -m srel_hub sweep recipes/quickstart.yaml recover.iterations=100,500"
    yield "```"
    for group, title in GROUPS.items():
        yield from ("", f"## {title}")
        for command in COMMANDS:
            if command.group == group:
                yield from ("", f"### {command.name}", "", "```text")
                yield Parser(command, WIDEST).format_help().rstrip()
                yield "```"


if __name__ == "__main__":
    print(reference(), end="")
