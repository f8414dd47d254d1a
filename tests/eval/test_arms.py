"""Arms by name: whatever a recipe accepts can be compared, at the same bytes."""

from __future__ import annotations

import pytest

from retentive_export.errors import RecipeError
from retentive_export.eval.arms import RECIPE, SELECTIONS, parse_arm, readouts, row_types, suite
from retentive_export.eval.planning import CacheSettings, plan_arm
from retentive_export.spec.layout import TextShape
from retentive_export.spec.policies import POLICIES
from retentive_export.spec.recipe_files import load_recipe

TEXT = TextShape(layers=3, q_heads=4, kv_heads=2, head_dim=32, hidden=64, vocab=100, max_positions=4096)


@pytest.mark.parametrize("name", ["small", "long"])
def test_a_suite_holds_every_policy_and_every_selection(name: str) -> None:
    assert {arm.selection for arm in suite(name)} == {*POLICIES, *SELECTIONS, RECIPE}


def test_the_long_suite_holds_every_row_type_and_readout_with_the_entropy_gate() -> None:
    ours = [arm for arm in suite("long") if arm.selection == "retentive"]
    assert {arm.rows for arm in ours} == set(row_types())
    assert {arm.readout for arm in ours} == set(readouts())


@pytest.mark.parametrize("budget", [0.5, 0.2, 0.1, 0.05])
@pytest.mark.parametrize("arm", [arm for arm in suite("long") if arm.group != "full"], ids=lambda arm: arm.name)
def test_no_arm_takes_more_bytes_than_it_may_and_none_leaves_a_row_unused(arm, budget: float) -> None:
    plan = plan_arm(load_recipe("smollm2-135m"), arm, budget, 4096, TEXT, None, CacheSettings(windows=(32, 16, 8, 4)))
    a_row = plan.layers * TEXT.kv_heads * 2 * (2 * TEXT.head_dim * 2 + 32)  # and one of memory may come with it
    assert plan.full_bytes == plan.layers * TEXT.kv_heads * 4096 * 2 * TEXT.head_dim * 2
    assert budget * plan.full_bytes - a_row < plan.state_bytes <= budget * plan.full_bytes


def test_groups_tell_published_policies_from_ours() -> None:
    names = {"full": "full", "oracle": "ceiling", "h2o": "baseline", "uniform": "baseline", "momentkv": "baseline"}
    names |= {"retentive+residual": "paper", "retentive": "ours", "h2o+int4": "ours", "snapkv+sinks=0": "ours"}
    assert {name: parse_arm(name).group for name in names} == names


@pytest.mark.parametrize("text", ["nosuch", "h2o+int3", "h2o+exactly", ""])
def test_a_word_that_no_recipe_knows_is_refused_with_those_that_it_does(text: str) -> None:
    with pytest.raises(RecipeError, match=r"neither a policy|is not known") as caught:
        parse_arm(text)
    assert "h2o" in str(caught.value) or "int8" in str(caught.value)


def test_the_smallest_window_that_fits_is_tried_before_an_arm_is_refused() -> None:
    settings = CacheSettings(windows=(64, 8))
    plan = plan_arm(load_recipe("smollm2-135m"), parse_arm("h2o"), 0.05, 512, TEXT, None, settings)
    assert plan.geometry.window == plan.geometry.chunk == 8
    with pytest.raises(RecipeError, match="smallest cache"):
        plan_arm(load_recipe("smollm2-135m"), parse_arm("h2o"), 0.01, 512, TEXT, None, settings)


def test_mixed_latents_are_spelled_by_their_counts() -> None:
    arm = parse_arm("uniform+int8+latent24.152.8+front")
    assert arm.latent == {"rank": 184, "dtype": "mixed", "int8": 24, "int4": 152}
    assert (arm.rows, arm.front, arm.group) == ("int8", None, "ours")
