"""The workbook in JupyterLab, in a real browser, with a real mouse. Screenshots are kept in `.screenshots/`."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
import yaml
from playwright.sync_api import Page, expect

ROOT = Path(__file__).resolve().parents[2]
SHOTS = ROOT / ".screenshots"
MINUTES = 60_000  # milliseconds, playwright's unit

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """JupyterLab over a copy of the notebooks: its address, and where notebooks write."""
    home = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks", home / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"ip": "127.0.0.1", "port": port, "port_retries": 0, "root_dir": home, "open_browser": False}
    command = [sys.executable, "-m", "jupyter", "lab", "--allow-root", "--IdentityProvider.token="]
    command += [f"--ServerApp.{name}={value}" for name, value in settings.items()]
    whole = home / "settings" / "@jupyterlab" / "notebook-extension" / "tracker.jupyterlab-settings"
    whole.parent.mkdir(parents=True)
    whole.write_text(
        '{"windowingMode": "none", "autoStartDefaultKernel": true}'
    )  # else cells out of sight are not there for a test to find
    own = {"SCFM_WORK_DIR": str(home / "runs"), "JUPYTER_CONFIG_DIR": str(home / "config")}
    own |= {"JUPYTERLAB_SETTINGS_DIR": str(home / "settings"), "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces")}
    with (home / "log").open("w") as log:
        server = subprocess.Popen(command, env=os.environ | own, stdout=log, stderr=log)
        try:
            for _ in range(240):
                try:
                    urlopen(f"http://127.0.0.1:{port}/api", timeout=5)
                    break
                except OSError:
                    assert server.poll() is None, (home / "log").read_text()
                    time.sleep(0.5)
            yield f"http://127.0.0.1:{port}", home / "runs"
        finally:
            server.terminate()
            server.wait()


def run_all(page: Page, address: str, name: str) -> None:
    """Opens a notebook without its stored outputs and presses Run All Cells."""
    page.goto(f"{address}/lab/tree/notebooks/{name}.ipynb?reset")
    page.locator(".jp-Notebook").wait_for()
    page.wait_for_timeout(3000)
    while (dialog := page.locator(".jp-Dialog .jp-mod-accept")).count():  # "Select Kernel", if the notebook asks
        dialog.first.click()
        page.wait_for_timeout(500)
    for entry in ("Clear Outputs of All Cells", "Run All Cells"):
        page.get_by_role("menuitem", name="Edit" if "Clear" in entry else "Run", exact=True).click()
        page.locator(".lm-Menu-item", has_text=entry).first.click()


def test_the_preset_picker_answers_the_mouse(page: Page, lab: tuple[str, Path]) -> None:
    address, runs = lab
    run_all(page, address, "01_hardware_check")
    panel = page.locator(".widget-html", has_text="verdict").first
    panel.wait_for()
    panel.scroll_into_view_if_needed()
    before = panel.inner_text()
    page.screenshot(path=SHOTS / "01_minimal.png")
    page.get_by_role("button", name="LARGE", exact=True).or_(
        page.locator("button.widget-toggle-button", has_text="LARGE")
    ).first.click()
    for _ in range(100):
        after = panel.inner_text()
        if after != before:
            break
        page.wait_for_timeout(200)
    page.screenshot(path=SHOTS / "01_large.png")
    memory = [next(line for line in text.splitlines() if line.startswith("memory")) for text in (before, after)]
    verdict = [next(line for line in text.splitlines() if line.startswith("verdict")) for text in (before, after)]
    assert memory[0] != memory[1]
    assert verdict[0] != verdict[1]
    page.locator("button", has_text="use this").first.click()
    expect(page.get_by_text("config.yaml; notebook 04 trains it").first).to_be_visible(timeout=MINUTES)
    page.screenshot(path=SHOTS / "01_used.png")
    written = yaml.safe_load((runs / "config.yaml").read_text())
    assert (written["model"]["hidden_dim"], written["model"]["num_layers"]) == (512, 6)  # LARGE
    (runs / "config.yaml").unlink()


BLUE_PIXELS = """image => {
    const size = {width: image.naturalWidth, height: image.naturalHeight}
    const canvas = Object.assign(document.createElement("canvas"), size)
    const context = canvas.getContext("2d")
    context.drawImage(image, 0, 0)
    const data = context.getImageData(0, 0, canvas.width, canvas.height).data
    let blue = 0
    for (let i = 0; i < data.length; i += 4) if (data[i] < 60 && data[i + 1] > 80 && data[i + 2] > 140) blue++
    return blue
}"""  # the line's colour, #0173b2: how many pixels of a picture have it


def test_notebook_04_draws_its_loss_curve(page: Page, lab: tuple[str, Path]) -> None:
    address, _ = lab
    run_all(page, address, "04_training")
    curve = page.locator(".jp-Cell", has_text="# the live loss curve").locator("img").last
    curve.wait_for(timeout=10 * MINUTES)
    curve.scroll_into_view_if_needed()
    empty = curve.get_attribute("src")  # most likely: the axes before the first ten steps
    seen, drawn = {empty}, 0
    for _ in range(600):  # live: it changes while the cell runs
        seen.add(curve.get_attribute("src"))
        if len(seen) > 1 and (drawn := curve.evaluate(BLUE_PIXELS)) > 500:
            break
        page.wait_for_timeout(200)
    page.screenshot(path=SHOTS / "04_loss_curve.png")
    assert len(seen) > 1, "the picture stood still"
    assert drawn > 500, "there is no curve in the picture"
    assert page.locator(".jp-RenderedText[data-mime-type*='stderr']").count() == 0


def test_notebook_08_runs_to_its_end_on_the_example(page: Page, lab: tuple[str, Path]) -> None:
    address, _ = lab
    run_all(page, address, "08_your_own_data")
    question = page.locator(".jp-Cell", has_text='exercises.quiz("8.d")').locator(".jp-OutputArea-output").first
    question.wait_for(timeout=10 * MINUTES)
    assert "Two hundred of your cells" in question.inner_text()
    figures = page.locator(".jp-OutputArea-output img")
    assert figures.count() >= 4  # quality, UMAP, scores, mixing
    page.screenshot(path=SHOTS / "08_end.png")
    for kind in ("stderr", "error"):
        assert page.locator(f".jp-RenderedText[data-mime-type*='{kind}']").count() == 0
