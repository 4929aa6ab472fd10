"""What the README says is so: settings, commands, modules, and the code in it."""

from __future__ import annotations

import re
from pathlib import Path

from typer.main import get_command

from stream_worker.cli import app
from stream_worker.settings import markdown

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_settings_table_is_the_one_in_force() -> None:
    """If this fails: paste what `stream-worker config --defaults` prints."""
    table = re.search(r"<!-- settings: .*? -->\n(.*?)<!-- end of settings -->", README, re.DOTALL)
    assert table is not None
    assert table[1] == markdown()


def test_every_module_has_its_place_in_the_map() -> None:
    package = ROOT / "stream_worker"
    described_as_a_folder = {"scenes", "demo"}
    for module in package.rglob("*.py"):
        inside = module.relative_to(package)
        if module.name == "__init__.py":
            continue
        name = f"`{inside.parts[0]}/`" if inside.parts[0] in described_as_a_folder else f"`{module.name}`"
        assert name in README, f"{inside} has no place in the README's map"


def test_every_command_that_is_named_exists() -> None:
    commands = get_command(app).commands
    for name in re.findall(r"stream-worker (?:--\w+ \S+ )?([a-z][a-z-]*)", README):
        assert name in commands, f"the README names a command {name} that there is not"


def test_the_examples_compile() -> None:
    examples = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(examples) >= 2
    for number, example in enumerate(examples):
        compile(example, f"README example {number}", "exec")


def test_links_within_the_repository_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), f"the README links to {target}, which is not there"
