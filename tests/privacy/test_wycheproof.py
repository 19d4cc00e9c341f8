"""Project Wycheproof's edge cases for the three primitives that others' bytes reach."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from privacy.secagg import keys
from privacy.secagg.keys import AgreementKey
from privacy.secret import SecretBytes
from tests.worlds.shared_data import shared_data


def cases(name: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return (group, test) of a file."""
    document = json.loads(shared_data(f"wycheproof/{name}").read_text())
    found = [(group, test) for group in document["testGroups"] for test in group["tests"]]
    assert len(found) == document["numberOfTests"]
    return found


def unhex(test: dict[str, Any], *fields: str) -> list[bytes]:
    return [bytes.fromhex(test[field]) for field in fields]


def test_ed25519_verifies_exactly_the_valid_signatures() -> None:
    for group, test in cases("ed25519_test.json"):
        message, signature = unhex(test, "msg", "sig")
        public = bytes.fromhex(group["publicKey"]["pk"])
        assert keys.verify(public, signature, message) == (test["result"] == "valid"), test["comment"]


def test_x25519_agrees_or_refuses_a_zero_result() -> None:
    refused = 0
    for _, test in cases("x25519_test.json"):
        private, public, shared = unhex(test, "private", "public", "shared")
        try:
            assert AgreementKey(SecretBytes(private)).agree(public).reveal() == shared, test["comment"]
            assert "ZeroSharedSecret" not in test["flags"]
        except ValueError:
            assert "ZeroSharedSecret" in test["flags"]
            refused += 1
    assert refused == 31


def test_hkdf_gives_the_output_or_refuses_the_size() -> None:
    for _, test in cases("hkdf_sha256_test.json"):
        ikm, salt, info, okm = unhex(test, "ikm", "salt", "info", "okm")
        if test["result"] == "valid":
            assert HKDF(algorithm=SHA256(), length=test["size"], salt=salt, info=info).derive(ikm) == okm
        else:
            with pytest.raises(ValueError, match="larger"):
                HKDF(algorithm=SHA256(), length=test["size"], salt=salt, info=info)
