"""The teacher's other head: intents from the mean over the tokens, not from [CLS].

A folder of such a teacher is that of its encoder, as transformers' AutoModel loads it,
with the weights of the head in `head.safetensors`.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

HEAD_FILE = "head.safetensors"


class MeanClassifier(nn.Module):
    """One linear layer on E_lang: the mean of the last hidden states over real tokens.

    It has what this stage uses of transformers' own classifiers.
    """

    base_model: PreTrainedModel

    def __init__(self, encoder: PreTrainedModel, classes: int) -> None:
        super().__init__()
        self.base_model = encoder
        self.classifier = nn.Linear(encoder.config.hidden_size, classes)

    @classmethod
    def load(cls, encoder: PreTrainedModel, folder: Path) -> "MeanClassifier":
        """The classifier in `folder`, whose encoder is already loaded."""
        weights = load_file(folder / HEAD_FILE)
        model = cls(encoder, len(weights["bias"]))
        model.classifier.load_state_dict(weights)
        return model

    def save_pretrained(self, folder: Path) -> None:
        """Write the encoder and the head to `folder`."""
        self.base_model.save_pretrained(folder)
        save_file(self.classifier.state_dict(), folder / HEAD_FILE)

    @property
    def config(self) -> Any:
        """The configuration of the encoder."""
        return self.base_model.config

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.base_model.device

    def forward(
        self, attention_mask: Tensor, **inputs: Tensor
    ) -> SequenceClassifierOutput:
        """Logits (batch, classes) of tokens (batch, tokens)."""
        # (batch, tokens, hidden)
        states = self.base_model(
            attention_mask=attention_mask, **inputs
        ).last_hidden_state
        real = attention_mask.unsqueeze(-1).to(states.dtype)
        mean = (states * real).sum(1) / real.sum(1)  # (batch, hidden)
        return SequenceClassifierOutput(logits=self.classifier(mean))
