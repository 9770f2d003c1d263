"""Published studies done again, from one command: checkpoints made, measured and compared."""

from sllmbench.studies.sllm import StudyResult, study_sllm

__all__ = ["StudyResult", "study_sllm"]
