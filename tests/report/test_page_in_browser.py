"""The page in headless Chromium: quiet console, phone width, dark mode, tabs and sliders, run links."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from isocline.report import write_page

pytestmark = [pytest.mark.browser, pytest.mark.slow]

RUNS = {
    "tracking_uri": "sqlite:///mlflow.db",
    "experiment_id": "1",
    "parent": "p" * 32,
    "stages": {
        "train@flow": {"run_id": "a" * 32, "status": "ran", "seconds": 200.4, "timings": {"samples_per_second": 229.1}},
        "train@masked": {"seconds": 64.0},
        "evaluate-text@masked": {"seconds": 30.0, "timings": {"tokens_per_second_nfe_32": 5123.4}},
    },
}


def _browser_module() -> Any:
    spec = importlib.util.spec_from_file_location("report_browser", Path(__file__).with_name("browser.py"))
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with _browser_module().chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture(scope="module")
def page(project: tuple[Path, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("reports")
    write_page(*project, folder / "index.html")
    (folder / "runs.js").write_text(f"window.ISOCLINE_RUNS = {json.dumps(RUNS)};\n")
    return (folder / "index.html").as_uri()


def show(browser: Any, address: str, width: int = 1280, scheme: str = "light") -> None:
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(address)
    browser.execute_script("try { localStorage.clear(); } catch (e) {}")
    browser.get(address)


def test_the_console_stays_quiet(browser: Any, page: str) -> None:
    show(browser, page)
    browser.get_log("browser")
    browser.get(page)
    assert browser.get_log("browser") == []


def test_without_runs_the_page_says_where_they_are(browser: Any, project: Any, tmp_path: Path) -> None:
    write_page(*project, tmp_path / "index.html")
    show(browser, (tmp_path / "index.html").as_uri())
    errors = [e["message"] for e in browser.get_log("browser") if "runs.js" not in e["message"]]
    assert errors == []
    note = browser.find_element("id", "run-note").text
    assert "make ui" in note
    assert not browser.find_element("id", "run-panel").is_displayed()


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_the_page_does_not_scroll_sideways(browser: Any, page: str, width: int) -> None:
    show(browser, page, width)
    wide = browser.execute_script("return [document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wide[0] <= wide[1]


def test_an_empty_project_gives_a_page_that_fits_a_phone(browser: Any, tmp_path: Path) -> None:
    write_page(tmp_path, {}, tmp_path / "index.html")
    show(browser, (tmp_path / "index.html").as_uri(), 390)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390


def test_dark_mode_follows_the_system_and_the_button(browser: Any, page: str) -> None:
    def ground() -> str:
        return str(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))

    show(browser, page, scheme="light")
    light = ground()
    show(browser, page, scheme="dark")
    dark = ground()
    assert light != dark
    browser.find_element("css selector", ".theme").click()
    assert ground() == light
    browser.get(page)
    assert ground() == light  # the choice is kept
    browser.execute_script("localStorage.clear()")


CONTRAST = """
function lum(c) { return c.map(v => { v /= 255; return v <= .04045 ? v / 12.92 : Math.pow((v + .055) / 1.055, 2.4); })
  .reduce((s, v, i) => s + v * [.2126, .7152, .0722][i], 0); }
function rgb(name) { const e = document.createElement('i'); e.style.color = `var(${name})`; document.body.append(e);
  const c = getComputedStyle(e).color.match(/[0-9.]+/g).slice(0, 3).map(Number); e.remove(); return lum(c); }
const ratio = (a, b) => (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
const out = {};
for (const n of 'ink soft accent good warn c0 c1 c2 c3 c4 c5 c6 c7'.split(' ').map(n => '--' + n))
  out[n] = Math.min(ratio(rgb(n), rgb('--bg')), ratio(rgb(n), rgb('--card')));
return out;
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_colour_has_a_contrast_of_at_least_four_and_a_half(browser: Any, page: str, scheme: str) -> None:
    show(browser, page, scheme=scheme)
    ratios = browser.execute_script(CONTRAST)
    assert {name: ratio for name, ratio in ratios.items() if ratio < 4.5} == {}


def test_choosing_an_nfe_changes_the_grids_also_by_keyboard(browser: Any, page: str) -> None:
    show(browser, page)

    def shown() -> set[str]:
        items = browser.find_elements("css selector", "[data-for=grid]")
        return {item.get_attribute("data-nfe") for item in items if item.is_displayed()}

    assert shown() == {"32"}
    first = browser.find_element("css selector", "[data-pick=grid] input[value='1']")
    browser.execute_script("arguments[0].click()", first)
    assert shown() == {"1"}
    first.send_keys("\ue014")  # arrow right
    assert shown() == {"2"}


def test_the_slider_moves_every_picture_and_every_text(browser: Any, page: str) -> None:
    show(browser, page)

    def move(name: str, value: int) -> str:
        script = (
            "const i = document.querySelector(`[data-slide=${arguments[0]}] input`); i.value = arguments[1];"
            "i.dispatchEvent(new Event('input')); return i.parentElement.querySelector('output').textContent"
        )
        return str(browser.execute_script(script, name, value))

    assert move("path", 0) == "t = 1.00"
    assert move("path", 16) == "t = 0.00"
    sheets = browser.find_elements("css selector", "[data-slides=path]")
    assert {s.get_attribute("style").split("--k:")[1].strip(" ;") for s in sheets} == {"16"}

    visible = (
        "return [...document.querySelectorAll('[data-slides=words]')][1].querySelector('.prose:not(.off)')"
        ".querySelectorAll('.mk').length"
    )
    move("words", 0)
    masked_at_noise = browser.execute_script(visible)
    move("words", 16)
    assert masked_at_noise > 30
    assert browser.execute_script(visible) == 0


def test_runs_are_linked_and_timed(browser: Any, page: str) -> None:
    show(browser, page)
    row = browser.find_element("css selector", "tr[data-stage='train@flow']")
    browser.execute_script("arguments[0].scrollIntoView()", row)
    assert "3 min 20 s" in row.text
    assert "samples/s: 229" in row.text
    link = row.find_element("css selector", "a").get_attribute("href")
    assert link == f"http://127.0.0.1:5000/#/experiments/1/runs/{'a' * 32}"
    assert "make ui" in browser.find_element("id", "run-note").text


def test_times_and_rates_of_text_stand_in_its_tables_where_the_runs_are_there(browser: Any, page: str) -> None:
    show(browser, page)
    shown = "return document.querySelector(arguments[0]).textContent"
    assert browser.execute_script(shown, "#text td[data-run='train@masked']") == "1 min 4 s"
    rate = "#text td[data-run='evaluate-text@masked'][data-timing='tokens_per_second_nfe_32']"
    assert browser.execute_script(shown, rate) == "5123"
    assert browser.execute_script(shown, "#text td[data-run='train@ar']") == "–"


def test_runs_of_a_server_are_linked_to_the_server(browser: Any, project: Any, tmp_path: Path) -> None:
    write_page(*project, tmp_path / "index.html")
    server = "https://tracker.example/mlflow"
    runs = {**RUNS, "tracking_uri": server, "ui_url": server}
    (tmp_path / "runs.js").write_text(f"window.ISOCLINE_RUNS = {json.dumps(runs)};\n")
    show(browser, (tmp_path / "index.html").as_uri())
    row = browser.find_element("css selector", "tr[data-stage='train@flow']")
    link = row.find_element("css selector", "a").get_attribute("href")
    assert link == f"{server}/#/experiments/1/runs/{'a' * 32}"
    note = browser.find_element("id", "run-note").text
    assert f"stored at {server}." in note
    assert "make ui" not in note
