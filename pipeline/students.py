"""What all students of a corpus read, from the parameters and the layout."""

from pathlib import Path

from pipeline.layout import Layout
from pipeline.params import Params
from stages.cache.digest import read_digest
from stages.student.inputs import Job
from stages.student.params import StudentParams


def shared_job(params: StudentParams, layout: Layout, device: str) -> Job:
    """The job whose paths every student of a sweep shares."""
    return Job(
        params=params,
        system="aln",
        alpha=params.alpha[0],
        manifest=layout.manifest,
        acoustic=layout.acoustic,
        acoustic_digest=layout.acoustic_digest,
        quarantine=layout.quarantine,
        targets=layout.targets,
        targets_digest=layout.targets_digest,
        device=device,
    )


def check_encoder(params: Params, layout: Layout) -> None:
    """See that the features are those of `acoustic.encoder`, where that is cheap.

    A checkpoint file that is there is read; of an encoder of transformers, or without
    the file, what was extracted is trained on. Decides nothing of a student, so that no
    stage of dvc.yaml depends on it: DVC extracts before it trains.

    Raises:
        CacheError: features of another encoder, or stored otherwise; or no digest.
        InputError: a damaged checkpoint.
    """
    path = Path(params.acoustic.encoder)
    if not path.is_file():
        return
    from stages.acoustic.encoding import check_features, feature_header, load_encoder

    check_features(
        layout.acoustic_digest,
        read_digest(layout.acoustic_digest).header,
        feature_header(load_encoder(params.acoustic), params.acoustic),
        encoder=params.acoustic.encoder,
        fix="run `aln-pipeline extract-acoustic`, or set acoustic.encoder back",
    )
