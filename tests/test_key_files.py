"""Keys that are configured as the path of a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from mercure_hub.key_files import key_text, load_key
from mercure_hub.protocol.errors import KeyMaterialError
from mercure_hub.protocol.tokens.asymmetric import generate_pair

SECRET = "correct-horse-battery-staple-0123456789-abcdefghijklmnopqrstuvwxyz"
PEM, _ = generate_pair("rsa")


@pytest.mark.parametrize("content", [SECRET, f"{SECRET}\n", f"\n {SECRET} \r\n"])
def test_a_secret_is_read_from_a_file(tmp_path: Path, content: str) -> None:
    file = tmp_path / "secret"
    file.write_text(content)
    assert load_key(f"@{file}").material == SECRET.encode()


def test_a_pem_is_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "key with spaces.pem"
    file.write_text(PEM)
    assert load_key(f"@{file}").algorithms == ("RS256",)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("none", "No such file"), (".", "Is a directory"), ("a\0b", "not a text file"), ("x" * 300, "too long")],
)
def test_a_key_file_that_cannot_be_read_is_refused(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(KeyMaterialError, match="cannot be read") as refusal:
        load_key(f"@{tmp_path}/{name}")
    assert reason in str(refusal.value)


def test_a_key_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "key.der"
    file.write_bytes(b"\x30\x82\xff\xfe")
    with pytest.raises(KeyMaterialError, match="not a text file"):
        load_key(f"@{file}")


def test_a_key_that_is_no_path_is_taken_as_text() -> None:
    assert key_text(SECRET) == SECRET
    assert load_key(SECRET).material == SECRET.encode()


def test_the_path_of_something_that_exists_is_no_secret(tmp_path: Path) -> None:
    path = tmp_path / "a-secret-that-is-in-a-file-of-this-name"
    path.write_text(SECRET)
    for there in (path, tmp_path):
        with pytest.raises(KeyMaterialError, match="write @ before it") as refusal:
            load_key(str(there))
        assert str(there) not in str(refusal.value)
    assert load_key(f"@{path}").material == SECRET.encode()
