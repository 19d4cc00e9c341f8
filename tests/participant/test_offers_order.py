"""Datasets are announced in the order that the handshake demands, whatever their files are sorted like."""

from __future__ import annotations

import getpass
from pathlib import Path

import pytest

from participant.home import Home
from participant.owner.approval import approver
from participant.owner.registry import DatasetEntry, Registry
from protos.codec_fields import ascending

NAMES = ("wards.2024", "wards-2024", "wards", "ward", "wards_2024", "wards0")


def test_names_of_which_one_continues_another_are_announced_in_the_order_of_the_wire(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.make()
    registry = Registry(home)
    for name in NAMES:
        registry.add(DatasetEntry(name=name, path="/", added_at=0, rows=1))
    names = [offer.name for offer in registry.offers()]
    assert names == sorted(NAMES)
    ascending(names, "datasets")


def test_a_user_id_without_a_name_can_approve(monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr(getpass, "getuser", nameless)
    assert approver(None, ()).startswith("uid-")
    assert approver("ada", ("ada",)) == "ada"
