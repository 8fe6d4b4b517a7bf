"""Drift between precisions: rounding of the start in closed form, growth by the logarithmic norm, equal grids."""

import pytest
import torch

from isocline import solvers
from isocline.dynamics.lipschitz import estimate_lipschitz
from isocline.dynamics.path import FieldPath
from isocline.dynamics.precision import PrecisionRun, measure_precision

# Along (1, 2) states shrink, along (2, -1) they grow, the third component stays: exp(∫ μ₂ dt) is exp(2 t).
SADDLE = torch.tensor([[1.2, -1.6, 0.0], [-1.6, -1.2, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)


def saddle(t, x, cond):
    return x @ SADDLE.to(x.dtype)


TS = torch.linspace(0, 3, 13, dtype=torch.float64)


def test_what_is_rounded_off_grows_as_the_logarithmic_norm_says():
    sizes = torch.rand(16, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.1
    start = sizes * torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    runs = [PrecisionRun("float32", saddle, torch.float32), PrecisionRun("bfloat16", saddle, torch.bfloat16)]
    single, brief = measure_precision(runs, saddle, start, TS, solvers.RK4(), substeps=8)
    path = FieldPath(TS, start.expand(13, 16, 3))
    growth = estimate_lipschitz(saddle, path, 3, torch.Generator().manual_seed(0)).growth
    torch.testing.assert_close(growth, torch.exp(2 * TS)[:, None].expand(13, 16))
    # A solution stays on its shrinking line, and what rounding puts beside it grows at the full rate.
    assert 0.05 < float((single.amplification[-1] / growth[-1]).mean()) < 5
    rate = (single.differences[-1].mean() / single.differences[8].mean()).log() / (TS[-1] - TS[8])
    assert float(rate) == pytest.approx(2, abs=0.2)
    assert brief.differences[0].mean() > 1e4 * single.differences[0].mean()
    rows = single.rows(growth)
    assert rows[-1].bound is not None
    assert rows[-1].bound.mean == pytest.approx(float(torch.exp(2 * TS[-1])))
    assert rows[-1].in_roundoffs.mean == pytest.approx(rows[-1].difference.mean * 2**24)
    assert single.rows()[0].bound is None


def test_the_start_differs_by_its_rounding():
    start = torch.full((2, 1), 0.1, dtype=torch.float64)
    (found,) = measure_precision([PrecisionRun("float32", fading, torch.float32)], fading, start, TS, solvers.Euler())
    rounding = abs(float(torch.tensor(0.1, dtype=torch.float32)) - 0.1) / 0.1
    assert found.differences[0].tolist() == pytest.approx([rounding] * 2)


def fading(t, x, cond):
    return -x


def test_the_methods_own_error_cancels():
    # Four steps of Euler are wrong in the first digit, and equally so in both.
    start = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    (found,) = measure_precision(
        [PrecisionRun("float32", fading, torch.float32)], fading, start, TS[:5], solvers.Euler()
    )
    assert found.differences.max() < 4e-7
    assert found.amplification.max() < 8


def test_a_run_in_the_references_precision_does_not_differ():
    start = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    (found,) = measure_precision([PrecisionRun("float64", fading, torch.float64)], fading, start, TS, solvers.Heun())
    assert not found.differences.any()


def test_low_precision_weights_show_even_where_the_state_is_single():
    weight = torch.tensor(-1.1, dtype=torch.float64)
    rounded = weight.to(torch.bfloat16).double()
    start = torch.ones(1, 1, dtype=torch.float64)
    run = PrecisionRun("bfloat16 weights", lambda t, x, cond: rounded.to(x.dtype) * x, torch.float32)
    (found,) = measure_precision([run], lambda t, x, cond: weight * x, start, TS, solvers.RK4(), substeps=4)
    wanted = torch.expm1((rounded - weight) * TS).abs()
    torch.testing.assert_close(found.differences[:, 0], wanted, rtol=1e-3, atol=1e-6)


def test_no_substeps_are_refused():
    with pytest.raises(ValueError, match="substeps=0"):
        measure_precision([], fading, torch.ones(1, 1), TS, solvers.Euler(), substeps=0)
