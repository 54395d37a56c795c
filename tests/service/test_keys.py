"""The file of API keys: what is taken, what is refused, and what happens when it changes."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import Forbidden, StartupError
from service.keys import Keys, sent_secret
from service.metrics import Metrics


def entry(name: str, secret: str, models: str = "") -> str:
    digest = hashlib.sha256(secret.encode()).hexdigest()
    return f'[{name}]\nsha256 = "{digest}"\n{models}\n'


def keys_of(folder: Path, text: str) -> Keys:
    path = folder / "keys.toml"
    path.write_text(text)
    return Keys(path, Metrics())


def test_a_key_is_found_by_either_header(tmp_path: Path) -> None:
    keys = keys_of(tmp_path, entry("alice", "a secret") + entry("bob", "another"))

    for headers in (
        {b"x-api-key": b"another"},
        {b"authorization": b"Bearer another"},
        {b"authorization": b"bearer another"},
    ):
        found = keys.find(headers)
        assert found is not None
        assert found.name == "bob"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {b"x-api-key": b""},
        {b"x-api-key": b"a secret "},
        {b"x-api-key": b"alice"},
        {b"x-api-key": hashlib.sha256(b"a secret").hexdigest().encode()},
        {b"authorization": b"a secret"},
        {b"authorization": b"Basic a secret"},
        {b"authorization": b"Bearer wrong", b"x-api-key": b"a secret"},
    ],
)
def test_nothing_else_is_a_key(tmp_path: Path, headers: dict[bytes, bytes]) -> None:
    assert keys_of(tmp_path, entry("alice", "a secret")).find(headers) is None


@given(st.binary(max_size=40))
def test_only_the_secret_itself_is_the_key(tmp_path_factory: pytest.TempPathFactory, sent: bytes) -> None:
    keys = keys_of(tmp_path_factory.mktemp("keys"), entry("alice", "s"))

    assert (keys.find({b"x-api-key": sent}) is not None) is (sent == b"s")
    assert sent_secret({b"authorization": b"Bearer " + sent}) == sent


def test_a_key_may_be_for_some_models(tmp_path: Path) -> None:
    keys = keys_of(tmp_path, entry("alice", "s", 'models = ["mine"]'))
    key = keys.find({b"x-api-key": b"s"})

    assert key is not None
    key.require("mine")
    with pytest.raises(Forbidden, match="key 'alice' may not ask for model 'other', only for mine"):
        key.require("other")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "it has no key"),
        ("nonsense", "Expected '=' after a key"),
        ("[alice]\n", "alice.sha256: Field required"),
        ('[alice]\nsha256 = "abc"\n', "alice.sha256: String should match"),
        (entry("alice", "s", "role = 1"), "alice.role: Extra inputs"),
        (entry('"al ice"', "s"), "String should match"),
        (entry("alice", "s") + entry("bob", "s"), "two keys have the same sha256"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str, told: str
) -> None:
    with pytest.raises(StartupError, match="--api-keys-file"):
        keys_of(tmp_path, text)
    assert told in caplog.text


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartupError):
        Keys(tmp_path / "none", Metrics())


def test_a_file_is_read_anew_when_it_changes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, metrics = tmp_path / "keys.toml", Metrics()
    path.write_text(entry("alice", "old"))
    keys = Keys(path, metrics)

    def known(secret: bytes) -> bool:
        return keys.find({b"x-api-key": secret}) is not None

    def broken() -> float | None:
        return metrics.registry.get_sample_value("stripmlp_api_keys_error")

    path.write_text("nonsense")
    keys.refresh()
    keys.refresh()
    assert (known(b"old"), broken()) == (True, 1)
    assert caplog.text.count("stay as they are") == 1

    path.unlink()
    keys.refresh()
    assert (known(b"old"), broken()) == (True, 1)

    path.write_text(entry("alice", "new"))
    keys.refresh()
    assert (known(b"old"), known(b"new"), broken()) == (False, True, 0)
