"""The lab as a person meets it: real JupyterLab, a real browser, no network."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest

pytest.importorskip("playwright.sync_api")
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
SECONDS = 1_000

pytestmark = pytest.mark.browser


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """JupyterLab on a copy of the notebooks, with settings of its own."""
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(ROOT / "notebooks", home / "notebooks")
    address = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", f"--port={port}", "--ServerApp.token=",
               "--expose-app-in-browser",
               "--ServerApp.password=", f"--ServerApp.root_dir={home / 'notebooks'}", "--LabApp.news_url=None",
               "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", "--allow-root"]  # fmt: skip
    paths = {name: str(home / name.lower()) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR")}
    settings = home / "settings"
    news = settings / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    news.parent.mkdir(parents=True)
    news.write_text('{"fetchNews": "false", "checkForUpdates": false}')
    environment = {**os.environ, **paths, "JUPYTERLAB_SETTINGS_DIR": str(settings), "PYTHONPATH": str(ROOT)}
    with (home / "server.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=home)
        try:
            wait_for_server(address, process, home / "server.log")
            yield address
        finally:
            process.terminate()
            process.wait(20)


def wait_for_server(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urlopen(f"{address}/api/status", timeout=5):
                return
        except OSError:
            time.sleep(0.3)
    pytest.fail(f"JupyterLab did not start:\n{log.read_text()[-3000:]}")


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=[*FLAGS])
        yield started
        started.close()


class Visit:
    """A page with JupyterLab, what its console said, and what it asked of other machines."""

    def __init__(self, browser: Browser, address: str) -> None:
        self.page: Page = browser.new_page(viewport={"width": 1440, "height": 1300})
        self.page.set_default_timeout(60 * SECONDS)
        expect.set_options(timeout=30 * SECONDS)
        self.address = address
        self.complaints: list[str] = []
        self.abroad: list[str] = []
        self.page.on("console", lambda message: self._heard(message.type, message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.route("**/*", self._guard)

    def _heard(self, kind: str, text: str) -> None:
        if kind == "error":
            self.complaints.append(text)

    def _guard(self, route: Any) -> None:
        parts = urlsplit(route.request.url)
        if parts.scheme in ("http", "https") and parts.hostname != "127.0.0.1":
            self.abroad.append(route.request.url)
            route.abort()
        else:
            route.continue_()

    def open(self, notebook: str) -> None:
        self.page.goto(f"{self.address}/lab/tree/{notebook}?reset")
        self.page.wait_for_function(
            """() => {
              const kernel = window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel;
              return kernel?.connectionStatus === "connected" && kernel.status === "idle";
            }"""
        )

    def run_until_lab(self, cells: int) -> Locator:
        """Runs the notebook's first code cells, and waits for the lab's picture."""
        for number in range(cells):
            wait_until("the cell runs", lambda number=number: self._runs(number), seconds=60)
        return self.lab()

    def _runs(self, number: int) -> bool:
        """Tries to run a cell; JupyterLab forgets the attempt while it is still connecting to the kernel."""
        cell = self.page.locator(".jp-CodeCell").nth(number)
        prompt = cell.locator(".jp-InputPrompt")
        if "[ ]" in prompt.inner_text():
            cell.locator(".cm-content").first.click()
            self.command("notebook:run-cell")
            self.page.wait_for_timeout(1_500)
        return re.search(r"\d", prompt.inner_text()) is not None

    def command(self, name: str, **arguments: Any) -> None:
        """One of JupyterLab's own commands; not awaited, since running a cell ends only with the cell."""
        self.page.evaluate("([name, args]) => { window.jupyterapp.commands.execute(name, args) }", [name, arguments])

    def lab(self) -> Locator:
        found = self.page.locator(".eclab:not([data-empty])").first
        found.wait_for(timeout=90 * SECONDS)
        return found


@pytest.fixture
def visit(browser: Browser, server: str) -> Iterator[Visit]:
    """A visit that must end with a silent console and without a word to another machine."""
    made = Visit(browser, server)
    yield made
    if folder := os.environ.get("ECLAB_PICTURES"):
        made.page.screenshot(path=str(Path(folder) / "end.png"))
    made.page.close()
    assert made.complaints == []
    assert made.abroad == []


def lens(lab: Locator, name: str) -> None:
    lab.get_by_role("radio", name=name).click()


def steps(lab: Locator) -> int:
    words = lab.locator(".ec-step").inner_text().replace(",", "").replace("\N{NARROW NO-BREAK SPACE}", "")
    found = re.search(r"step (\d+)", words)
    assert found, words
    return int(found[1])


def resting_step(lab: Locator) -> int:
    """The step once it no longer changes."""
    seen = -1
    while seen != (now := steps(lab)):
        seen = now
        lab.page.wait_for_timeout(700)
    return seen


def press(lab: Locator, name: str) -> None:
    lab.locator(".ec-transport").get_by_role("button", name=re.compile(name, re.I)).click()


def type_into(field: Locator, text: str) -> None:
    """As a person does: a value that a script sets is no change that Enter would confirm."""
    field.focus()
    field.press("ControlOrMeta+a")
    field.press_sequentially(text)
    field.press("Enter")


def wait_until(what: str, condition: Any, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.1)
    pytest.fail(f"waited {seconds} s in vain until {what}")


def picture(visit: Visit, lab: Locator, name: str) -> None:
    """Keeps a screenshot where ECLAB_PICTURES says, for people to look at."""
    folder = os.environ.get("ECLAB_PICTURES")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        visit.page.mouse.move(0, 0)
        lab.screenshot(path=str(Path(folder) / f"{name}.png"))


def dark(visit: Visit, on: bool) -> None:
    visit.command("apputils:change-theme", theme="JupyterLab Dark" if on else "JupyterLab Light")
    visit.page.wait_for_timeout(600)


def inked(lab: Locator) -> dict[str, int]:
    """How many columns of the first chart hold a pixel of each lane's colour, from left to right as far as they go."""
    canvas = lab.locator(".ec-chart").first.locator("canvas")
    if not canvas.count():
        return {"sgd": 0, "ec-sgd": 0}
    found: dict[str, int] = canvas.evaluate(
        """canvas => {
          const {width, height} = canvas;
          const pixels = canvas.getContext("2d").getImageData(0, 0, width, height).data;
          const columns = {"sgd": new Set(), "ec-sgd": new Set()};
          for (let i = 0; i < pixels.length; i += 4) {
            const [r, g, b, a] = pixels.slice(i, i + 4), x = (i / 4) % width;
            if (a < 200) continue;
            if (r > b + 90 && r > g + 40) columns["sgd"].add(x);
            if (b > r + 90 && b > g + 30) columns["ec-sgd"].add(x);
          }
          return {"sgd": columns["sgd"].size, "ec-sgd": columns["ec-sgd"].size};
        }"""
    )
    return found


def image(lab: Locator) -> str:
    found: str = lab.locator(".ec-chart").first.locator("canvas").evaluate("canvas => canvas.toDataURL()")
    return found


def both_drawn(lab: Locator) -> bool:
    return min(inked(lab).values()) > 20


SUPERSCRIPT = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")


def reading_text(lab: Locator, name: str) -> str:
    row = lab.locator(".ec-inspector dt", has_text=name).first
    return row.locator("xpath=following-sibling::dd[1]").inner_text()


def reading(lab: Locator, name: str) -> float:
    """A number of the inspector: "5.1×10⁻⁸" is 5.1e-8."""
    text = reading_text(lab, name)
    mantissa, _, power = text.replace("−", "-").replace(",", "").partition("×10")
    return float(f"{mantissa}e{power.translate(SUPERSCRIPT) or 0}")


def note(lab: Locator) -> Locator:
    return lab.locator(".ec-note").last


def message_times(page: Page) -> None:
    """Notes when each of the kernel's frames and maps arrives, in window.eclabFrames."""
    page.evaluate(
        """() => {
          window.eclabFrames = [];
          const {kernel} = window.jupyterapp.shell.currentWidget.sessionContext.session;
          kernel.anyMessage.connect((_, {msg, direction}) => {
            const kind = msg.content?.data?.content?.type;
            if (direction === "recv" && ["frame", "map"].includes(kind)) window.eclabFrames.push(performance.now());
          });
        }"""
    )


def chart_widths(lab: Locator) -> list[float]:
    """By how many pixels each chart is wider than its place."""
    found: list[float] = lab.locator(".ec-plot").evaluate_all(
        "plots => plots.map(plot => plot.querySelector('canvas').width / devicePixelRatio - plot.clientWidth)"
    )
    return found


def make_endless(lab: Locator) -> None:
    """A race of a small network is over within seconds on a fast machine; this one goes on until it is told to stop."""
    field = lab.get_by_label("epochs", exact=True)
    type_into(field, "100000")
    expect(field).to_have_value("100000")


def test_a_visit_to_the_lab(visit: Visit) -> None:
    visit.open("00-lab.ipynb")
    lab = visit.run_until_lab(2)
    page, facts, inspector = visit.page, lab.locator(".ec-facts"), lab.locator(".ec-inspector")
    expect(facts).to_contain_text("1,440")  # m of 64-16-16-10
    expect(facts).to_contain_text("digits")

    # Build: a wider layer changes the facts, a width that cannot be is a message in place, undo brings back what was
    lens(lab, "Build")
    lab.get_by_label(re.compile("layer 2: one unit more")).click()
    expect(facts).to_contain_text("1,466")
    lab.get_by_role("button", name="layer 2", exact=True).click()
    type_into(inspector.get_by_label("units"), "-1")
    expect(note(lab)).to_contain_text("layer 2: the linear layer's width is -1")
    expect(facts).to_contain_text("1,466")
    lab.get_by_label("data").select_option("circle")
    expect(facts).to_contain_text("circle")
    for text in ("1,466", "1,440"):
        lab.get_by_label(re.compile("^undo")).click()
        expect(facts).to_contain_text(text)
    picture(visit, lab, "build-light")

    # Classes: a unit times 1,000 changes weights and gradients and no output
    lens(lab, "Classes")
    lab.locator(".ec-unit .ec-body").nth(18).click()
    inspector.locator("input[type=range]").focus()
    for _ in range(3):
        page.keyboard.press("PageUp")
    wait_until("the incoming weights have moved", lambda: "→" in reading_text(lab, "‖incoming‖"))
    wait_until("and rounding shows", lambda: reading(lab, "max |Δ output|") > 0)
    assert reading(lab, "max |Δ output|") <= reading(lab, "float bound") < 1e-3
    expect(inspector).to_contain_text("same function, same class")
    lab.get_by_role("button", name="Same class?").click()
    expect(inspector).to_contain_text("yes: one class")
    picture(visit, lab, "classes-light")

    # Race: both curves grow, a rate changes in mid-run, pause holds, reload shows everything, stop stops
    lens(lab, "Race")
    make_endless(lab)
    lab.locator(".ec-charts").scroll_into_view_if_needed()
    message_times(page)
    press(lab, "play")
    wait_until("twenty steps are done", lambda: steps(lab) > 20)
    wait_until("both lanes have a curve", lambda: both_drawn(lab))
    before = image(lab)
    wait_until("the curves grow", lambda: image(lab) != before)
    rate = lab.get_by_label("learning rate of SGD")
    type_into(rate, "0.05")
    expect(lab.locator(".ec-events")).to_contain_text("0.05")
    press(lab, "pause")
    held = resting_step(lab)
    expect(inspector).to_contain_text("CPU")
    assert reading(lab, "EC-SGD steps/s") > 1
    times = page.evaluate("() => window.eclabFrames")
    assert len(times) > 5
    # one more than ten may arrive in a second when the page took a late one; how often they leave the kernel is
    # counted exactly in test_lab_driver
    assert max(sum(at <= other < at + 1000 for other in times) for at in times) <= 11
    assert len(times) - 1 <= 10 * (times[-1] - times[0]) / 1000 + 1
    picture(visit, lab, "race-light")
    type_into(rate, "-1")
    expect(note(lab)).to_contain_text("the learning rate is -1")

    page.keyboard.press("Control+s")
    page.wait_for_timeout(1_000)
    page.reload()
    lab = visit.lab()
    wait_until("the page knows the step again", lambda: steps(lab) == held)
    lab.locator(".ec-charts").scroll_into_view_if_needed()
    wait_until("and the whole history", lambda: both_drawn(lab))

    lens(lab, "Paths")
    expect(lab.locator(".ec-inspector")).to_contain_text("163,840")
    press(lab, "play")
    wait_until("it goes on after the reload", lambda: steps(lab) > held)
    press(lab, "stop")
    expect(lab.get_by_label("play (Space)")).to_be_visible()
    stopped = steps(lab)
    page.wait_for_timeout(700)
    assert steps(lab) == stopped

    dark(visit, True)
    for name in ("Build", "Classes", "Paths", "Race"):
        lens(lab, name)
        page.wait_for_timeout(500)
        picture(visit, lab, f"{name.lower()}-dark")
    wait_until("the curves are there in the other theme", lambda: both_drawn(lab))
    wait_until("and as wide as their place", lambda: chart_widths(lab) == [0, 0, 0])
    dark(visit, False)


def test_the_kernel_answers_while_a_race_runs_and_a_lost_lane_comes_back(visit: Visit) -> None:
    visit.open("00-lab.ipynb")
    lab = visit.run_until_lab(2)
    lens(lab, "Race")
    make_endless(lab)
    press(lab, "play")
    wait_until("it runs", lambda: steps(lab) > 5)
    cell = visit.page.locator(".jp-CodeCell").nth(0)
    cell.locator(".cm-content").click()
    before = cell.locator(".jp-InputPrompt").inner_text()
    visit.page.keyboard.press("Control+Enter")

    def ran_again() -> bool:
        now = cell.locator(".jp-InputPrompt").inner_text()
        return re.search(r"\d", now) is not None and now != before

    wait_until("another cell ran", ran_again)
    type_into(lab.get_by_label("learning rate of SGD"), "1e30")
    rescue = lab.locator(".ec-rescue")
    expect(rescue).to_contain_text(re.compile(r"SGD diverged at step [\d,]+: .*is not finite"))
    press(lab, "stop")
    rescue.get_by_role("button", name="at half its rate").click()
    expect(rescue).to_be_hidden()
    expect(lab.get_by_label("learning rate of SGD")).to_have_value(re.compile(r"^0\.\d+$"))

    # lanes come and go; the picture of the plane; the keys
    lab.get_by_label("add a lane").select_option("sgd")
    expect(lab.locator(".ec-lanes")).to_contain_text("SGD 2")
    expect(lab.locator(".ec-step")).to_contain_text("step 0")
    lab.get_by_label("remove SGD 2").click()
    expect(lab.locator(".ec-lanes")).not_to_contain_text("SGD 2")
    lens(lab, "Build")
    lab.get_by_label("data").select_option("circle")
    expect(lab.locator(".ec-facts")).to_contain_text("circle")
    lens(lab, "Race")
    lab.get_by_label("decision map").check()
    expect(lab.locator(".ec-map")).to_have_count(3)
    lens(lab, "Paths")
    # from inside the lab: a unit, its strongest weight, and one step
    lab.locator(".ec-unit").first.focus()
    for key in ("ArrowRight", "Enter", "."):
        visit.page.keyboard.press(key)
    expect(lab.locator(".ec-inspector")).to_contain_text("its basis path")
    expect(lab.locator(".ec-step")).to_contain_text("step 1")
    expect(lab.locator(".ec-lit path")).not_to_have_count(0)


def test_a_lab_whose_kernel_is_gone_says_so(visit: Visit) -> None:
    visit.open("00-lab.ipynb")
    lab = visit.run_until_lab(2)
    visit.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.restartKernel()")
    expect(lab.locator(".ec-lost")).to_contain_text("no longer in the kernel")
    lens(lab, "Classes")
    # JupyterLab's own words about requests that the restart cut off
    visit.complaints[:] = [text for text in visit.complaints if "Canceled future" not in text]
