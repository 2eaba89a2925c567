"""How stages are run: the command line, params.yaml, presets, status.

`from pipeline import IntentClassifier` classifies recordings with an exported model.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stages.inference.classifier import IntentClassifier as IntentClassifier


def __getattr__(name: str) -> Any:
    # Imported when asked for, so that the command line starts without onnxruntime.
    if name == "IntentClassifier":
        from stages.inference.classifier import IntentClassifier

        return IntentClassifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
