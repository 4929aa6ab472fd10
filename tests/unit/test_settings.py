"""Settings: where they come from, and what a mistake in them looks like."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from stream_worker.errors import Exit, UserError
from stream_worker.settings import Settings, Store, environment, load, shown


@pytest.fixture(autouse=True)
def _nothing_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STREAM_WORKER_KAFKA__BOOTSTRAP_SERVERS", raising=False)
    monkeypatch.delenv("STREAM_WORKER_LOCAL__DATA_DIR", raising=False)


def test_a_variable_wins_over_the_file_and_the_file_over_the_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "stream-worker.toml"
    file.write_text("[detector]\nconfidence = 0.4\niou = 0.5\n")
    monkeypatch.setenv("STREAM_WORKER_DETECTOR__CONFIDENCE", "0.6")
    settings = load()
    assert (settings.detector.confidence, settings.detector.iou, settings.detector.min_box_px) == (0.6, 0.5, 20)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[detector]\nconfidence = 2\n", "detector.confidence"),
        ("[detector]\nconfidenc = 0.2\n", "detector.confidenc"),
        ("[detektor]\nconfidence = 0.2\n", "detektor"),
        ("[kafka]\npartitions = 0\n", "kafka.partitions"),
        ("[kafka\n", "can't be read"),
        ("[detector]\nimage_size = 333\n", "detector.image_size"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_setting(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text(text)
    with pytest.raises(UserError) as error:
        load(file)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert error.value.exit_code is Exit.USAGE


def test_a_misspelt_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAM_WORKER_DETECTOR__CONFIDENC", "0.6")
    with pytest.raises(UserError, match="STREAM_WORKER_DETECTOR__CONFIDENC"):
        load()


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load(tmp_path / "none.toml")


def test_a_child_process_gets_exactly_these_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(store=Store(url="s3://bucket", secret_key=SecretStr("s3cret")))
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)
    assert load().model_dump() == settings.model_dump()
    assert load().store.secret_key == SecretStr("s3cret")


def test_secrets_are_not_shown() -> None:
    settings = Settings(store=Store(url="s3://bucket", access_key="AKIA-canary", secret_key=SecretStr("s3cret-canary")))
    assert "canary" not in str(shown(settings))
    assert "s3cret" not in str(settings)
