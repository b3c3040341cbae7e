"""The schema of a data set."""

import pytest

from ctrdist.errors import DataError
from ctrdist.schema import MOST_IDS, CategoricalField


def test_a_vocabulary_beyond_int32_is_refused_by_name():
    CategoricalField(name="c", vocabulary_size=MOST_IDS)
    with pytest.raises(DataError, match=r"field c: 2,147,483,648 ids.*at most 2,147,483,647"):
        CategoricalField(name="c", vocabulary_size=MOST_IDS + 1)
