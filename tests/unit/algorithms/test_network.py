"""Imputation and the network's frame."""

from __future__ import annotations

import pytest
import torch

from factory.algorithms.forecasting.network import Network, NetworkConfig, impute


def test_a_missing_step_takes_the_week_before_or_the_usual_week() -> None:
    history = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]])
    observed = torch.tensor([[False, True, False, False, True, True]])
    usual = torch.tensor([[9.0, 8.0]])  # a week of two steps
    assert impute(history, observed, usual, 2).tolist() == [[9.0, 2.0, 9.0, 2.0, 5.0, 6.0]]


@pytest.mark.parametrize("variant", ["mlp", "dlinear"])
@pytest.mark.parametrize("weeks", [2, 3, 4])
def test_the_untrained_network_answers_the_median_of_the_last_weeks(variant: str, weeks: int) -> None:
    config = NetworkConfig(variant, 3, weeks * 168, 24, 24, 5, 16)
    past = torch.rand(7, config.history, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        answer = Network(config)(past, torch.ones(7, weeks * 7), torch.zeros(7, 5), torch.zeros(7, dtype=torch.long))
    same_hours = past.view(7, weeks, 168)[:, :, :24]
    expected = torch.quantile(same_hours, 0.5, dim=1)
    torch.testing.assert_close(answer, expected)
