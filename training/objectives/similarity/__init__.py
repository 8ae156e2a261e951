"""RoFormer-Sim: vectors of similar sentences drawn together, and each sentence written from the other."""

from training.objectives.similarity.objective import SimilarityObjective

__all__ = ["SimilarityObjective"]
