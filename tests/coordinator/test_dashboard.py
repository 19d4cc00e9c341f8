"""The dashboard: who may see and press what, and that it shows what the commands print."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import re
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest

from coordinator.config import Admin, parse_settings, settings_template
from coordinator.dashboard.accounts import new_user
from coordinator.database import member_rows, user_rows
from coordinator.database.user_rows import UserRole
from coordinator.enrolment.authority import save_authority
from coordinator.opened import OpenHome
from coordinator.views.members import member_list
from coordinator.views.overview import overview
from coordinator.views.security import check_exported
from coordinator.views.sentence import run_sentence
from host.web import serving
from privacy.errors import LocalError, VerificationError
from protos.invitation import decode_invitation
from tests.worlds.coordinator import RUN_ID, World
from tests.worlds.dashboard import AUDITOR, OPERATOR, PASSWORD, Dashboard, Seeded, seed, served

PAGES = ("/", "/members", "/members/hospital-basel", f"/runs/{RUN_ID}", "/inbox", "/reports", "/security")


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Seeded:
    return seed(tmp_path_factory.mktemp("dashboard"), n=3)


@pytest.fixture(scope="module")
def site(seeded: Seeded) -> Iterator[Dashboard]:
    with served(seeded.opened, seeded.clock) as running:
        yield running


# --- who may see ---


@pytest.mark.parametrize("path", [*PAGES, "/security.json", f"/runs/{RUN_ID}/report.json"])
def test_without_a_login_every_page_leads_to_it(site: Dashboard, path: str) -> None:
    answer, page = site.ask("GET", path)
    assert (answer.status, answer.getheader("Location"), page) == (303, "/login", "")


@pytest.mark.parametrize("user", [OPERATOR, AUDITOR])
@pytest.mark.parametrize("path", PAGES)
def test_operators_and_auditors_read_every_page_under_a_strict_policy(site: Dashboard, path: str, user: str) -> None:
    answer, page = site.ask("GET", path, cookie=site.log_in(user))
    assert answer.status == 200
    assert f"{user}, " in page
    policy = answer.getheader("Content-Security-Policy") or ""
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"<style|style=|<script(?! src=)| on[a-z]+=", page)
    assert answer.getheader("Cache-Control") == "no-store"


def test_an_auditor_starts_at_the_reports_and_sees_no_button(site: Dashboard) -> None:
    answer, _ = site.ask("POST", "/login", fields={"name": AUDITOR, "password": PASSWORD})
    assert (answer.status, answer.getheader("Location")) == (303, "/reports")
    cookie = (answer.getheader("Set-Cookie") or "").partition(";")[0]
    for path in PAGES:
        _, page = site.ask("GET", path, cookie=cookie)
        assert set(re.findall(r'action="([^"]+)"', page)) <= {"/logout", "/security"}


def test_a_cookie_is_out_of_reach_of_scripts_and_other_sites(site: Dashboard) -> None:
    answer, _ = site.ask("POST", "/login", fields={"name": OPERATOR, "password": PASSWORD})
    cookie = (answer.getheader("Set-Cookie") or "").lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie


# --- who may press ---

ORDERS: dict[str, dict[str, str]] = {
    f"/runs/{RUN_ID}/pause": {},
    f"/runs/{RUN_ID}/resume": {},
    f"/runs/{RUN_ID}/abort": {},
    f"/runs/{RUN_ID}/exclude": {"member": "hospital-basel"},
    f"/runs/{RUN_ID}/include": {"member": "hospital-basel"},
    f"/runs/{RUN_ID}/export": {},
    "/members/hospital-basel/revoke": {},
    "/invitations": {"name": "newcomer", "role": "participant", "days": "7"},
}


@pytest.mark.parametrize("path", ORDERS)
def test_an_auditor_who_presses_a_button_anyway_is_refused(site: Dashboard, path: str) -> None:
    cookie = site.log_in(AUDITOR)
    answer, page = site.ask("POST", path, cookie=cookie, fields={**ORDERS[path], "form_token": site.form_token(cookie)})
    assert (answer.status, "E-LOGIN-ROLE" in page) == (403, True)


def test_an_operator_pauses_and_resumes_and_the_security_log_says_who(site: Dashboard) -> None:
    cookie = site.log_in(OPERATOR)
    fields = {"form_token": site.form_token(cookie)}
    answer, _ = site.ask("POST", f"/runs/{RUN_ID}/pause", cookie=cookie, fields=fields)
    assert (answer.status, answer.getheader("Location"), site.paused()) == (303, f"/runs/{RUN_ID}", True)
    assert "Resume" in site.ask("GET", f"/runs/{RUN_ID}", cookie=cookie)[1]
    site.ask("POST", f"/runs/{RUN_ID}/resume", cookie=cookie, fields=fields)
    assert not site.paused()
    assert site.security_rows("ordered")[-2:] == [(OPERATOR, f"pause {RUN_ID}"), (OPERATOR, f"resume {RUN_ID}")]


def test_an_order_that_the_command_would_refuse_is_refused_here_with_the_same_words(site: Dashboard) -> None:
    cookie = site.log_in(OPERATOR)
    fields = {"form_token": site.form_token(cookie), "member": "hospital-basel"}
    answer, page = site.ask("POST", f"/runs/{RUN_ID}/exclude", cookie=cookie, fields=fields)
    assert answer.status == 400
    assert "without hospital-basel 2 of 3 would be left" in page


def test_an_invitation_is_shown_once_and_is_the_one_that_the_database_knows(site: Dashboard) -> None:
    cookie = site.log_in(OPERATOR)
    fields = {"form_token": site.form_token(cookie), "name": "clinic-bern", "role": "evaluator", "days": "2"}
    answer, page = site.ask("POST", "/invitations", cookie=cookie, fields=fields)
    token = re.search(r'class="token">([^<]+)<', page)
    assert answer.status == 200
    assert token
    made = decode_invitation(token[1])
    with site.opened.store.read() as connection:
        known = {each.token_id: each for each in member_rows.list_tokens(connection)}
    assert (known[made.token_id].name, known[made.token_id].role.value) == ("clinic-bern", "evaluator")


# --- what is shown ---


def test_the_pages_show_the_values_that_the_commands_print(site: Dashboard, seeded: Seeded) -> None:
    cookie, now = site.log_in(OPERATOR), int(seeded.clock.now())
    said = run_sentence(overview(site.opened, RUN_ID), now)
    assert f"{said.text}." in site.ask("GET", "/", cookie=cookie)[1]
    assert f"{said.text}." in site.ask("GET", f"/runs/{RUN_ID}", cookie=cookie)[1]
    _, page = site.ask("GET", "/members", cookie=cookie)
    shown = re.findall(r'id="m-([^"]+)".*?class="state [a-z]+">([a-z]+)<', page, re.DOTALL)
    assert shown == [(member.name, member.presence.value) for member in member_list(site.opened).members]


def test_the_security_log_is_filtered_and_exported_with_its_chain(site: Dashboard) -> None:
    cookie = site.log_in(OPERATOR)
    _, page = site.ask("GET", "/security?kind=enrolled&subject=basel", cookie=cookie)
    assert re.findall(r"<td>(enrolled|[a-z-]+added)</td><td>([^<]*)</td>", page) == [("enrolled", "hospital-basel")]
    _, data = site.ask("GET", "/security.json", cookie=cookie)
    rows = check_exported(data.encode())
    assert rows[-1].kind == "login"
    document = json.loads(data)
    document["rows"][3]["subject"] = "somebody-else"
    with pytest.raises(VerificationError, match="row 4"):
        check_exported(json.dumps(document).encode())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, Dashboard]]:
    """A run that real members have brought to its end."""
    directory = tmp_path_factory.mktemp("finished")
    world = World(directory, rounds=2, evaluated=True)
    asyncio.run(world.settle())
    save_authority(world.home.authority, world.authority)
    with world.store.begin() as connection:
        for role in UserRole:
            user_rows.add_user(connection, new_user(f"{role.value}-ann", role, PASSWORD, 0))
    with served(OpenHome(world.home, world.settings, world.store), world.clock) as site:
        yield world, site


def test_an_auditor_reads_the_report_as_a_page_and_as_the_signed_file(finished: tuple[World, Dashboard]) -> None:
    world, site = finished
    cookie = site.log_in(AUDITOR)
    assert f'href="/runs/{RUN_ID}/report"' in site.ask("GET", "/reports", cookie=cookie)[1]
    answer, page = site.ask("GET", f"/runs/{RUN_ID}/report", cookie=cookie)
    assert (answer.status, "Privacy report" in page) == (200, True)
    assert "style-src 'sha256-" in (answer.getheader("Content-Security-Policy") or "")
    _, data = site.ask("GET", f"/runs/{RUN_ID}/report.json", cookie=cookie)
    assert data.encode() == (world.home.run(RUN_ID) / "report.json").read_bytes()


def test_an_operator_exports_what_the_command_exports(finished: tuple[World, Dashboard]) -> None:
    world, site = finished
    cookie, host = site.log_in(OPERATOR), site.address
    fields = {"form_token": site.form_token(cookie)}
    from http.client import HTTPConnection
    from urllib.parse import urlencode

    connection = HTTPConnection(host, timeout=20)
    headers = {"Cookie": cookie, "Origin": site.url, "Content-Type": "application/x-www-form-urlencoded"}
    connection.request("POST", f"/runs/{RUN_ID}/export", body=urlencode(fields), headers=headers)
    packed = zipfile.ZipFile(io.BytesIO(connection.getresponse().read()))
    connection.close()
    assert packed.read("plan.json") == world.plan.to_bytes()
    assert {"adapter/adapter_model.safetensors", "report.json", "plan.sig", "evaluations.json"} <= {*packed.namelist()}


# --- machines ---


def test_metrics_tell_of_runs_and_of_nobody(finished: tuple[World, Dashboard]) -> None:
    world, site = finished
    answer, text = site.ask("GET", "/metrics", headers={"Host": "10.0.0.7:9"})
    assert answer.status == 200
    assert (answer.getheader("Content-Type") or "").startswith("text/plain; version=0.0.4")
    run = f'{{run="{RUN_ID}"}}'
    expected = {
        'onlysum_runs{state="completed"}': 1,
        'onlysum_runs{state="running"}': 0,
        f"onlysum_run_rounds_completed_total{run}": 2,
        f"onlysum_run_dropouts_total{run}": 0,
        f"onlysum_run_participants{run}": 3,
        f"onlysum_run_uploaded_bytes_total{run}": 2 * 3 * 48,
        'onlysum_members{role="participant",state="away"}': 3,
    }
    found = {
        name: float(value) for name, value in re.findall(r"^([a-z_]+(?:\{[^}]*\})?) ([0-9.e+-]+)$", text, re.MULTILINE)
    }
    assert {name: found.get(name) for name in expected} == expected
    assert not [name for name in world.members if name in text]


def test_metrics_of_an_open_phase_count_who_has_answered(site: Dashboard) -> None:
    _, text = site.ask("GET", "/metrics")
    assert f'onlysum_run_phase{{phase="COLLECT_MASKED",run="{RUN_ID}"}} 1.0' in text
    assert f'onlysum_run_phase_expected{{run="{RUN_ID}"}} 3.0' in text
    assert not re.search(r"hospital-|clinic-", text)


def test_a_listener_is_alive_and_ready_and_says_why_it_is_not(tmp_path: Path) -> None:
    world = seed(tmp_path, n=3)
    with served(world.opened, world.clock) as site:
        assert [site.ask("GET", path)[0].status for path in ("/livez", "/readyz")] == [200, 200]
        world.opened.home.status_file.unlink()
        answer, said = site.ask("GET", "/readyz")
        assert (answer.status, said) == (503, "starting\n")


# --- configuration and files ---


def test_vendored_files_are_those_of_the_list_and_their_licences_travel_with_them() -> None:
    folder = files("host.web")
    listed = tomllib.loads(folder.joinpath("vendored/vendored.toml").read_text())["package"]
    assert [(each["name"], each["version"], each["licence"]) for each in listed] == [
        ("htmx.org", "2.0.11", "0BSD"),
        ("uplot", "1.6.32", "MIT"),
    ]
    for each in listed:
        assert "Permission" in folder.joinpath(f"vendored/{each['licence_file']}").read_text()
        for name, digest in each["files"].items():
            assert hashlib.sha256(folder.joinpath(f"static/{name}").read_bytes()).hexdigest() == digest


ADMINS = {
    "this machine": ('listen = "127.0.0.1:8445"', True),
    "this machine by name": ('listen = "localhost:8445"', True),
    "everybody, in the clear": ('listen = "0.0.0.0:8445"', False),
    "everybody, behind a proxy with TLS": ('listen = "0.0.0.0:8445"\norigin = "https://sum.example.org"', True),
    "an origin in the clear": ('listen = "127.0.0.1:8445"\norigin = "http://sum.example.org"', False),
    "an origin with a path": ('listen = "127.0.0.1:8445"\norigin = "https://sum.example.org/x"', False),
    "an unknown key": ('listen = "127.0.0.1:8445"\nlisten_on = 1', False),
}


@pytest.mark.parametrize("case", ADMINS)
def test_the_dashboard_is_served_beyond_this_machine_only_behind_tls(case: str) -> None:
    lines, allowed = ADMINS[case]
    text = settings_template(federation="a", operator="I", also=[], participants="h:1", enrolment="h:2")
    text += f"\n[admin]\n{lines}\n"
    if allowed:
        assert isinstance(parse_settings(text).admin, Admin)
        return
    with pytest.raises(LocalError) as refused:
        parse_settings(text)
    assert refused.value.code in ("E-CONFIG-INVALID", "E-CONFIG-UNKNOWN-KEY")


def test_a_port_that_is_taken_is_an_error_with_a_code() -> None:
    with serving.bind("127.0.0.1:0") as taken, pytest.raises(LocalError) as refused:
        serving.bind(f"127.0.0.1:{taken.getsockname()[1]}")
    assert refused.value.code == "E-PORT"
