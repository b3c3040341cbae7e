"""The rows of a fold keep their weights."""

import torch

from ctrdist.config.experiment import LoaderConfig
from ctrdist.data.loader import Loader
from ctrdist.training.loop.folds import fold_of, select_rows
from tests.datasets import write_dataset


def test_selected_rows_keep_their_weights(tmp_path):
    dataset = write_dataset(tmp_path, {"train": 100}, weighted=True)
    (batch,) = Loader(dataset, "train", LoaderConfig(batch_size=100))
    keep_B = fold_of(batch.row_B, 3) == 1
    selected = select_rows(batch, keep_B, int(keep_B.sum()))
    assert batch.weight_B is not None and selected.weight_B is not None
    assert torch.equal(selected.weight_B, batch.weight_B[keep_B])
