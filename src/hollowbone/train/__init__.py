"""Training, evaluation and use of models, without a budget."""

from hollowbone.train.evaluate import Evaluation, evaluate, predict
from hollowbone.train.recipe import Callback, Recipe
from hollowbone.train.trainer import State, Trained, train

__all__ = ["Callback", "Evaluation", "Recipe", "State", "Trained", "evaluate", "predict", "train"]
