import json
import re
import unicodedata
from dataclasses import asdict, fields
from math import inf, nan
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.configure import PRESETS, preset_text
from pipeline.params import Params, load_params, parse_params
from stages.core.errors import ConfigurationError
from stages.corpus.params import ADAPTERS, READ_BY, CorpusParams

REPOSITORY = Path(__file__).parents[1]


def load(tmp_path: Path, text: str, *overrides: str) -> Params:
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    return load_params(path, overrides)


def refusal(tmp_path: Path, text: str, *overrides: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, text, *overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_values_reach_their_fields_and_the_rest_keep_their_defaults(tmp_path):
    params = load(tmp_path, "student: {epochs: 7, alpha: [0.3, 1]}\ncorpus:\n")
    assert params.student.epochs == 7
    assert params.student.alpha == (0.3, 1)
    assert params.student.batch_size == Params().student.batch_size
    assert params.corpus == Params().corpus
    assert load(tmp_path, "") == Params()


def test_an_unknown_key_is_refused_with_the_known_ones_and_the_nearest(tmp_path):
    line = refusal(tmp_path, "student: {learning_rte: 1}")
    assert str(tmp_path / "params.yaml") in line
    assert "'learning_rte'" in line and "did you mean 'learning_rate'?" in line
    for field in fields(Params().student):
        assert field.name in line


def test_a_key_that_python_cannot_write_is_refused(tmp_path):
    line = refusal(tmp_path, f"? 0x{6000 * 'F'}\n: 1")
    assert "unknown section; found a number that is too large" in line


def test_a_corpus_can_have_a_name_in_any_script(tmp_path):
    for name in ("हिन्दी", unicodedata.normalize("NFD", "Übung für é-1")):
        text = f"corpus: {{name: {name}}}"
        assert load(tmp_path, text).corpus.name == name


def test_an_unknown_section_is_refused_with_the_known_ones(tmp_path):
    line = refusal(tmp_path, "students: {epochs: 1}")
    assert "'students'" in line
    for field in fields(Params):
        assert field.name in line


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("student: {epochs: many}", "student.epochs", "a whole number"),
        ("student: {epochs: 1.5}", "student.epochs", "a whole number"),
        ("student: {epochs: true}", "student.epochs", "a whole number"),
        ("student: {epochs: [1]}", "student.epochs", "a whole number"),
        ("student: {epochs: }", "student.epochs", "a whole number"),
        ("student: {learning_rate: fast}", "student.learning_rate", "a number"),
        ("student: {gru_bidirectional: 1}", "student.gru_bidirectional", "true or"),
        ("student: {alpha: [0.5, high]}", "student.alpha", "a number"),
        ("corpus: {name: 7}", "corpus.name", "a text"),
        ("student: {alpha: [1.5]}", "student.alpha", "each 0 to 1"),
        ("student: {alpha: 0.3}", "student.alpha", "expected [0.3]"),
        ("corpus: {train_utterances: 0}", "corpus.train_utterances", "1 to 100,000"),
        ("corpus: {test_utterances: -1}", "corpus.test_utterances", "1 to 100,000"),
        ("corpus: {seed: -1}", "corpus.seed", "0 to 4,294,967,295"),
        ("pretraining: {steps: 0}", "pretraining.steps", "1 to 1,000,000,000"),
        (
            "pretraining: {checkpoint_steps: 0}",
            "checkpoint_steps",
            "1 to 1,000,000,000",
        ),
        ("pretraining: {batch_size: 0}", "pretraining.batch_size", "1 to 100,000"),
        ("pretraining: {sessions: 0}", "pretraining.sessions", "1 to 1,000,000"),
        ("pretraining: {accents: []}", "pretraining.accents", "1 to 1,000"),
        ("pretraining: {lengths: []}", "pretraining.lengths", "1 to 1,000"),
        ("pretraining: {lengths: [1, 0]}", "pretraining.lengths", "each 0.16"),
        ("pretraining: {learning_rate: -1}", "pretraining.learning_rate", "above 0"),
        ("pretraining: {seed: -1}", "pretraining.seed", "0 to 4,294,967,295"),
        ("pretraining: {drawn_speakers: .nan}", "drawn_speakers", "0 to 1"),
        ("report: {audio: mp3}", "report.audio", "embedded, linked, none"),
        ("report: {tsne_intents: 0}", "report.tsne_intents", "1 to 10"),
        ("report: {tsne_intents: 11}", "report.tsne_intents", "1 to 10"),
        ("report: {tsne_perplexity: 0}", "report.tsne_perplexity", "above 0"),
        ("report: {tsne_perplexity: .nan}", "report.tsne_perplexity", "above 0"),
        ("corpus: {name: 'a\n'}", "corpus.name", "letters"),
        ("corpus: {name: a/b}", "corpus.name", "letters"),
        ("corpus: {name: '${a}'}", "corpus.name", "letters"),
        ("corpus: {name: .git}", "corpus.name", "letters"),
        ("corpus: {name: " + 101 * "a" + "}", "corpus.name", "100 bytes"),
        ("robustness: {noise: ..}", "robustness.noise", "last names"),
        ("robustness: {reverberation: a/..}", "robustness.reverberation", "a folder"),
        ("report: {seed: -1}", "report.seed", "0 to 4,294,967,295"),
        ("student: 3", "section student", "a mapping"),
    ],
)
def test_a_wrong_value_is_refused_by_name(tmp_path, text, name, expected):
    line = refusal(tmp_path, text)
    assert str(tmp_path / "params.yaml") in line and name in line and expected in line


_NUMBERS = (nan, inf, -inf, -1, 0, 10**20, 10**400, 16**6000, 1e308)
_TEXTS = ("", "\n", "\0", "\ud800", 5000 * "x", "../x", "a/b")
_HOSTILE = (*_NUMBERS, *_TEXTS, [], list(range(10_000)), 10_000 * ["x"], True, None, {})
# What can be loaded all the same. Whether paths exist is seen by those who open them.
_SHARES = "drawn_speakers mlm_mask_share mlm_random_share share"
_PATHS = (
    "encoder revision model table prefix labels parts noise reverberation speech "
    "piper_voices recordings_table sentences texts"
)
_NAMES = "column accents held_out_accents held_out_variants intent_key slots"
_COLUMNS = "path_column split_column speaker_column text_column intent_column"
_LOADED = {
    -1: "layer snr language_model_weight word_score",
    0: "layer snr language_model_weight word_score seed seeds fold mlm_epochs alpha "
    "soft_targets dropout frame_dropout feature_masking adam_beta1 adam_beta2 "
    "weight_decay clip_norm warmup head_learning_rate longest_pause train_voices "
    "valid_voices test_voices clean babble room telephone piper flite "
    f"ctc_weight {_SHARES}",
    10**20: "learning_rate",  # of a student, which then learns nothing of use
    "": "revision prefix speaker_column parts piper_voices recordings_table sentences "
    "texts",
    "../x": f"{_PATHS} {_NAMES} {_COLUMNS}",
    "a/b": f"{_PATHS} {_NAMES} {_COLUMNS}",
    "[]": "slots alpha learning_rate batch_size gru_width dropout",  # of sweep
    True: "synthetic frozen_embeddings group_by_length masked_only gru_bidirectional "
    "scaling standardisation teacher_classifier unlabelled",
}


def test_a_hostile_value_of_any_parameter_is_refused_in_one_line(monkeypatch):
    loaded: dict[object, set[str]] = {}
    for section in fields(Params):
        for field in fields(getattr(Params(), section.name)):
            name = f"{section.name}.{field.name}"
            keys = {}
            if section.name == "corpus" and field.name in READ_BY:
                keys = {"adapter": READ_BY[field.name][0], "splits": "given"}
                if field.name == "parts":
                    keys["splits"] = "random"
            for value in _HOSTILE:
                # Parsed, because 10,000 values take the parser a second.
                given = {section.name: {**keys, field.name: value}}
                monkeypatch.setattr("pipeline.params._sections", lambda *_, g=given: g)
                try:
                    parse_params(Path("params.yaml"), "")
                except ConfigurationError as error:
                    line = str(error)
                    assert name in line and len(line) < 1000
                    assert not {"\n", "\0", "\ud800"} & set(line)
                else:
                    key = "[]" if value == [] else value
                    loaded.setdefault(key, set()).add(field.name)
    assert loaded == {value: set(names.split()) for value, names in _LOADED.items()}


def test_a_grid_of_too_many_students_is_refused(tmp_path):
    values = list(range(1, 1001))
    line = refusal(tmp_path, f"sweep: {{batch_size: {values}, gru_width: {values}}}")
    assert "combinations in sweep" in line and "found 15000000;" in line


def test_a_hostile_override_is_refused_by_name(tmp_path):
    for override in (
        "student.gru_width=1e9",
        'corpus.name="a\\n"',
        "robustness.snr=[1e9]",
    ):
        assert override.partition("=")[0] in refusal(tmp_path, "", override)


@pytest.mark.parametrize(
    "text",
    [
        "a: [",
        "- 1\n",
        "student: {epochs: 1, epochs: 2}",
        "student: {epochs: !!int x}",
        "student: {epochs: !!bool x}",
        f"student: {{seeds: {5000 * '9'}}}",
        f"student: {{seeds: {3000 * '['}",
    ],
)
def test_anything_but_sections_in_yaml_is_refused(tmp_path, text):
    assert str(tmp_path / "params.yaml") in refusal(tmp_path, text)


def test_a_missing_file_is_refused_with_its_name(tmp_path):
    with pytest.raises(ConfigurationError, match=r"none\.yaml.*--params FILE"):
        load_params(tmp_path / "none.yaml")


def test_one_value_becomes_a_list_of_one(tmp_path):
    assert load(tmp_path, "student: {seeds: 4}").student.seeds == (4,)
    # DVC wants a list in the file, not in an override.
    assert load(tmp_path, "", "student.alpha=0.3").student.alpha == (0.3,)


def test_numbers_keep_the_form_that_dvc_names_folders_after(tmp_path):
    alpha = load(tmp_path, "student: {alpha: [1, 1.0e-1]}").student.alpha
    assert [str(one) for one in alpha] == ["1", "0.1"]


def test_a_number_without_a_point_before_its_exponent_is_one(tmp_path):
    # PyYAML reads a text, DVC a number.
    rate = load(tmp_path, "student: {learning_rate: 1e-3}").student.learning_rate
    assert rate == 0.001


def test_overrides_win_in_their_order_and_may_name_new_sections(tmp_path):
    params = load(
        tmp_path,
        "student: {epochs: 7}",
        "student.epochs=8",
        "student.epochs=9",
        "teacher.model=a/b",
        "student.alpha=[0.1, 0.2]",
    )
    assert params.student.epochs == 9
    assert params.teacher.model == "a/b"
    assert params.student.alpha == (0.1, 0.2)


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("student.epochs", "SECTION.KEY=VALUE"),
        ("epochs=1", "SECTION.KEY=VALUE"),
        (".epochs=1", "SECTION.KEY=VALUE"),
        ("student.epoch=1", "unknown key"),
        ("nothing.epochs=1", "unknown section"),
    ],
)
def test_a_wrong_override_is_refused(tmp_path, override, complaint):
    assert complaint in refusal(tmp_path, "", override)


def test_a_long_override_is_cut_in_the_message(tmp_path):
    for override in (5000 * "x", f"a.b={5000 * '['}"):
        assert len(refusal(tmp_path, "", override)) < 500


def test_the_demo_preset_is_the_params_yaml_of_the_repository():
    assert (REPOSITORY / "params.yaml").read_bytes() == (
        REPOSITORY / "pipeline" / "presets" / "demo.yaml"
    ).read_bytes()


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_names_its_corpus_and_every_key_of_the_other_sections(name):
    from ruamel.yaml import YAML

    text = preset_text(name)
    params = parse_params(Path("params.yaml"), text)
    corpus = "demo" if name == "recommended" else name.removesuffix("-slots")
    assert params.corpus.name == corpus
    sections = YAML(typ="safe").load(text)
    for section, keys in asdict(params).items():
        if section != "corpus":  # its keys depend on the adapter
            assert set(sections[section]) == set(keys)


@pytest.mark.parametrize("name", ["fsc", "atis"])
def test_the_presets_of_the_papers_corpora_have_its_numbers(name):
    # Section 3.2.2 and Table 3.
    params = parse_params(Path("params.yaml"), preset_text(name))
    teacher, student = params.teacher, params.student
    assert teacher.model == "bert-base-uncased"
    assert (teacher.mlm_learning_rate, teacher.mlm_epochs) == (5e-5, 3)
    assert (teacher.intent_learning_rate, teacher.intent_epochs) == (2e-5, 4)
    assert (teacher.adam_beta1, teacher.adam_beta2) == (0.9, 0.999)
    assert (student.learning_rate, student.betas) == (1e-3, (0.9, 0.999))
    assert (student.batch_size, student.epochs) == (64, 100)
    assert student.alpha == (0.5, 0.8)


def test_the_shipped_encoder_was_made_with_the_parameters_that_are_shown():
    path = REPOSITORY / "data" / "demo" / "encoder.json"
    recipe = json.loads(path.read_text(encoding="utf-8"))["recipe"]
    params = load_params(REPOSITORY / "params.yaml").pretraining
    assert recipe == json.loads(json.dumps(asdict(params)))


def test_a_key_that_the_adapter_does_not_read_is_refused(tmp_path):
    line = refusal(tmp_path, "corpus: {adapter: phrases, splits: speakers}")
    assert "params.yaml: corpus.splits is not read by the adapter phrases" in line
    line = refusal(tmp_path, "corpus: {name: fsc, adapter: fsc, fold: 1}")
    assert "corpus.fold is not read by the adapter fsc; found 1" in line
    assert "expected the adapter snips" in line
    # A default value changes nothing.
    load(tmp_path, "corpus: {name: fsc, adapter: fsc, fold: 0}")


def test_the_table_of_adapters_and_their_keys_matches_the_code():
    known = {field.name for field in fields(CorpusParams)}
    assert set(READ_BY) < known
    # Read by the stage, for all but sentences, whose parameters several modules read.
    made = {"splits", "valid_share", "test_share"}
    for adapter in set(ADAPTERS) - {"phrases"}:
        code = (REPOSITORY / "stages" / "corpus" / f"{adapter}.py").read_text()
        found = set(re.findall(r"params\.(\w+)", code)) & known - {"seed"}
        if "split_of_parts(params)" in code:
            found.add("parts")
        read = {name for name, by in READ_BY.items() if adapter in by}
        # rows.py reads these.
        shared = {"outside_paths", "slots"}
        assert (found | made) - shared == read - shared


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_no_key_that_its_adapter_does_not_read(tmp_path, name):
    text = preset_text(name)
    adapter = parse_params(tmp_path / "params.yaml", text).corpus.adapter
    for key in YAML(typ="safe").load(text)["corpus"]:
        assert adapter in READ_BY.get(key, ADAPTERS), key
