"""The baseline is measured on the rows on which the models are measured."""

from jobs.logistic_regression import LogisticConfig, fit
from tests.datasets import write_dataset


def test_only_the_training_rows_are_cut(tmp_path):
    many = 66_000  # more than the loader reads at a time
    write_dataset(tmp_path, {"train": 500, "valid": many, "test": many})
    result = fit(LogisticConfig(data=str(tmp_path), strengths=(0.1,), max_rows=300))
    assert result["rows"] == 300
    assert result["valid"]["rows"] == result["test"]["rows"] == many
