"""The benchmark of the whole decode loop, on the CPU: what it compares is what it says."""

from __future__ import annotations

import pytest
import torch

from benchmarks.decode_arms import FullCache, text_shape
from benchmarks.decode_loop import main
from benchmarks.decode_model import SHAPES, DecodeStep, build_model, join_projections, weight_bytes

CPU = torch.device("cpu")


def test_joint_projections_change_no_logit() -> None:
    """The model as Hugging Face builds it, and with its projections joined: the same weights, bytes and numbers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmarks.decode_model.join_projections", lambda model: None)
        model = build_model("tiny", CPU, torch.float32)

    def logits() -> torch.Tensor:
        cache = FullCache(text_shape(SHAPES["tiny"]), 2, 64, CPU)
        cache.keys, cache.values = ([rows.float() for rows in half] for half in (cache.keys, cache.values))
        step = DecodeStep(model, 2, 40, CPU)
        step.use(cache)
        step()
        assert step.logits is not None
        return step.logits

    apart, size = logits(), weight_bytes(model)
    join_projections(model)
    assert weight_bytes(model) == size
    torch.testing.assert_close(logits(), apart, rtol=1e-5, atol=1e-6)


def test_every_arm_runs_in_the_bytes_that_its_geometry_says() -> None:
    result = main(["--tiny", "--batch", "1", "2", "--context", "256", "--repeats", "1"])
    assert not result["not_run"]
    arms = {(arm["batch"], arm["arm"]) for arm in result["arms"]}
    names = {"full", "50% rows", "20% rows", "5% rows", "20% bytes, int4"}
    assert arms == {(batch, name) for batch in (1, 2) for name in names}
    full = {arm["batch"]: arm["cache_bytes"] for arm in result["arms"] if arm["arm"] == "full"}
    for arm in result["arms"]:
        assert arm["cache_bytes_allocated"] == arm["cache_bytes"]
        assert arm["moved_bytes"] == result["weights_bytes"] + arm["cache_bytes"]
        if arm["arm"] == "20% bytes, int4":
            assert arm["cache_bytes"] <= 0.2 * full[arm["batch"]]
