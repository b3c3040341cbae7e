"""Files that are uploaded with a submitted job."""

import logging
import zipfile

from ray._private.runtime_env.packaging import create_package

from cluster import job_submission


def test_only_the_packages_are_uploaded(tmp_path, monkeypatch):
    root = tmp_path / "project"
    wanted = ["ctrdist/data/loader.py", "jobs/configs/data/criteo.yaml", "jobs/train.py"]
    unwanted = [
        "data/rows.parquet", "logs/a.txt", "demo/x", "runs/x", "mlruns/x", ".venv/x", "my [1]/x",
        "mlflow.db", "ctrdist/__pycache__/x.pyc",
    ]  # fmt: skip
    for name in [*wanted, *unwanted]:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    monkeypatch.setattr(job_submission, "ROOT", root)
    package = tmp_path / "package.zip"
    create_package(
        str(root),
        package,
        include_gitignore=True,
        excludes=job_submission.not_uploaded(),
        logger=logging.getLogger(__name__),
    )
    names = zipfile.ZipFile(package).namelist()
    assert sorted(name for name in names if not name.endswith("/")) == sorted(wanted)
