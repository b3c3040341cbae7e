"""Fields may have any name: files and torch's modules get a form of it that they can bear."""

from typing import ClassVar

import torch
from hypothesis import given
from hypothesis import strategies as st
from torchrec import KeyedJaggedTensor

from ctrdist.data.rows import BatchMaker
from ctrdist.models.ctr import CTRModel
from ctrdist.models.tables import table_name
from ctrdist.schema import CategoricalField, Schema, file_stem, module_key

ODD = ["a.b", "..", ".hidden", "../up", "x/y", "*", "run[1]", "c@d", "%2E", "a\nb", "tokens/c"]
PLAIN = ["C1", "user id", "time_hour", "年齢", "a-b", "x:y", "50%", "a&b=c", "it's"]


def test_plain_names_stay_as_they_are():
    for name in PLAIN:
        assert file_stem(name) == module_key(name) == name
    assert file_stem("user.age") == "user.age"  # vocabularies of earlier versions have this name


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), max_size=20))
def test_names_never_collide_nor_leave_their_directory(names):
    names = {*names, *ODD, *PLAIN}
    for form in (file_stem, module_key):
        forms = {form(name) for name in names}
        assert len(forms) == len(names)
        assert not any("/" in f or "\0" in f or f.startswith(".") or not f for f in forms)
    assert not any(c in module_key(name) for name in names for c in ".@")


class Tower(torch.nn.Module):
    groups: ClassVar[dict[str, int]] = {"linear": 4, "tokens": 8}


def test_a_model_looks_up_fields_of_any_name():
    names = [*ODD, *PLAIN]
    schema = Schema(
        name="odd", categorical=tuple(CategoricalField(name=n, vocabulary_size=5) for n in names)
    )
    model = CTRModel(schema, Tower())
    model.tables.to_empty(device="cpu")
    for k, name in enumerate(names):
        weight = model.tables.embedding_bags[table_name("linear", name)].weight
        torch.nn.init.constant_(weight, float(k))
    keys = BatchMaker(schema)._keys
    sparse = KeyedJaggedTensor(
        keys, torch.full((len(keys),), 2), lengths=torch.ones(len(keys), dtype=torch.int32)
    )
    looked_up = model.tables(sparse).to_dict()
    found = [
        looked_up[f"{key}@{table_name('linear', n)}"][0, 0]
        for key, n in zip(keys, names, strict=True)
    ]
    assert found == list(range(len(names)))
