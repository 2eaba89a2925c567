"""The figures of the paper (ICASSP 2021), shown next to a result."""

CORPORA = {"atis": "ATIS", "fsc": "FSC"}

# Table 1; the paper has no valid split and does not count speakers or texts.
TABLE1: dict[str, dict[str, dict[str, float]]] = {
    "atis": {
        "train": {
            "utterances": 5253,
            "minutes": 569.90,
            "mean_seconds": 6.51,
            "intents": 15,
        },
        "test": {
            "utterances": 580,
            "minutes": 61.66,
            "mean_seconds": 6.37,
            "intents": 15,
        },
    },
    "fsc": {
        "train": {
            "utterances": 23132,
            "minutes": 882.95,
            "mean_seconds": 2.29,
            "intents": 31,
        },
        "test": {
            "utterances": 3793,
            "minutes": 154.58,
            "mean_seconds": 2.45,
            "intents": 31,
        },
    },
}

# Tables 2 and 3: test accuracy in percent by (system, α).
ACCURACY: dict[tuple[str, float | None], dict[str, float]] = {
    ("baseline1_text", None): {"atis": 93.73, "fsc": 100.0},
    ("baseline1_asr", None): {"atis": 89.65, "fsc": 95.33},
    ("baseline2", None): {"atis": 85.34, "fsc": 98.80},
    ("aln_linguistic", 0.5): {"atis": 85.00, "fsc": 97.20},
    ("aln_linguistic", 0.8): {"atis": 87.75, "fsc": 98.31},
    ("aln", 0.5): {"atis": 86.37, "fsc": 99.02},
    ("aln", 0.8): {"atis": 90.86, "fsc": 99.07},
}

# Table 2: word error rate on test in percent, of the authors' own recogniser.
WORD_ERROR_RATE = {"atis": 11.57, "fsc": 20.43}


def published_accuracy(kind: str, alpha: float | None) -> dict[str, float]:
    """The paper's test accuracy in percent by corpus; empty if it reports none."""
    return ACCURACY.get((kind, alpha), {})
