"""The main job: data and a budget in; a trained, exported, measured model and its report out."""

from hollowbone.fit.predict import predict_folder
from hollowbone.fit.run import Run, fit

__all__ = ["Run", "fit", "predict_folder"]
