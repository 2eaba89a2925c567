"""The model card of an export, in Hugging Face's format."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from stages.core.labels import Labels
from stages.core.markdown import code, escape

_TEMPLATE = Path(__file__).with_name("card.md")

_EXPLANATIONS = {
    "baseline2": ", a GRU on the encoder's features (Baseline-2 of the paper)",
    "aln_linguistic": ", features mapped to a text teacher's vectors, then a GRU",
    "aln": ", the acoustic-linguistic network of the paper: cross-attention between "
    "acoustic features and features mapped to a text teacher's vectors, then a GRU",
    "recommended": ", whose summary of an utterance learnt a text teacher's vectors",
}


def model_card(about: dict[str, Any], measured: Mapping[str, Any], report: Path) -> str:
    """The card as Markdown.

    Args:
        about: the content of `model.json`.
        measured: what the rejection stage found of the student.
        report: folder of the report, whose accuracies are shown.
    """
    path, corpus = report / "results.json", about["trained_on"]["corpus"]
    results = json.loads(path.read_text("utf-8"))
    seeds = ", ".join(map(str, about["seeds"]))
    one = len(about["seeds"]) == 1
    trained = about["trained_on"]
    accuracies = about["accuracy"].get("slots", {})
    values = Labels.from_json(about["intents"]).slots if accuracies else {}
    kind = "slot" if values else "intent"
    count = len(about["intents"])
    card = ModelCard.from_template(
        _card_data(about),
        template_path=str(_TEMPLATE),
        student=about["student"],
        corpus=corpus,
        kinds=f"{count} {kind}{'s' * (count != 1)}",
        slots=[
            (code(slot), accuracies[slot], ", ".join(map(code, own)))
            for slot, own in values.items()
        ],
        frame=f"{1000 * about['frame_step'] / about['sample_rate']:g}",
        accuracy=about["accuracy"],
        seeds=f"seed {seeds}" if one else f"the mean of seeds {seeds}",
        int8=about["weights"] == "int8",
        systems=results["systems"],
        temperature=about["temperature"],
        rejection=about["rejection"],
        measured=measured,
        utterances=f"{trained['utterances']['train']:,}",
        speakers=f"{trained['speakers']['train']:,}",
        encoder=escape(trained["encoder"]),
        explanation=_EXPLANATIONS[about["student"].split("-")[0]],
    )
    return str(card).rstrip() + "\n"


def _card_data(about: dict[str, Any]) -> ModelCardData:
    corpus, accuracy = about["trained_on"]["corpus"], about["accuracy"]
    results = [
        EvalResult(
            task_type="audio-classification",
            dataset_type=corpus,
            dataset_name=corpus,
            dataset_split=split,
            metric_type="accuracy",
            metric_value=round(accuracy[split] / 100, 6),
        )
        for split in ("valid", "test")
    ]
    return ModelCardData(
        model_name=about["student"],
        library_name="onnx",
        pipeline_tag="audio-classification",
        tags=["intent-classification", "spoken-language-understanding"],
        eval_results=results,
    )
