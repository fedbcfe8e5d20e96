"""The notebooks with the ipywidgets that Colab has, 7.7.1, in an environment of their own."""

import os
import site
import subprocess
import sys
from pathlib import Path

import nbclient
import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
COLAB = ("ipywidgets==7.7.1", "ipykernel==6.17.1", "widgetsnbextension==3.6.10", "jupyterlab_widgets==1.1.11")
NOTEBOOKS = ("01_hardware_check", "04_training", "05_monitoring")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def seven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has Colab's widgets before everything that the tests' own Python has."""
    folder = tmp_path_factory.mktemp("seven")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    own = Path(
        subprocess.check_output([python, "-c", "import site; print(site.getsitepackages()[0])"], text=True).strip()
    )
    (own / "tests.pth").write_text("\n".join([*site.getsitepackages(), str(ROOT)]))
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--ignore-installed"]
    subprocess.run([*pip, *COLAB, "ipython_genutils"], check=True)
    told = subprocess.check_output([python, "-c", "import ipywidgets; print(ipywidgets.__version__)"], text=True)
    assert told.strip() == "7.7.1"
    return python


def test_widgets_build_and_respond(seven: Path, tmp_path: Path) -> None:
    command = [seven, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/widgets/test_preset_picker.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"HOME": str(tmp_path)})
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks_run(seven: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCFM_WORK_DIR", str(tmp_path / "runs"))
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    asked = nbformat.v4.new_code_cell("import ipywidgets; print(ipywidgets.__version__)")
    notebook.cells.append(asked)
    folder = tmp_path / "kernels" / "seven"
    folder.mkdir(parents=True)
    argv = f'["{seven}", "-m", "ipykernel_launcher", "-f", "{{connection_file}}"]'
    (folder / "kernel.json").write_text(f'{{"argv": {argv}, "display_name": "seven", "language": "python"}}')
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    client = nbclient.NotebookClient(
        notebook, kernel_name="seven", timeout=600, resources={"metadata": {"path": ROOT / "notebooks"}}
    )
    client.execute()
    assert notebook.cells[-1].outputs[0].text.strip() == "7.7.1"
