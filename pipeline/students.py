"""What all students of a corpus read, from the parameters and the layout."""

from pipeline.layout import Layout
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
