"""Spectra that arrive in pieces, against the singular values of the whole matrix."""

from __future__ import annotations

import pytest
import torch

from aajr_hf.evaluation.adapter_rank import spectrum
from aajr_hf.evaluation.adapter_rank.spectrum import (
    RowSpectrum,
    coverage,
    directions_for,
    matrix_singular_values,
    stable_rank,
)


def matrix(rows=200, width=40, decay=0.7, seed=0):
    """With singular values that fall by a factor."""
    generator = torch.Generator().manual_seed(seed)
    left = torch.linalg.qr(torch.randn(rows, width, generator=generator, dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64)).Q
    return left * decay ** torch.arange(width) @ right.T


def in_pieces(whole):
    found = RowSpectrum(whole.shape[1])
    for piece in whole.split(37):
        found.add(piece)
    return found


def test_rows_in_pieces_have_the_spectrum_of_the_whole():
    whole = matrix()
    found = in_pieces(whole)
    assert found.rows == 200 and found.energy == pytest.approx(float(whole.square().sum()))
    torch.testing.assert_close(found.singular_values(), torch.linalg.svdvals(whole), rtol=1e-6, atol=1e-7)


def test_fewer_rows_than_columns():
    whole = matrix()[:5]
    torch.testing.assert_close(in_pieces(whole).singular_values(), torch.linalg.svdvals(whole), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("decay", [0.5, 0.9])
def test_the_sketch_of_wide_rows(monkeypatch, decay):
    monkeypatch.setattr(spectrum, "EXACT_SIZE", 100)
    monkeypatch.setattr(spectrum, "SKETCH_SIZE", 60)
    whole = torch.nn.functional.pad(matrix(300, 120, decay), (0, 380))
    found = in_pieces(whole)
    # What is kept is 60 columns, whatever the number of rows.
    assert found._sum.shape == (500, 60)
    values, expected = found.singular_values(), torch.linalg.svdvals(whole)
    assert len(values) == 60
    # A sketch never sees more energy than there is, and most of the largest directions'.
    torch.testing.assert_close(values[:20], expected[:20], rtol=2e-2, atol=1e-6)
    assert float(values.square().sum()) <= found.energy * (1 + 1e-9)


def test_a_large_matrix_is_sketched(monkeypatch):
    whole = matrix(300, 120, 0.8)
    exact = matrix_singular_values(whole)
    torch.testing.assert_close(exact, torch.linalg.svdvals(whole))
    monkeypatch.setattr(spectrum, "EXACT_SIZE", 100)
    monkeypatch.setattr(spectrum, "SKETCH_SIZE", 60)
    before = torch.get_rng_state()
    sketched = matrix_singular_values(whole)
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(sketched[:20], exact[:20], rtol=1e-4, atol=0)


def test_coverage_and_its_inverse():
    shares = coverage(torch.tensor([3.0, 2.0, 1.0]))
    torch.testing.assert_close(shares, torch.tensor([9 / 14, 13 / 14, 1.0], dtype=torch.float64))
    assert [directions_for(shares, s) for s in (0.5, 9 / 14, 0.65, 1.0)] == [1, 1, 2, 3]
    # Of an energy that is larger than that of the values that are known.
    assert directions_for(coverage(torch.tensor([3.0, 2.0]), 14.0), 0.95) is None
    assert coverage(torch.zeros(3)).tolist() == [0, 0, 0]


def test_stable_rank():
    assert stable_rank(torch.tensor([2.0, 2.0, 2.0])) == pytest.approx(3)
    assert stable_rank(torch.tensor([2.0, 1e-3])) == pytest.approx(1, abs=1e-6)
    assert stable_rank(torch.zeros(2)) == 0


@pytest.mark.parametrize("width", [7, spectrum.EXACT_SIZE + 1])
def test_rows_of_nothing_have_a_spectrum_of_zeros(width):
    found = RowSpectrum(width)
    found.add(torch.zeros(3, width))
    assert found.singular_values().tolist() == [0.0, 0.0, 0.0]
    assert not coverage(found.singular_values()).any()
