import pytest
import torch

from ctrdist.metrics.information_abundance import gram_matrix, information_abundance


def by_svd(table: torch.Tensor) -> float:
    sigma = torch.linalg.svdvals(table.double())
    return float(sigma.sum() / sigma.max())


@pytest.mark.parametrize(("rows", "columns"), [(500, 16), (7, 16), (70_000, 4)])
def test_equals_the_singular_values_without_the_padding_row(rows: int, columns: int) -> None:
    torch.manual_seed(1)
    table = torch.randn(rows, columns) * torch.logspace(0, -3, columns)
    table[0] = 100.0  # would be the largest direction of all
    assert information_abundance(gram_matrix(table)) == pytest.approx(by_svd(table[1:]), rel=1e-6)


def test_parts_of_rows_add_up() -> None:
    torch.manual_seed(1)
    table = torch.randn(100, 8)
    parts = [(0, 1), (1, 40), (40, 40), (40, 100)]
    total = sum(gram_matrix(table[a:b], a) for a, b in parts)
    torch.testing.assert_close(total, gram_matrix(table), rtol=1e-12, atol=1e-12)
    assert total.dtype == torch.float64


def test_lies_between_one_and_the_number_of_directions() -> None:
    line = torch.outer(torch.arange(50.0), torch.tensor([1.0, 2.0, 3.0, 4.0]))
    # rounding of EᵀE leaves about 1e-8 of each of the other three directions
    assert information_abundance(gram_matrix(line)) == pytest.approx(1.0, abs=1e-6)
    even = torch.cat([torch.zeros(1, 4), torch.eye(4)])
    assert information_abundance(gram_matrix(even)) == pytest.approx(4.0)
    assert information_abundance(gram_matrix(torch.zeros(5, 4))) == 0.0


def test_a_table_without_padding_keeps_its_first_row() -> None:
    table = torch.eye(4)
    assert information_abundance(gram_matrix(table, padding=False)) == pytest.approx(4.0)
    assert information_abundance(gram_matrix(table)) == pytest.approx(3.0)


def test_half_precision_tables_are_summed_in_float64() -> None:
    torch.manual_seed(1)
    table = torch.randn(1000, 8).half()
    assert information_abundance(gram_matrix(table)) == pytest.approx(by_svd(table[1:]), rel=1e-9)
