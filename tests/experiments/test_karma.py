"""KARMA from interests to a record: it learns, keeps its language model for the next run, and refuses what it cannot read."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from experiments import karma, language_model
from unisc.config import Runtime, from_json, override, to_json
from unisc.data.interests import load
from unisc.errors import InputError
from unisc.models.hugging_face import load_hf
from unisc.models.served import load_karma

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def interests(load_file, tmp_path_factory):
    tiny = load_file(HERE.parent / "data" / "tiny_interests.py")
    return tiny.write(tmp_path_factory.mktemp("interests") / "made", num_train=600, num_other=60)


def small(config):
    changes = {"train.num_epochs": 12, "train.batch_size": 64, "train.learning_rate": 0.01, "language.train.num_epochs": 30}
    changes |= {"language.train.batch_size": 8, "ks": [3], "model.embed_dim": 16, "data.history_len": 6}
    return override(config, changes | {"semantics.decode_steps": 5, "semantics.decode_batch": 16, "semantics.num_maps": 16})


def run(config, interests, folder):
    folder.mkdir()
    return karma.run(config, Runtime(data_dir=str(interests), work_dir=str(folder)))


@pytest.fixture(scope="module")
def configured(interests):
    return small(karma.default(interests, model="visual", size="xxs"))


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    return tmp_path_factory.mktemp("runs") / "all"


@pytest.fixture(scope="module")
def found(configured, interests, served):
    return run(configured, interests, served)


def test_it_learns_what_follows_and_measures_itself_before_and_after(found, configured, served):
    metrics = found["metrics"]
    assert metrics["eval/hr@3"] > 0.6 > 0.3 > metrics["eval/popularity/hr@3"]
    assert metrics["eval/gauc"] > 0.6
    for name in ("sink_rate", "entropy", "cosine", "sensitivity", "token_accuracy", "text_loss"):
        assert np.isfinite([metrics[f"eval/semantics/{name}"], metrics[f"eval/before/{name}"]]).all()
    assert metrics["eval/semantics/category_accuracy"] > metrics["eval/semantics/category_majority"]
    assert found["counts"]["num_examples"] == 64 * (12 * 600 // 64)
    assert from_json(karma.Config, to_json(configured)) == configured
    assert load_karma(served / "karma")[0].config == configured.model


def test_the_language_model_is_kept_and_read_again(found, configured, interests, tmp_path, monkeypatch):
    kept = list((interests / "decoders").iterdir())
    assert len(kept) == 1 and load_hf(kept[0]).config == configured.model.decoder
    monkeypatch.setattr(language_model, "fit", lambda *args: pytest.fail("trained again"))
    again = run(configured, interests, tmp_path / "again")
    assert again["metrics"] == found["metrics"]


def test_a_frozen_language_model_stays_as_it_was(configured, interests, tmp_path):
    frozen = dataclasses.replace(configured, objective=karma.OBJECTIVES["frozen"])
    data = load(interests)
    language = language_model.pretrained(frozen.language, data, Runtime(data_dir=str(interests), work_dir=str(tmp_path)))
    model = karma.start(frozen, language)
    runtime = Runtime(data_dir=str(interests), work_dir=str(tmp_path))
    trained = karma.fit(frozen, data, model, karma.shared_of(frozen, data, language), runtime).model
    np.testing.assert_array_equal(trained.serve.decoder.embedding[...], language.embedding[...])
    np.testing.assert_array_equal(trained.serve.decoder.blocks[0].gate.kernel[...], language.blocks[0].gate.kernel[...])
    assert not np.array_equal(trained.serve.interest.kernel[...], model.serve.interest.kernel[...])


def test_a_language_model_beats_frequencies_and_foresees_held_out_texts(interests, tmp_path):
    config = override(
        language_model.default(interests, size="xxs"),
        {"train.num_epochs": 60, "train.batch_size": 8, "train.learning_rate": 0.01},
    )
    found = language_model.run(config, Runtime(data_dir=str(interests), work_dir=str(tmp_path)))["metrics"]
    assert found["eval/loss"] < found["eval/frequencies/loss"] - 0.5
    assert load_hf(tmp_path / "decoder").config == config.model


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda path: karma.default(path, model="both?"), "model 'both\\?': unknown; give one of act, gen, rec"),
        (lambda path: karma.default(path, size="huge"), "size 'huge': unknown; give one of xxs"),
        (lambda path: language_model.default(path, model="gpt"), "model 'gpt': unknown; give qwen3"),
        (lambda path: load(path, fingerprint="0"), "interests .*, but this run is of 0"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(interests, ask, message):
    with pytest.raises(InputError, match=message) as raised:
        ask(interests)
    assert "\n" not in str(raised.value)


def test_a_tokenizer_beyond_the_vocabulary_is_one_line(interests, tmp_path):
    config = override(language_model.default(interests, size="xxs"), {"model.vocab_size": 100})
    with pytest.raises(InputError, match="vocab_size 100: the tokenizer has ids up to"):
        language_model.run(config, Runtime(data_dir=str(interests), work_dir=str(tmp_path)))


def test_parts_that_do_not_fit_are_named(configured, interests, load_file, tmp_path):
    with pytest.raises(InputError, match=r"objective\.vis: the model has no head for pictures"):
        override(configured, {"model.visual_dim": 0})
    with pytest.raises(InputError, match=r"model\.decoder: another than language\.model"):
        override(configured, {"model.decoder.num_layers": 2})
    tiny = load_file(HERE.parent / "data" / "tiny_interests.py")
    bare = tiny.write(tmp_path / "bare", visual_dim=0, is_ordered=False)
    with pytest.raises(InputError, match="its items have no pictures; give another model"):
        karma.default(bare, model="visual")
    with pytest.raises(InputError, match="its pairs have no order, so no history"):
        run(small(karma.default(bare, size="xxs")), bare, tmp_path / "run")
    assert load(bare).catalogue.visual is None
