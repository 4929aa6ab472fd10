"""The threat model names code and tests for what it says: all of them are there, and every settings name is one."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from stream_worker.settings import Settings

ROOT = Path(__file__).parents[2]
PAGES = ("threat-model.md", "security.md")


def text(page: str) -> str:
    return (ROOT / "ops" / page).read_text(encoding="utf-8")


def test_what_stands_in_the_columns_of_code_and_tests_is_there() -> None:
    rows = [line.split(" | ") for line in text("threat-model.md").splitlines() if line.startswith("| ")]
    named = {path for row in rows if len(row) == 5 for cell in row[2:4] for path in re.findall(r"`([\w./-]+)`", cell)}
    assert len(named) > 40
    for path in named:
        assert (ROOT / path).exists() or (ROOT / "stream_worker" / path).exists(), path


def test_every_threat_says_what_is_left_over() -> None:
    threats = [
        line for line in text("threat-model.md").splitlines() if re.match(r"\| ([STRIDE](, [STRIDE])*: |a known)", line)
    ]
    assert len(threats) >= 25
    for line in threats:
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        assert len(cells) == 5, line
        assert all(cells), line


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)(?:#[^)]*)?\)", text(page)):
        assert (ROOT / "ops" / target).exists(), target


def test_the_examples_are_settings() -> None:
    examples = re.findall(r"```toml\n(.*?)```", text("security.md"), re.DOTALL)
    assert len(examples) >= 4
    for example in examples:
        given = tomllib.loads(example if example.startswith("[") else f"[kafka]\n{example}")
        for section, fields in given.items():
            known = type(getattr(Settings(), section)).model_fields
            assert set(fields) <= set(known), (section, set(fields) - set(known))
