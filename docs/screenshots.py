"""Takes the pictures of docs/images: MLflow's pages of real runs, and the report of a data set.

It needs what the project does not: `pip install playwright`, and Chromium on the PATH.

python docs/screenshots.py --runs runs --name mlflow
python docs/screenshots.py --report data/report.html --name data_report
"""

import argparse
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ctrdist.tracking.mlflow_page import VIEW_TAG, runs_page

_SETTLED_MS = 12_000
"""Time in which a page gets its figures on a busy machine, once its first text is there."""
_NO_ASSISTANT = """
localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");
localStorage.setItem("mlflow.assistant.panelOpen_v1", "false");
"""
"""MLflow's assistant opens at the first visit and hides a third of the page."""


def main() -> None:
    """Reads the command line and takes the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, help="directory of runs, with mlflow.db")
    parser.add_argument("--report", type=Path, help="report.html of a data set")
    parser.add_argument("--name", required=True, help="of the pictures: NAME_list.png and others")
    parser.add_argument("--output", type=Path, default=Path("docs/images"))
    options = parser.parse_args()
    with browser() as page:
        if options.report:
            page.set_viewport_size({"width": 1100, "height": 2150})
            page.goto(options.report.resolve().as_uri())
            for column in ("C17", "I11"):  # of the log that jobs/make_log.py makes
                page.locator("summary", has_text=column).click()
            save(page, options.output / f"{options.name}.png")
        if options.runs:
            take_runs(page, options.runs.resolve() / "mlflow.db", options.output / options.name)


def take_runs(page: Any, database: Path, prefix: Path) -> None:
    """Takes the list of the runs, their charts, the oldest run, and a comparison of two runs."""
    store = f"sqlite:///{database}"
    client = MlflowClient(store)
    (experiment, *_) = client.search_experiments(filter_string="name != 'Default'")
    runs = client.search_runs([experiment.experiment_id], order_by=["start_time ASC"])
    one, two = runs[0].info, runs[1].info
    with server(store) as address:
        listed = runs_page(address, experiment.experiment_id)
        if VIEW_TAG not in experiment.tags:  # runs of a version before December 2026
            listed = f"{address}/#/experiments/{experiment.experiment_id}"
        charts = f"{listed}{'&' if '?' in listed else '/runs?'}compareRunsMode=CHART"
        run = f"{address}/#/experiments/{experiment.experiment_id}/runs/{one.run_id}"
        compared = (
            f'runs=["{one.run_id}","{two.run_id}"]&experiments=["{experiment.experiment_id}"]'
        )
        training = "workflowType=machine_learning"
        for name, url in (
            ("list", listed),
            ("charts", charts),
            ("run", f"{run}?{training}"),
            ("comparison", f"{address}/#/compare-runs?{compared}&{training}"),
        ):
            page.goto("about:blank")
            page.goto(url)
            with suppress(Exception):  # the list of an older version does not show the runs
                page.get_by_text(one.run_name).first.wait_for(timeout=60_000)
            if name == "comparison":  # which begins with parallel coordinates
                page.get_by_text("Visualizations").click()
            save(page, prefix.with_name(f"{prefix.name}_{name}.png"))


def save(page: Any, path: Path) -> None:
    """Saves a picture in 200 colours once the page has settled."""
    page.wait_for_timeout(_SETTLED_MS)
    path.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=path)
    image = Image.open(path).convert("RGB")
    image.quantize(200, kmeans=1, dither=Image.Dither.NONE).save(path, optimize=True)
    sys.stdout.write(f"{path}\n")


@contextmanager
def browser() -> Iterator[Any]:
    """A page of headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        page = chromium.new_page(viewport={"width": 1360, "height": 820})
        page.add_init_script(_NO_ASSISTANT)
        yield page
        chromium.close()


@contextmanager
def server(store: str) -> Iterator[str]:
    """Address of an MLflow server of that store, on a free port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, cwd=tempfile.gettempdir(), **quiet)  # it makes mlruns/
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(120):
            with suppress(OSError):
                urllib.request.urlopen(f"{address}/health", timeout=5).close()
                break
            time.sleep(1)
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


if __name__ == "__main__":
    main()
