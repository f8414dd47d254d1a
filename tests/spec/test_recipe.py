"""The recipe loader: a Recipe or a RecipeError, whatever comes in; and messages that name field, value and remedy."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from retentive_export.errors import RecipeError
from retentive_export.spec.overrides import apply_overrides
from retentive_export.spec.recipe import Recipe, parse_recipe
from retentive_export.spec.recipe_files import load_recipe, recipe_names, recipe_path
from retentive_export.spec.targets import load_targets, target

VALID: dict[str, Any] = {
    "name": "robot",
    "model": {"source": "some/where", "frame": [480, 640], "dtype": "float16", "config_overrides": {"a.b": [1, "x"]}},
    "cache": {
        **{"policy": "retentive", "readout": "mass", "budget": {"bytes": "2 MiB"}, "context": 2048},
        **{"rows": {"dtype": "int8", "exact": 64}, "memory": {"grid": [4, 4], "recall": 8, "store": "coarse"}},
        **{"sinks": 2, "window": 16, "chunk": 8},
        "gate": {"lambda": 0.25, "retention": {"enabled": True, "weight": 2.0}, "beta": -0.5},
    },
    "generation": {"max_new_tokens": 5, "temperature": 0.7, "top_p": 0.9, "seed": 3},
    "thresholds": {"logit_error": 0.01},
    "golden_steps": 3,
}
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**25), 10**25),
    st.floats(),
    st.text(max_size=12),
    st.binary(max_size=4),
    st.dates(),
    st.sampled_from(["512 KiB", "9" * 400, "1e3", "retentive", "float32", "int4", "mass"]),
)
NAMES = st.sampled_from(
    ["model", "cache", "source", "budget", "rows", "bytes", "frame", "gate", "lambda", "lambda_", "grid", "window", ""]
)
NESTED = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(NAMES | st.text(max_size=5) | st.integers() | st.none(), inner, max_size=5)
    ),
    max_leaves=20,
)


def checked(data: Any) -> Recipe | None:
    """The recipe, or None for a RecipeError; a recipe must survive the way to plain data and back."""
    try:
        recipe = parse_recipe(data)
    except RecipeError:
        return None
    assert parse_recipe(recipe.to_dict()) == recipe
    assert parse_recipe(yaml.safe_load(yaml.safe_dump(recipe.to_dict()))) == recipe
    return recipe


def test_the_sample_is_valid() -> None:
    recipe = checked(VALID)
    assert recipe is not None
    assert recipe.cache.budget.bytes == 2 << 20
    assert recipe.cache.gate.config().lambda_ == 0.25
    assert recipe.cache.gate.config().retention.enabled
    assert recipe.thresholds.resolved("float16").state_error == 2e-2
    assert recipe.thresholds.resolved("float32").logit_error == 0.01


@pytest.mark.parametrize(
    ("rows", "coarsest", "level", "logit_error"),
    [
        ({}, "model", 0, 1e-3),
        ({"dtype": "int8"}, "int8", 1 / 127, 1e-3),
        ({"dtype": "int8", "latent": {"rank": 4, "dtype": "int4", "front": 40}}, "int4", 1 / 7, 2e-2),
        ({"dtype": "int8", "latent": {"rank": 4, "dtype": "mixed", "front": 40}}, "mixed", 1 / 2, 2e-2),
    ],
)
def test_limits_follow_the_coarsest_code(rows: dict[str, Any], coarsest: str, level: float, logit_error: float) -> None:
    """One over the largest code of the coarsest local rows."""
    recipe = parse_recipe({"model": {"source": "x"}, "cache": {"rows": rows}})
    assert recipe.cache.coarsest == coarsest
    limits = recipe.thresholds.resolved("float32", recipe.cache.coarsest)
    assert (limits.state_error, limits.logit_error) == (pytest.approx(1e-3 + level, abs=1e-6), logit_error)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(NESTED)
def test_any_data(data: Any) -> None:
    checked(data)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.dictionaries(st.text(max_size=6), NESTED, max_size=3), st.data())
def test_any_overrides_of_the_model(overrides: dict[str, Any], data: st.DataObject) -> None:
    """Free-form data is taken only where it is carried unchanged."""
    checked({**VALID, "model": {**VALID["model"], "config_overrides": overrides}})


def _paths(data: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [prefix] if prefix else []
    if isinstance(data, dict):
        for key, value in data.items():
            found += _paths(value, (*prefix, key))
    return found


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.sampled_from(_paths(VALID)), NESTED, st.sampled_from(["replace", "delete", "add"]))
def test_mutated_recipes(path: tuple[Any, ...], value: Any, kind: str) -> None:
    data = copy.deepcopy(VALID)
    parent = data
    for key in path[:-1]:
        parent = parent[key]
    if kind == "delete":
        del parent[path[-1]]
    elif kind == "add":
        parent[f"{path[-1]}_"] = value
        if isinstance(parent, dict) and parent is not data["model"].get("config_overrides"):
            with pytest.raises(RecipeError, match="unknown key"):
                parse_recipe(data)
            return
    else:
        parent[path[-1]] = value
    checked(data)


TAGS = st.sampled_from(
    ["!!int", "!!float", "!!bool", "!!timestamp", "!!binary", "!!set", "!!python/name:os.system", "!!omap"]
)
YAML_TEXT = st.one_of(
    st.text(max_size=60),
    st.text(alphabet="abm:{}[]&*!?|>-'\"#%@,.0123456789_ \n\t=<~", max_size=60),
    st.lists(TAGS | st.text(alphabet="_0x:'\" .-", max_size=4), min_size=1, max_size=3).map(" ".join),
)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(YAML_TEXT)
def test_any_yaml_text(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    for body in (text, f"model:\n  source: {text}\n", f"model: {{source: x}}\ncache: {text}\n"):
        path.write_bytes(body.encode("utf-8", "surrogatepass"))
        try:
            recipe = load_recipe(path)
        except RecipeError:
            continue
        assert parse_recipe(recipe.to_dict()) == recipe


@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    st.one_of(
        st.text(max_size=30),
        st.builds("{}={}".format, st.sampled_from([".".join(path) for path in _paths(VALID)]), YAML_TEXT),
        st.builds("{}={}".format, st.lists(NAMES, max_size=4).map(".".join), st.text(max_size=10)),
    )
)
def test_any_override(text: str) -> None:
    try:
        data = apply_overrides(VALID, [text])
    except RecipeError:
        return
    assert checked(VALID) is not None, "the original was changed"
    checked(data)


@pytest.mark.parametrize(
    "text",
    [
        "model: &m {source: x, config_overrides: &c {again: *c}}",
        "&all {model: {source: x}, cache: *all}",
        "model: {source: x}\ncache: {budget: {bytes: '" + "9" * 400 + "'}}",
        "model: {source: x}\ncache: {budget: {bytes: '" + "9" * 5000 + "'}}",
        "model: {source: x}\ngolden_steps: " + "9" * 5000,
        "model: {source: !!int ''}",
        "model: {source: !!bool maybe}",
        "model: {source: !!timestamp soon}",
        "model: {source: !!python/object/apply:os.system [true]}",
        "[" * 5000,
        "{a: " * 3000 + "1" + "}" * 3000,
        "model: {source: x, config_overrides: {when: 2001-02-03}}",
        "model: {source: x, config_overrides: {bytes: !!binary /w==}}",
        "model: {source: x, config_overrides: {limit: .nan}}",
        "model: {source: x, config_overrides: {1: 2}}",
        "- a list",
        "",
        "just text",
        "model: [",
        "\t",
    ],
)
def test_hostile_yaml_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError):
        load_recipe(path)


def test_deep_data_is_refused() -> None:
    deep: Any = 1
    for _ in range(50_000):
        deep = [deep]
    for data in ({"model": deep}, {"model": {"source": "x", "config_overrides": {"a": deep}}}):
        with pytest.raises(RecipeError):
            parse_recipe(data)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("cache.windw=3", ["cache.windw", "unknown key"]),
        ("cache.window=wide", ["cache.window", "integer", "'wide'"]),
        ("cache.window=0", ["cache.window", "greater than or equal to 1", "0"]),
        ("model.dtype=float8", ["model.dtype", "'float32', 'float16' or 'bfloat16'", "'float8'"]),
        ("model.frame=[0, 4]", ["frame is [0, 4]", "[height, width]"]),
        ("cache.budget={rows: 3, fraction: 0.5}", ["exactly one of rows, bytes, fraction", "rows, fraction"]),
        ("cache.budget={}", ["exactly one of rows, bytes, fraction", "none"]),
        ("cache.budget.bytes=2 potatoes", ["cache.budget.bytes", "512 KiB", "2 potatoes"]),
        ("cache.budget.fraction=1.5", ["cache.budget.fraction", "less than or equal to 1", "1.5"]),
        ("cache.gate.lambda=2", ["cache.gate.lambda", "2"]),
        ("generation.top_p=0", ["generation.top_p", "greater than 0"]),
        ("golden_steps=true", ["golden_steps", "integer", "True"]),
        ("no-equals-sign", ["no-equals-sign", "key=value"]),
        ("cache..window=3", ["key=value"]),
        ("name.first=3", ["'name'", "is a value, not a section"]),
        ("cache.window=[1", ["cache.window", "'[1'", "YAML"]),
    ],
)
def test_messages_name_field_value_and_what_is_accepted(override: str, words: list[str]) -> None:
    with pytest.raises(RecipeError) as error:
        parse_recipe(apply_overrides(VALID, [override]))
    for word in words:
        assert word in error.value.message


def test_long_values_are_cut() -> None:
    with pytest.raises(RecipeError) as error:
        parse_recipe({**VALID, "cache": "x" * 10_000})
    assert len(error.value.message) < 300


def test_a_new_budget_replaces_the_old_one() -> None:
    recipe = parse_recipe(apply_overrides(VALID, ["cache.budget.rows=99"]))
    assert recipe.cache.budget.model_dump() == {"rows": 99, "bytes": None, "fraction": None}
    assert VALID["cache"]["budget"] == {"bytes": "2 MiB"}


@pytest.mark.parametrize(
    ("text", "expected"), [("512", 512), ("1.5 KiB", 1536), (" 2MB ", 2_000_000), ("3 gib", 3 << 30), ("7 b", 7)]
)
def test_bytes(text: str, expected: int) -> None:
    assert parse_recipe(apply_overrides(VALID, [f"cache.budget.bytes='{text}'"])).cache.budget.bytes == expected


def test_carried_recipes_are_complete() -> None:
    assert "reference-vlm" in recipe_names()
    shown = load_recipe("reference-vlm")
    assert shown.on("none") is shown
    assert shown.cache.rows.latent is not None
    on_engines = shown.on("device").cache
    assert (on_engines.policy, on_engines.rows.dtype, on_engines.rows.latent) == ("retentive", "int8", None)
    assert on_engines.budget.fraction == 0.1
    by_hand = ["cache.budget.rows=99", "cache.rows.dtype=int4", "cache.policy=h2o"]
    cache = load_recipe("reference-vlm", by_hand).on("device").cache
    assert (cache.budget.rows, cache.rows.dtype, cache.rows.latent, cache.policy) == (99, "int4", None, "h2o")
    for name in recipe_names():
        recipe = load_recipe(name)
        assert recipe.name == name
        assert recipe.description
        assert checked(recipe.to_dict()) == recipe
        assert load_recipe(recipe_path(name)) == recipe


def test_names_that_are_not_recipes(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"neither a file nor one of: .*reference-vlm"):
        load_recipe("referense-vlm")
    with pytest.raises(RecipeError, match="no such file"):
        load_recipe(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9")
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(tmp_path / "latin.yaml")


def test_targets() -> None:
    assert target("cpu").backend == "onnxruntime"
    assert set(load_targets()) >= {"cpu"}
    with pytest.raises(RecipeError, match="target is 'gameboy', and must be one of: cpu"):
        target("gameboy")
    with pytest.raises(RecipeError, match=r"model\.dtype is 'bfloat16'") as error:
        target("cpu", "bfloat16")
    assert error.value.hint == "--set model.dtype=float32"


def test_only_mixed_latents_are_split() -> None:
    rows = {"rank": 16, "dtype": "int8", "int4": 8}
    with pytest.raises(RecipeError, match="int8 and int4 split latents of dtype mixed, and dtype is int8"):
        parse_recipe({"model": {"source": "x"}, "cache": {"rows": {"latent": rows}}})
