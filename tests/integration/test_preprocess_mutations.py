"""Whatever happens to a file, the whole of preprocessing writes a data set or nothing at all."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctrdist.data.manifest import open_dataset
from ctrdist.errors import DataError
from preprocessing.config.settings import BadRowsConfig, SplitConfig
from preprocessing.pipeline import preprocess
from tests.unit.preprocessing.sources.test_mutations import (
    PACKED,
    TEXTS,
    mutations,
    refused,
    rows_of,
    setting,
)

LIMITS = {"deadline": None, "suppress_health_check": list(HealthCheck)}


pytestmark = pytest.mark.usefixtures("ray_session")


def disturbed(folder: Path, kind: str, data: st.DataObject) -> None:
    raw = data.draw(mutations(TEXTS[kind]))
    packing = data.draw(st.sampled_from(list(PACKED)))
    policy = data.draw(st.sampled_from(["fail", "quarantine"]))
    path, output = folder / f"log.{kind}{packing}", folder / "out"
    path.write_bytes(PACKED[packing](raw))
    shutil.rmtree(output, ignore_errors=True)
    config = replace(
        setting(path, kind, path.stat().st_size),
        output=str(output),
        bad_rows=BadRowsConfig(policy=policy, limit=1.0),
        split=SplitConfig(by="hash"),
    )
    try:
        result = preprocess(config)
    except DataError as error:
        if not str(error).startswith(f"{path}: none of the"):
            refused(error, path, text=False)
        assert not output.exists()
        return
    assert result.rows + result.quarantined == rows_of(raw, kind)
    assert policy == "quarantine" or result.quarantined == 0
    assert open_dataset(str(output)).manifest == result.manifest


@pytest.mark.parametrize("kind", TEXTS)
@given(data=st.data())
@settings(max_examples=5, **LIMITS)  # type: ignore[arg-type]
def test_some(tmp_path, kind, data):
    disturbed(tmp_path, kind, data)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("kind", TEXTS)
@given(data=st.data())
@settings(max_examples=340, **LIMITS)  # type: ignore[arg-type]
def test_a_thousand(tmp_path, kind, data):
    disturbed(tmp_path, kind, data)
