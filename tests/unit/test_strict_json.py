"""JSON of results has null where a number is not defined."""

import json
import math

import numpy as np
import torch

from ctrdist.strict_json import to_text


def test_numbers_that_json_lacks_are_null_and_others_stay():
    value = {
        "auc": math.nan,
        "more": [math.inf, {"x": -math.inf, 3: (0.1, 2**63, True, None, "é")}],
    }
    assert json.loads(to_text(value)) == {
        "auc": None,
        "more": [None, {"x": None, "3": [0.1, 2**63, True, None, "é"]}],
    }
    assert (
        to_text({"a": np.float32(0.5), "b": torch.tensor(float("nan"))}) == '{"a": 0.5, "b": null}'
    )
    assert to_text([math.nan, -math.inf], non_finite=str) == '["nan", "-inf"]'
