"""Learning-rate schedules over the progress of a run."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanohydra.errors import UserError
from nanohydra.train.config import TrainConfig
from nanohydra.train.schedules import lr_share

configs = st.builds(
    TrainConfig,
    steps=st.just(10),
    schedule=st.sampled_from(["cosine", "wsd", "constant"]),
    warmup=st.floats(0, 0.5),
    decay=st.just(0.0) | st.floats(0.001, 0.5),
    decay_shape=st.sampled_from(["linear", "sqrt"]),
    final_lr=st.floats(0, 1),
)


@given(configs, st.floats(-0.5, 2.0))
def test_share_is_between_0_and_1(config, progress):
    assert 0.0 <= lr_share(progress, config) <= 1.0


@given(configs, st.floats(0, 1), st.floats(0, 1))
def test_rises_in_the_warmup_and_never_after(config, a, b):
    a, b = sorted((a, b))
    if b <= config.warmup:
        assert lr_share(a, config) <= lr_share(b, config)
    elif a >= config.warmup:
        assert lr_share(a, config) >= lr_share(b, config) - 1e-12


@given(configs)
def test_ends_at_the_final_share(config):
    if config.schedule == "constant" or (config.schedule == "wsd" and config.decay == 0):
        assert lr_share(1.0, config) == 1.0
    else:
        assert lr_share(1.0, config) == pytest.approx(config.final_lr)


def test_known_values():
    cosine = TrainConfig(steps=1, warmup=0.2, final_lr=0.1)
    assert lr_share(0.1, cosine) == 0.5
    assert lr_share(0.2, cosine) == 1.0
    assert lr_share(0.6, cosine) == pytest.approx(0.55)
    assert lr_share(0.4, cosine) == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4)))
    wsd = TrainConfig(steps=1, schedule="wsd", warmup=0.1, decay=0.4)
    assert [lr_share(p, wsd) for p in (0.1, 0.35, 0.6)] == [1.0, 1.0, 1.0]
    assert lr_share(0.8, wsd) == pytest.approx(0.5)
    assert lr_share(0.7, replace(wsd, decay_shape="sqrt")) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({}, "exactly one"),
        ({"steps": 1, "tokens": 1}, "exactly one"),
        ({"steps": 0}, "more than 0"),
        ({"seconds": math.nan}, "more than 0"),
        ({"steps": 1, "warmup": 1.5}, "between 0 and 1"),
        ({"steps": 1, "schedule": "wsd", "warmup": 0.6, "decay": 0.6}, "sum"),
        ({"steps": 1, "ema": 1.0}, "ema"),
        ({"steps": 1, "keep_last": 0}, "keep_last"),
        ({"steps": 1, "lr": -1.0}, "negative"),
    ],
)
def test_impossible_settings_get_one_line(settings, word):
    with pytest.raises(UserError, match=word) as error:
        TrainConfig(**settings)
    assert "\n" not in str(error.value)
