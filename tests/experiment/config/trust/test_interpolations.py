"""Values from elsewhere are never interpolated."""

import random

import pytest
from omegaconf import OmegaConf

from fedlit.experiment.config.instantiate import instantiate_checked
from fedlit.experiment.config.trust.foreign_command import foreign_command_errors
from fedlit.experiment.config.trust.interpolations import interpolation_errors, literal

RESOLVERS = [
    "${oc.env:HOME}",
    "a ${oc.env:HOME}",
    r"\${oc.env:HOME}",
    r"\\\${oc.create:{}}",
    "${a.${b}}",
    "${a:b}",
    "${",
    "${}",
]
REFERENCES = ["${model.optimizer.lr}", "${a}", "x ${a.b} ${c[0]}", "${.a}", "${..a.b}"]


@pytest.mark.parametrize("text", [*RESOLVERS, *REFERENCES])
def test_every_interpolation_in_a_value_or_key_is_an_error(text):
    for config, key in (({"a": {"b": [text]}}, "a.b[0]"), ({"a": {text: 1}}, "a")):
        (error,) = interpolation_errors(config)
        assert (error.key, error.value) == (key, text)


def test_plain_references_may_be_allowed():
    for text in RESOLVERS:
        assert interpolation_errors({"a": text}, allow_references=True), text
    for text in [*REFERENCES, "a$b", "$a {b}", "100 %", r"\$"]:
        assert interpolation_errors({"a": text}, allow_references=True) == [], text
    assert interpolation_errors({"a": 1, 2: None, "c": [True, 0.5]}) == []


def test_a_literal_resolves_to_itself():
    generator = random.Random(0)
    signs = ["\\", "$", "{", "}", "${", "a", ":", "'", '"', ".", "oc.env:HOME", "[", "]", " "]
    for _ in range(500):
        text = "".join(generator.choices(signs, k=generator.randint(0, 8)))
        config = OmegaConf.create({"a": [literal(text)]})
        assert OmegaConf.to_container(config, resolve=True) == {"a": [text]}


@pytest.mark.parametrize("text", RESOLVERS)
def test_objects_are_made_of_the_values_as_they_are(text):
    node = {"_target_": "types.SimpleNamespace", "a": text, "b": [{"c": text}]}
    made = instantiate_checked(node)
    assert (made.a, made.b) == (text, [{"c": text}])


@pytest.mark.parametrize(
    "override",
    [
        "a='${oc.env:HOME}'",
        "a=${oc.env:HOME}",
        r"a=$\{oc.env:HOME\}",
        r"a='\${oc.create:{}}'",
        "a={b: [${oc.env:HOME}]}",
        r"+a.b=[x, $\{oc.env:HOME\}]",
        "model=${oc.env:HOME}",
        r"a=choice(1, $\{oc.env:HOME\})",
        "+model@hydra.callbacks.x=mlp",
        "+model@_global_.hydra.x=mlp",
    ],
)
def test_a_resolver_and_hydras_own_part_are_errors_in_an_override(tmp_path, override):
    assert len(foreign_command_errors(tmp_path, ["seed=1", override])) == 1


def test_usual_overrides_are_no_error(tmp_path):
    overrides = ["seed=1", "model=mlp", "algorithm.lr=${model.optimizer.lr}", "~observers.terminal", "+data.x='a $b'",
                 "algorithm@algorithm.inner=fedavg", "x=range(1, 3)", "x=[1, 2]"]  # fmt: skip
    assert foreign_command_errors(tmp_path, overrides) == []
    (tmp_path / "link").symlink_to("nowhere")
    (error,) = foreign_command_errors(tmp_path, overrides)
    assert error.value == tmp_path / "link"
