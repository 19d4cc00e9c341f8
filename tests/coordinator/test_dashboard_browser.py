"""The dashboard in a browser: accessible in light and dark, on a telephone, small, and asking nobody else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator.database import label_rows
from tests.worlds.coordinator import RUN_ID
from tests.worlds.dashboard import PASSWORD, Dashboard, seed, served
from tests.worlds.live_browser import Browser, browsing

NARROW = 360  # of a telephone
MOST_BYTES = 200_000  # of a page with all that it loads
PAGES = (
    *("/login", "/", "/?label=study%3Dlung", "/members", "/members/hospital-basel", f"/runs/{RUN_ID}"),
    *("/inbox", "/reports", "/security", "/nothing"),
)
WINDOWS = [
    pytest.param(1280, False, id="wide-light"),
    pytest.param(NARROW, True, id="narrow-dark"),
    pytest.param(1280, True, id="wide-dark", marks=pytest.mark.slow),
    pytest.param(NARROW, False, id="narrow-light", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    world = seed(tmp_path_factory.mktemp("dashboard"), n=50)
    with world.opened.store.begin() as connection:
        label_rows.set_labels(connection, RUN_ID, {"study": "lung", "a-long-key-for-a-telephone/2026.1": "w" * 64})
    with served(world.opened, world.clock) as running:
        yield running


@pytest.fixture(scope="module")
def browser(site: Dashboard) -> Iterator[Browser]:
    with browsing() as running:
        running.window(1280)
        running.visit(f"{site.url}/login")
        log_in(running)
        yield running


def log_in(browser: Browser) -> None:
    """Fill in the form and send it, as a person does."""
    fill = f"name.value = 'operator-ann'; password.value = '{PASSWORD}'"
    browser.submit(f"const [name, password] = document.querySelectorAll('main input'); {fill}; name.form.submit()")


def test_a_person_who_logs_in_lands_on_the_runs(browser: Browser, site: Dashboard) -> None:
    browser.visit(f"{site.url}/")
    assert browser.ask("document.querySelector('h1').textContent") == "Runs"
    assert browser.ask("document.querySelectorAll('.sentence').length") == 2


@pytest.mark.parametrize(("width", "dark"), WINDOWS)
@pytest.mark.parametrize("path", PAGES)
def test_a_page_has_no_grave_problem_fits_its_window_and_asks_nobody_else(
    browser: Browser, site: Dashboard, path: str, dark: bool, width: int
) -> None:
    browser.window(width, dark=dark, phone=width == NARROW)
    browser.visit(site.url + path)
    assert browser.grave_problems() == []
    assert browser.scroll_width() <= width
    assert browser.received < MOST_BYTES
    assert [url for url in browser.requests if not url.startswith(f"{site.url}/")] == []
    assert [error for error in browser.errors if "404" not in error] == []  # of scripts, and of the content policy


def test_axe_core_and_the_content_policy_would_find_what_is_wrong(browser: Browser, site: Dashboard) -> None:
    browser.window(1280)
    browser.visit(f"{site.url}/")
    pale = "const p = document.createElement('p'); p.style.color = '#ccc'; p.textContent = 'pale'; main.append(p)"
    browser.ask(f"const main = document.querySelector('main'); {pale}; true")
    assert [rule for rule, _, _ in browser.grave_problems()] == ["color-contrast"]
    foreign = "const s = document.createElement('script'); s.src = 'https://example.org/x.js'; document.head.append(s)"
    browser.ask(f"{foreign}; new Promise(done => setTimeout(() => done(1), 200))")
    assert any("Content Security Policy" in error for error in browser.errors)


def test_each_plot_is_drawn_from_its_table(browser: Browser, site: Dashboard) -> None:
    browser.window(1280)
    browser.visit(f"{site.url}/runs/{RUN_ID}")
    assert browser.ask("document.querySelectorAll('.canvas canvas').length") == 4
    rows = "[...document.querySelectorAll('figure table.data')].map(table => table.tBodies[0].rows.length)"
    assert browser.ask(rows) == [20, 24, 39, 40]  # every second round is measured; one round was voided
    cell = "document.querySelector('figure table.data tbody tr:last-child').textContent.trim().split(/\\s+/)"
    assert browser.ask(cell)[0].startswith("40")


def test_the_first_screen_renews_itself(browser: Browser, site: Dashboard) -> None:
    browser.visit(f"{site.url}/")
    browser.ask("document.querySelector('h1').textContent = 'old'; true")
    fresh = "new Promise(done => document.addEventListener('htmx:afterSettle', () => done(1), {once: true}))"
    renew = "htmx.ajax('GET', '/', {target: '#live', select: '#live', swap: 'outerHTML'})"
    browser.ask(f"{renew}; {fresh}")
    assert browser.ask("document.querySelector('h1').textContent") == "Runs"


def test_a_person_pauses_a_run_by_its_button(browser: Browser, site: Dashboard) -> None:
    browser.window(1280)
    browser.visit(f"{site.url}/runs/{RUN_ID}")
    browser.submit("document.querySelector('form[action$=\"/pause\"] button').click()")
    assert "paused" in browser.ask("document.querySelector('.sentence').textContent")
    browser.submit("document.querySelector('form[action$=\"/resume\"] button').click()")
    assert "well" in browser.ask("document.querySelector('.sentence').textContent")


def test_the_runs_of_a_label_stay_those_when_the_screen_renews_itself(browser: Browser, site: Dashboard) -> None:
    browser.window(1280)
    browser.visit(f"{site.url}/")
    assert browser.ask("document.querySelectorAll('.run-card').length") == 3
    browser.submit("document.querySelector('.run-card a.tag[href*=study]').click()")
    assert browser.ask("document.querySelectorAll('.run-card').length") == 1
    fresh = "new Promise(done => document.addEventListener('htmx:afterSettle', () => done(1), {once: true}))"
    renew = (
        "htmx.ajax('GET', document.querySelector('#live').getAttribute('hx-get'), {target: '#live', select: '#live'})"
    )
    browser.ask(f"{renew}; {fresh}")
    assert browser.ask("document.querySelectorAll('.run-card').length") == 1
    assert browser.ask("document.querySelector('input[name=label]').value") == "study=lung"


@pytest.mark.slow
def test_three_members_look_as_good_as_fifty(tmp_path: Path) -> None:
    world = seed(tmp_path, n=3)
    with served(world.opened, world.clock) as few, browsing() as browser:
        browser.visit(f"{few.url}/login")
        log_in(browser)
        for path in PAGES:
            for dark in (False, True):
                browser.window(NARROW, dark=dark, phone=True)
                browser.visit(few.url + path)
                assert browser.grave_problems() == []
                assert browser.scroll_width() <= NARROW
