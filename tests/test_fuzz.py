"""Files of every kind, broken in every way: refused in words, or what they were."""

from __future__ import annotations

import json

import pytest
import torch
from fuzz import fuzz
from safetensors.torch import load_file, save_file

from apq.errors import ModelError, SpaceError
from apq.files import bounded_json, parse_json, sealed
from apq.files.tensors import save_tensors, weights_hash
from apq.search.best import CandidateFile, read_best, read_candidate
from apq.space import PRESETS, Candidate, load_space
from apq.supernet import Supernet, load_supernet, save_supernet


def test_a_mutant_is_refused_in_words_or_is_what_it_was(tmp_path):
    torch.set_num_threads(1)
    result = fuzz(160, 7, tmp_path)
    assert result.found == []
    for name, counts in result.counts.items():
        if not name.endswith("profile"):  # most of what a tool writes is not read
            assert counts["refused"] > sum(counts.values()) / 2, name


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[" * 100_000 + "]" * 100_000, "nested more than 32"),
        ('{"a":' * 40 + "1" + "}" * 40, "nested more than 32"),
        ("9" * 5_000, "digits"),
        ('{"a": [1, 1e999]}', r"a\[1\] is inf, must be a finite number"),
        ('{"a": NaN}', "a is nan"),
        ('{"a": 1, "a": 2}', "'a' stands there twice"),
        ("", "Expecting value"),
    ],
)
def test_a_text_that_no_schema_can_hold_is_refused_before_it_is_read(text, why):
    with pytest.raises(ValueError, match=why):
        bounded_json(text)
    with pytest.raises(SpaceError, match=r"best\.json is not a file with a candidate"):
        parse_json(text, CandidateFile, "best.json")


def candidate(**changes):
    bits = {"b00_pw_w_bits": 4, "b00_pw_a_bits": 8, "b00_dw_w_bits": 8, "b00_dw_a_bits": 8}
    named = {f"b00_{name}": value for name, value in changes.items()}
    return {"depth_0": 1, "b00_kernel": 3, "b00_width": 8, **bits, **named}


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (candidate(kernel=3.7), r"candidate: b00_kernel is 3\.7, must be a whole number"),
        (candidate(kernel="3"), r"kernel is '3', must be a whole number"),
        (candidate(kernel=True), "kernel is True, must be a whole number"),
        (candidate(width=-1), "width is -1, must be a whole number from 0"),
        (candidate(width=10**30), "width is 1000.*, must be .* to 65536"),
        (candidate(pw_w_bits="__del__"), "pw_w_bits: unknown number format '__del__'"),
        (candidate(pw_w_bits=[8]), r"pw_w_bits: unknown number format \[8\]"),
        ({"candidate": candidate(), "predicted": 0.9}, "predicted is 0.9, must be a table"),
        ({"candidate": candidate(), "costs": {"size_mb": -1.0}}, r"costs\.size_mb is -1\.0"),
        ({"candidate": candidate(), "space": []}, r"space: it is \[\], must be a table"),
        ({"candidate": {"stages": [[]], "resolution": 8}}, "older version"),
    ],
)
def test_a_field_is_named_with_what_was_found_and_what_is_allowed(data, why, tmp_path):
    path = tmp_path / "best.json"
    path.write_text(json.dumps(data))
    with pytest.raises(SpaceError, match=rf"best\.json is not .*{why}.*best\.json of a search"):
        read_candidate(path)


def test_a_best_json_that_was_edited_is_refused_and_a_candidate_alone_is_not(tmp_path):
    path = tmp_path / "best.json"
    data = sealed({"candidate": candidate()})
    path.write_text(json.dumps(data))
    assert read_candidate(path).candidate == Candidate.of(candidate())
    path.write_text(json.dumps(data | {"candidate": candidate(kernel=5)}))
    with pytest.raises(SpaceError, match="changed after it was written"):
        read_candidate(path)
    path.write_text(json.dumps(candidate(kernel=5)))
    assert read_candidate(path).candidate["b00_kernel"] == 5
    with pytest.raises(SpaceError, match="lacks space, predicted, made_from, apq"):
        read_best(path)


def test_a_header_that_was_edited_and_tensors_that_do_not_fit_are_refused_by_name(tmp_path):
    path = tmp_path / "supernet.safetensors"
    network = Supernet(PRESETS["digits"]())
    about = {"mean": (0.5,), "std": (0.25,)}
    save_supernet(path, network, about)
    tensors = load_file(path)
    for change, why in (
        ({"mean": "0.5"}, "mean is '0.5', must be a list"),
        ({"std": (0.0,)}, r"std\[0\] is 0\.0, must be more than 0"),
        ({"mean": (0.5, 0.5)}, "2 means"),
        ({"kind": "model"}, "kind is 'model', must be one of 'supernet'"),
    ):
        save_supernet(path, network, about | change)
        with pytest.raises(ModelError, match=why):
            load_supernet(path)
    header = {"kind": "supernet", "space": network.space.to_dict(), **about}
    name = "classifier.weight"
    for change, why in (
        ({name: tensors[name].half()}, f"{name} is float16 .*, must be float32"),
        ({name: tensors[name][:3]}, rf"{name} is float32 \[3, 64\], must be float32 \[10, 64\]"),
        ({"odd": torch.zeros(1)}, "'odd', which belongs to nothing"),
    ):
        state = {**tensors, **change}
        save_tensors(path, state, header | {"hash": weights_hash(state)})
        with pytest.raises(ModelError, match=why):
            load_supernet(path)
    save_file(tensors, path)
    with pytest.raises(ModelError, match="lacks hash, kind, space, mean, std"):
        load_supernet(path)


def test_a_space_that_asks_for_too_much_is_refused_before_memory_is_taken(tmp_path):
    path = tmp_path / "supernet.safetensors"
    network = Supernet(PRESETS["digits"]())
    save_supernet(path, network, {"mean": (0.5,), "std": (0.25,)})
    huge = network.space.to_dict() | {"classes": 65_536, "head_channels": 65_536}
    save_supernet(path, network, {"mean": (0.5,), "std": (0.25,), "space": huge})
    with pytest.raises(ModelError, match=r"must be float32 \[65536"):
        load_supernet(path)
    toml = tmp_path / "space.toml"
    toml.write_text("[" * 100_000)
    with pytest.raises(SpaceError, match=r"space\.toml is not valid TOML"):
        load_space(str(toml))
